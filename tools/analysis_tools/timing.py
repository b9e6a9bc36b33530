"""Time several functions in turn, and describe the machine, for the benchmarks."""

import os
import platform
import shutil
import statistics
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import torch

PACKAGES = ('mmmobilemamba', 'torch', 'mmengine', 'mmcv', 'mmcv-lite', 'timm')
BLOCK = 0.15  # s of consecutive calls, after an untimed call that refills the caches
MIN_ROUNDS = 5
WARM_UP = 3  # calls before a capture


class Timing(NamedTuple):
    """Durations of one function in ms: median, quartiles, and number of measurements."""

    median: float
    low: float
    high: float
    count: int


def measure(functions, seconds=2.0, device='cpu'):
    """Time functions in interleaved blocks, so that disturbances of the machine affect all of them.

    Args:
        functions (dict[str, Callable]): Called without arguments.
        seconds (float): Time for each function, without the warm-up; at least five blocks are measured.
        device (str): On a GPU, the calls of a block are timed together, because they are asynchronous.

    Returns:
        dict[str, Timing]: Timings by the names in ``functions``.
    """
    time_block = _time_on_gpu if torch.device(device).type == 'cuda' else _time_on_cpu
    block = min(BLOCK, seconds / MIN_ROUNDS)
    calls = {}
    for name, function in functions.items():
        for _ in range(2):
            last = time_block(function, 1)
        calls[name] = max(1, int(block / last[0]))
    durations = {name: [] for name in functions}
    rounds = max(MIN_ROUNDS, int(seconds / block))
    start = time.perf_counter()
    for number in range(rounds):
        if number >= MIN_ROUNDS and time.perf_counter() - start > seconds * len(functions):
            break
        for name, function in functions.items():
            function()
            durations[name] += time_block(function, calls[name])
    return {name: summarise(values) for name, values in durations.items()}


def _time_on_cpu(function, calls):
    """Duration of each call in s."""
    durations = []
    for _ in range(calls):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return durations


def _time_on_gpu(function, calls):
    """Mean duration of the calls in s, from the start of the first to the end of the last."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return [1e-3 * start.elapsed_time(end) / calls]


def capture(function, warm_up=WARM_UP):
    """Capture a function that runs on a GPU as a CUDA graph.

    Args:
        function (Callable): Called without arguments.
        warm_up (int): Calls before the capture, for initialisation and compilation.

    Returns:
        Callable: Replays the graph instead of calling the function.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()

    def replay(held=function):  # keeps the tensors of the graph alive
        graph.replay()

    return replay


def summarise(durations):
    """Summarise durations in s as a Timing."""
    low, median, high = statistics.quantiles(durations, n=4, method='inclusive')
    return Timing(1e3 * median, 1e3 * low, 1e3 * high, len(durations))


def describe_machine(device='cpu'):
    """Describe the machine: processor, cores, vector instructions, versions (dict[str, str])."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    found = dict(
        processor=_processor(),
        cores=str(cores),
        vectors=torch.backends.cpu.get_cpu_capability(),
        system=platform.platform(),
        python=platform.python_version(),
    )
    packages = PACKAGES
    if torch.device(device).type == 'cuda':
        found.update(_gpu(device))
        packages += ('triton',)
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _gpu(device):
    """Name, memory, driver and libraries of a GPU (dict[str, str])."""
    properties = torch.cuda.get_device_properties(device)
    found = dict(
        gpu=properties.name,
        gpu_memory=f'{properties.total_memory / 2**30:.0f} GiB',
        cuda=str(torch.version.cuda or torch.version.hip),
        cudnn=str(torch.backends.cudnn.version()),
    )
    if shutil.which('nvidia-smi'):
        query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
        answer = subprocess.run(query, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            found['driver'] = answer.stdout.split()[0]
    return found


def _processor():
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            names = [line.partition(':')[2].strip() for line in file if line.startswith('model name')]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
