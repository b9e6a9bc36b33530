"""Two processes of a gloo group."""

import os

import torch
from torch import distributed

from ..commands import share_imports
from ..quick_mmengine import leave_out_formatting

WORLD_SIZE = 2


def start(worker, folder, *args):
    """Run ``worker(rank, folder, *args)`` in two processes and wait for both.

    Args:
        worker (Callable): A function at module level.
        folder (Path): The folder with data and checkpoints, the working directory of the processes.
        *args: Further arguments; the first is a folder used by this call only.

    Raises:
        ProcessRaisedException: If a process fails; the message has its traceback.
    """
    share_imports()
    torch.multiprocessing.start_processes(
        _enter, (worker, folder, *args), WORLD_SIZE, start_method='forkserver'
    )


def _enter(rank, worker, folder, out, *args):
    os.chdir(folder)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD_SIZE))
    torch.set_num_threads(1)
    leave_out_formatting()
    store = f'file://{out}/store'
    distributed.init_process_group('gloo', init_method=store, rank=rank, world_size=WORLD_SIZE)
    worker(rank, folder, out, *args)
    distributed.destroy_process_group()
