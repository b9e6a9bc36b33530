"""Print where the time of a network's convolutions goes on a CPU, by kind and output size.

    python tools/analysis_tools/conv_profile.py b1@256 t2@192

Networks are named as in ``benchmark.py``, deployed and prepared (``prepare_for_cpu``), and run on one thread
with batch size 1. ``ms`` is the time inside the network, ``ms, cached`` that of the same convolution repeated
immediately, when its weights and its input are in the cache: the difference is the wait for memory. GMAC/s
are those inside the network. The total is the median of runs without the measurement of each convolution.
"""

import argparse
import statistics
import time
from collections import defaultdict
from typing import NamedTuple

import benchmark_models
import torch
from benchmark import parse_model

from mmmobilemamba.models.prepare_for_cpu import PreparedConv2d

WARM_UP, RUNS, REPEATS = 5, 30, 20


class Layer(NamedTuple):
    """Size and times of one convolution, or the sums of several."""

    number: int
    macs: int
    weight_bytes: int
    ms: float
    cached_ms: float


def kind_of(weight, output):
    """Kind and output size of a convolution."""
    side, height, width = weight.shape[-1], *output.shape[2:]
    name = 'pointwise' if side == 1 else f'{side} x {side}'
    return f'{"depthwise " if weight.shape[1] == 1 else ""}{name}, {height} x {width}'


def median_ms(function, runs):
    """Median duration of a call in ms."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def times_in_place(network, image):
    """Durations of the prepared convolutions inside the network.

    Returns:
        dict: Inputs (tuple), output (Tensor) and median duration in ms by convolution.
    """
    starts, durations, calls = {}, defaultdict(list), {}

    def start(conv, inputs):
        starts[conv] = time.perf_counter()

    def stop(conv, inputs, output):
        durations[conv].append(time.perf_counter() - starts[conv])
        calls[conv] = inputs, output

    convs = [module for module in network.modules() if isinstance(module, PreparedConv2d)]
    hooks = [conv.register_forward_pre_hook(start) for conv in convs]
    hooks += [conv.register_forward_hook(stop) for conv in convs]
    for _ in range(RUNS):
        network(image)
    for hook in hooks:
        hook.remove()
    return {conv: (*calls[conv], 1e3 * statistics.median(durations[conv])) for conv in calls}


@torch.no_grad()
def profile(name, size):
    """Times of a network on one thread.

    Returns:
        tuple[float, dict[str, Layer]]: ms of a run; and sums by kind of convolution, the slowest first.
    """
    torch.set_num_threads(1)
    image = torch.rand(1, 3, *size)
    network = benchmark_models.make_variant(benchmark_models.build(name), 'deploy+prepare', image)
    total = median_ms(lambda: network(image), WARM_UP + RUNS)
    sums = {}
    for conv, (inputs, output, ms) in times_in_place(network, image).items():
        numel = conv.weight.numel()
        cached = median_ms(lambda conv=conv, inputs=inputs: conv(*inputs), REPEATS)
        layer = Layer(1, numel * output[0, 0].numel(), 4 * numel, ms, cached)
        kind = kind_of(conv.weight, output)
        sums[kind] = Layer(*map(sum, zip(sums.get(kind, (0,) * len(layer)), layer)))
    return total, dict(sorted(sums.items(), key=lambda item: -item[1].ms))


def table(name, size, total, sums):
    """Lines of a Markdown table (list[str])."""
    rows = {**sums, 'all convolutions': Layer(*map(sum, zip(*sums.values())))}
    titles = (
        f'{name} @ {"x".join(map(str, size))}: {total:.1f} ms',
        *('number', 'MMAC', 'MiB of weights', 'ms', 'ms, cached', 'GMAC/s'),
    )
    lines = [f'| {" | ".join(titles)} |', '|---' * len(titles) + '|']
    for kind, layer in rows.items():
        cells = [f'{layer.number}', f'{layer.macs / 1e6:.1f}', f'{layer.weight_bytes / 2**20:.1f}']
        cells += [f'{layer.ms:.2f}', f'{layer.cached_ms:.2f}', f'{layer.macs / layer.ms / 1e6:.0f}']
        lines.append(f'| {kind} | {" | ".join(cells)} |')
    return lines


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    text = 'network and size in pixels, such as b1@256, timm/NAME@224x320'
    parser.add_argument('models', nargs='+', type=parse_model, metavar='NAME@SIZE', help=text)
    for name, *size in parser.parse_args(argv).models:
        print('\n'.join(['', *table(name, size, *profile(name, size))]), flush=True)


if __name__ == '__main__':
    main()
