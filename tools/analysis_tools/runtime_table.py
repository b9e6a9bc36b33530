"""Print the table of docs/runtimes.md: sizes, errors and times of networks in all installed runtimes.

    python tools/analysis_tools/runtime_table.py t2@192 s6@224 b1@256 --seconds 2

Files are float32 with batch size 1. Weights are random, chosen so that the scans affect the outputs. The
error is the largest difference from PyTorch with the naive scan, divided by the largest value. Times are
medians over interleaved calls on one thread; ratios are relative to ONNX Runtime.
"""

import argparse
from importlib.metadata import version

import benchmark_models
import torch
from benchmark import parse_model
from timing import describe_machine, measure

from mmmobilemamba.deployment.proof import difference
from mmmobilemamba.deployment.scan_effect import awakened
from mmmobilemamba.models import set_backend

PACKAGES = {'onnx': 'onnxruntime', 'litert': 'ai-edge-litert'}  # others are named like the runtime


def installed():
    """Names of the installed runtimes, ONNX Runtime first."""
    targets = benchmark_models.RUNTIMES.items()
    return ['onnx', *(name for name, target in targets if target.why_not() is None)]


def exported(network, image, name):
    """Export a network to a runtime."""
    if name == 'onnx':
        return benchmark_models.OnnxNetwork(network, image)
    return benchmark_models.RuntimeNetwork(network, image, benchmark_models.RUNTIMES[name])


def rows(model, seconds):
    """Yield the rows of the table for one model: name, height and width."""
    name, *size = model
    torch.manual_seed(0)
    image = torch.randn(1, 3, *size)
    network = benchmark_models.make_variant(benchmark_models.build(name), 'deploy', image)
    network = awakened(network, image)
    set_backend(network, 'naive')
    with torch.no_grad():
        expected = network(image)
    expected = expected if torch.is_tensor(expected) else expected[-1]
    networks = {runtime: exported(network, image, runtime) for runtime in installed()}
    steps = {runtime: lambda each=each: each(image) for runtime, each in networks.items()}
    timings = measure(steps, seconds, 'cpu')
    for runtime, each in networks.items():
        found = each(image)
        found = list(found.values() if isinstance(found, dict) else found)[-1]
        error = difference(expected, torch.from_numpy(found))
        cells = [name, f'{size[0]}x{size[1]}', runtime, version(PACKAGES.get(runtime, runtime))]
        cells += [f'{each.bytes / 2**20:.1f}', f'{error:.1e}', f'{timings[runtime].median:.1f}']
        yield [*cells, f'{timings[runtime].median / timings["onnx"].median:.2f}']


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('models', nargs='+', type=parse_model, metavar='MODEL@SIZE')
    parser.add_argument('--seconds', type=float, default=2.0, help='seconds per timing (default: 2)')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(', '.join(f'{key} {value}' for key, value in describe_machine('cpu').items()))
    titles = ['network', 'px', 'runtime', 'version', 'MiB', 'error', 'ms', 'ratio']
    print(f'| {" | ".join(titles)} |\n|{"---|" * len(titles)}')
    for model in args.models:
        for row in rows(model, args.seconds):
            print(f'| {" | ".join(row)} |', flush=True)


if __name__ == '__main__':
    main()
