"""Print where the time of a network goes in ONNX Runtime, by kind of operator.

    python tools/analysis_tools/onnx_profile.py b1@256 timm/mobilenetv4_conv_medium@256
    python tools/analysis_tools/onnx_profile.py model.onnx@320
    python tools/analysis_tools/onnx_profile.py b1@256 --custom-ops

Networks are named as in ``benchmark.py`` and deployed first; files are run as they are, at the given size,
those of ``export.py --custom-ops`` with the library beside them. All run on one thread with batch size 1.
A kind's time is the sum over its nodes of their medians, in ms, as ONNX Runtime's profiler measures them;
profiling itself adds a few microseconds per node. The total is the median time of a run without profiling.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import benchmark_models
import onnxruntime
import torch
from benchmark import parse_model

from mmmobilemamba.deployment.errors import DeploymentError
from mmmobilemamba.ops.cpu.build import BuildError, find_library

runtimes = benchmark_models.load_runtimes()

WARM_UP, RUNS = 5, 30
LEAST = 0.01  # of the time; rarer kinds are summed as the rest


def open_profiled(source, library, folder):
    """Open a file (Path) or the bytes of one in ONNX Runtime, with its profiler on."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(folder, 'profile'))
    if library is not None:
        options.register_custom_ops_library(str(library))
    source = str(source) if isinstance(source, Path) else source
    return onnxruntime.InferenceSession(source, options, providers=['CPUExecutionProvider'])


def content_of(name, size, custom_ops):
    """The file (Path) or the content (bytes) of an exported network, and the library it needs, or None."""
    if Path(name).suffix == '.onnx':
        runtimes.open_file(name)  # fails with a message that says what is missing
        library = runtimes.library_of(Path(name).resolve())
        return Path(name), library if library.is_file() else None
    image = torch.rand(1, 3, *size)
    network = benchmark_models.make_variant(benchmark_models.build(name), 'deploy', image)
    exported = benchmark_models.OnnxNetwork(network, image, 'onnx_custom' if custom_ops else 'onnx')
    return exported.content, find_library() if custom_ops else None


def node_times(events):
    """Median time of each node in ms, by its kind and name (dict), from the profiler's events (list)."""
    times = defaultdict(list)
    for event in events:
        if event.get('cat') == 'Node' and event['name'].endswith('_kernel_time'):
            times[event['args']['op_name'], event['name']].append(event['dur'] / 1000)
    return {key: statistics.median(values) for key, values in times.items()}


def profile(name, size, custom_ops=False):
    """Times of a network, with the operators of ``export.py --custom-ops`` if wanted.

    Returns:
        tuple[float, dict]: ms of a run; and (number of nodes, ms) by kind of operator, the slowest first.
    """
    content, library = content_of(name, size, custom_ops)
    image = torch.rand(1, 3, *size).numpy()
    with tempfile.TemporaryDirectory() as folder:
        session = open_profiled(content, library, folder)
        feed = {session.get_inputs()[0].name: image}
        for _ in range(RUNS):
            session.run(None, feed)
        found = node_times(json.loads(Path(session.end_profiling()).read_text()))
    numbers, sums = Counter(), Counter()
    for (kind, _), value in found.items():
        numbers[kind] += 1
        sums[kind] += value
    return plain_time(content, library, feed), {
        kind: (numbers[kind], value) for kind, value in sums.most_common()
    }


def plain_time(content, library, feed):
    """Median time of a run without profiling, in ms."""
    from mmmobilemamba.deployment.onnx_file import open_session  # needs what exports need

    session, times = open_session(content, 1, library), []
    for _ in range(WARM_UP + RUNS):
        start = time.perf_counter()
        session.run(None, feed)
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times[WARM_UP:])


def table(name, size, total, kinds):
    """Lines of a Markdown table (list[str])."""
    whole = sum(value for _, value in kinds.values())
    lines = [
        f'| {name} @ {"x".join(map(str, size))}: {total:.1f} ms | nodes | ms | share |',
        '|---|---|---|---|',
    ]
    shown = {kind: row for kind, row in kinds.items() if row[1] >= LEAST * whole}
    rest = [row for kind, row in kinds.items() if kind not in shown]
    if rest:
        shown['the rest'] = tuple(map(sum, zip(*rest)))
    return lines + [
        f'| {kind} | {number} | {value:.2f} | {value / whole:.0%} |'
        for kind, (number, value) in shown.items()
    ]


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    text = 'network or .onnx file, and size in pixels, such as b1@256, timm/NAME@224x320, model.onnx@256'
    parser.add_argument('models', nargs='+', type=parse_model, metavar='NAME@SIZE', help=text)
    text = "export networks with this package's own operators, as export.py --custom-ops does"
    parser.add_argument('--custom-ops', action='store_true', help=text)
    args = parser.parse_args(argv)
    for name, *size in args.models:
        try:
            found = profile(name, size, args.custom_ops)
        except (BuildError, DeploymentError, runtimes.RuntimeFileError) as error:
            sys.exit(f'onnx_profile.py: error: {name}: {error}')
        print('\n'.join(['', *table(name, size, *found)]), flush=True)


if __name__ == '__main__':
    main()
