"""The Runner for distributed and mixed precision training without a GPU."""

import os
import socket

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import distributed, nn

from mmmobilemamba.engine import CPUAmpOptimWrapper, PortableRunner
from mmmobilemamba.engine.runners import cpu_wrapper


class Line(BaseModel):
    """y = w x; the loss is the mean of y."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs, mode='tensor'):
        return dict(loss=(self.weight * torch.stack(inputs)).mean())


def build(work_dir, launcher, **kwargs):
    """A Runner for two iterations on the numbers 0 to 3; each of two processes gets every other number."""
    return PortableRunner(
        model=Line(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.tensor([float(number)])) for number in range(4)],
            batch_size=1,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
        default_hooks=dict(checkpoint=None),
        launcher=launcher,
        experiment_name=f'{work_dir.name}_{launcher}',
        log_level='ERROR',
        **kwargs,
    )


def worker(rank, folder):
    """One of two processes, started as by torchrun."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=(folder / 'port').read_text())
    runner = build(folder, 'pytorch')
    assert distributed.get_backend() == 'gloo'
    assert type(runner.model) is MMDistributedDataParallel
    assert (runner.model.device_ids, runner.model.broadcast_buffers) == (None, False)
    runner.train()
    torch.save((runner.iter, runner.model.module.weight.item()), folder / f'rank{rank}.pth')
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU, which mmengine can use itself')
def test_two_processes(tmp_path):
    """The weight is 1 - (0 + 1) / 2 - (2 + 3) / 2 = -2 in both processes."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        (tmp_path / 'port').write_text(str(free.getsockname()[1]))
    torch.multiprocessing.start_processes(worker, (tmp_path,), 2, start_method='spawn')
    for rank in (0, 1):
        assert torch.load(tmp_path / f'rank{rank}.pth') == (2, -2.0)


def test_one_process_is_as_ever(tmp_path):
    """The weight is 1 - 0 - 1 - 2 - 3."""
    runner = build(tmp_path, 'none')
    assert type(runner.model) is Line and not distributed.is_initialized()
    runner.train()
    assert runner.model.weight.item() == pytest.approx(-5)


def test_it_is_found_by_name():
    assert RUNNERS.get('PortableRunner') is PortableRunner
    assert issubclass(PortableRunner, Runner)


def test_wrapper_of_a_cpu():
    """The defaults are mmengine's except for the device; settings of a config are kept."""
    ddp = dict(type='MMDistributedDataParallel', device_ids=None)
    assert cpu_wrapper() == dict(**ddp, broadcast_buffers=False, find_unused_parameters=False)
    assert cpu_wrapper(find_unused_parameters=True)['find_unused_parameters'] is True
    given = ConfigDict(type='MMDistributedDataParallel', static_graph=True)
    assert cpu_wrapper(given) == dict(**ddp, static_graph=True)
    assert cpu_wrapper(ConfigDict(broadcast_buffers=True)) == dict(**ddp, broadcast_buffers=True)
    other = dict(type='MMFullyShardedDataParallel', use_orig_params=True)
    assert cpu_wrapper(other) == other


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU, which has its own mixed precision')
def test_mixed_precision(tmp_path):
    """The settings of ``--amp``, including the loss scaling of float16, become bfloat16."""
    runner = build(tmp_path, 'none')
    amp = dict(type='AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(type='SGD', lr=1.0))
    wrapper = runner.build_optim_wrapper({**amp, 'clip_grad': dict(max_norm=1.0)})
    assert type(wrapper) is CPUAmpOptimWrapper and wrapper.clip_grad_kwargs == dict(max_norm=1.0)
    assert amp['type'] == 'AmpOptimWrapper'
    plain = runner.build_optim_wrapper(dict(type='OptimWrapper', optimizer=amp['optimizer']))
    assert type(plain) is OptimWrapper
