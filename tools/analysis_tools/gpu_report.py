"""Measure MobileMamba beside other networks on a GPU, in minutes, with one command.

    python tools/analysis_tools/gpu_report.py --out report
    python tools/analysis_tools/gpu_report.py --out out --only training --models b1@256 timm/repvit_m1_1@224

Each network has a process of its own. While nothing is timed, all of them compile at the same time, and the
tests for GPUs run; then they are timed strictly one after the other. Each network is measured in the memory
format that is faster for it, MobileMamba with a classifier, as the others have one. Parts, the most important
first:

tests         tests of the repository that need a GPU
training      steps under autocast to bfloat16, as they are, compiled, and as CUDA graphs
inference     folded, in bfloat16, likewise; and MobileMamba in TF32 and float32
scan          the scans of MobileMamba
formats       MobileMamba in every precision and memory format
compile_time  the first training step with empty caches of compilers
profile       time by kernel; by kind of kernel of peers that are faster and not more accurate

Where MobileMamba stands alone, it is the last one of --models. Each part writes its JSON while it runs, and
report.md has the tables of all parts so far. What fails is recorded, and the rest goes on.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import benchmark_models
import gpu_report_tables
import torch
from benchmark import parse_model
from gpu_report_parts import CUDA_GRAPH, PARTS
from gpu_report_pool import Pool, WorkerError
from gpu_report_worker import Settings, variant
from published import networks
from timing import describe_machine

from mmmobilemamba.models.backbones.arch import ARCHS

ROOT = Path(__file__).resolve().parents[2]
TESTS = (
    'tests/test_on_a_gpu.py',
    'tests/test_ops/test_triton*.py',
)
SELECTED = 'gpu'  # those that have it in their names
TESTS_LIMIT, INTERRUPTED = 150, 5  # s that they may take, and then to end
KEPT_OUTPUT = 20_000  # characters


class TimeUp(Exception):
    """The time for all parts is over."""


class GpuTests:
    """Tests of the repository, in a process beside what is not timed."""

    def __init__(self):
        paths = [str(path) for pattern in TESTS for path in sorted(ROOT.glob(pattern))]
        command = [
            sys.executable,
            '-m',
            'pytest',
            '-q',
            '-ra',
            '-p',
            'no:cacheprovider',
            '-k',
            SELECTED,
            *paths,
        ]
        if find_spec('xdist') is not None:
            command += ['-n', '6']
        self.begin = time.monotonic()
        self.folder = tempfile.TemporaryDirectory()
        self.log = Path(self.folder.name) / 'log'
        with self.log.open('w') as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

    def finish(self, part, end):
        """Wait for their end, not longer than to ``end`` (of ``time.monotonic``), and record it."""
        try:
            self.process.wait(max(0.0, min(end, self.begin + TESTS_LIMIT) - time.monotonic()))
        except subprocess.TimeoutExpired:
            part.content['error'] = f'not done after {time.monotonic() - self.begin:.0f} s'
            self.stop()
        part.content.update(
            passed=self.process.returncode == 0,
            seconds=time.monotonic() - self.begin,
            output=self.log.read_text(errors='replace')[-KEPT_OUTPUT:],
        )
        self.folder.cleanup()
        part.save()

    def stop(self):
        """Let pytest say what has failed so far, and end it."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(INTERRUPTED)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Part:
    """What a part has found, in a file that is written anew with each result."""

    def __init__(self, report, name, settings):
        self.report, self.name = report, name
        machine = report.machine
        settings = dict(settings, device=report.settings.device, seconds=report.settings.seconds)
        settings.update(
            compile_backend=report.settings.compile_backend, cudnn_benchmark=report.settings.cudnn_benchmark
        )
        self.content = dict(part=name, machine=machine, settings=settings, results=[], errors=[])
        self.save()

    def save(self):
        """Write the JSON, and all tables."""
        self.content['elapsed'] = round(self.report.elapsed(), 1)
        (self.report.out / f'{self.name}.json').write_text(json.dumps(self.content, indent=2) + '\n')
        contents = {name: part.content for name, part in self.report.written.items()}
        contents[self.name] = self.content
        (self.report.out / 'report.md').write_text(gpu_report_tables.render(contents))

    def add(self, row, to='results'):
        """Record a result (dict)."""
        self.content.setdefault(to, []).append(row)
        self.save()

    def describe(self, job, memory_format, options):
        """What was measured (dict)."""
        row = dict(job._asdict(), threads=1, variant=variant(job, memory_format, options))
        return dict(row, options=options, format=memory_format)

    def add_timing(self, job, memory_format, options, timing):
        """Record a timing (dict) of a job; what is not in bfloat16 has a list of its own."""
        to = 'results' if job.precision in ('amp', 'bfloat16') else 'precisions'
        self.add(dict(self.describe(job, memory_format, options), **timing), to)
        self.report.say(
            f'{self.name}: {job.network} batch {job.batch} {job.precision} {memory_format} '
            f'{options or "eager"}: {timing["median"]:.3f} ms, {timing["images_per_second"]:.0f} images/s'
        )

    def fail(self, errors, what):
        """Record what jobs failed with (dict of job to text)."""
        for job, error in errors.items():
            self.add(dict(job._asdict(), what=what, error=error), 'errors')
            self.report.say(f'{self.name}: {job.network} {what} FAILED: {error[:300]}')

    @contextmanager
    def recording(self, job, what):
        """Record what a worker could not do, instead of raising it."""
        try:
            yield
        except WorkerError as error:
            self.fail({job: str(error)}, what or 'eager')


class Report:
    """The run of all parts: its settings, its workers, its time."""

    def __init__(self, args):
        self.begin = time.monotonic()
        self.out, self.end = args.out, self.begin + args.limit
        self.settings = Settings(args.device, args.seconds, args.compile_backend, args.cudnn_benchmark)
        self.on_gpu = torch.device(args.device).type == 'cuda'
        self.models = [(name, tuple(size)) for name, *size in args.models]
        self.focus = focus_of(args.models)
        self.train_batch, self.inference_batches = args.train_batch, args.inference_batch
        self.precisions = ('tf32', 'float32') if self.on_gpu else ('float32',)
        self.machine = describe_machine(args.device)
        memory = torch.cuda.get_device_properties(args.device).total_memory if self.on_gpu else float('inf')
        self.pool = Pool(self.settings, memory)
        self.written = {}
        self.tests = None

    def elapsed(self):
        """Seconds since the start."""
        return time.monotonic() - self.begin

    def limit(self, seconds):
        """At most as many seconds as are left.

        Raises:
            TimeUp: If none are.
        """
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeUp
        return min(seconds, left)

    def say(self, text):
        """Print progress."""
        print(f'[{self.elapsed():5.0f} s] {text}', flush=True)

    def part(self, name, **settings):
        """Begin a part."""
        self.written[name] = Part(self, name, settings)
        self.say(f'{name} begins')
        return self.written[name]

    def rows(self, name):
        """Results of a part so far (list)."""
        return self.written[name].content['results'] if name in self.written else []

    def possible(self, variants):
        """Those of some variants that this device has (list)."""
        return [options for options in variants if self.on_gpu or CUDA_GRAPH not in options]

    def worker(self, job):
        """Name of the worker that has a job's network."""
        return job.network if job.precision in ('amp', 'bfloat16') else f'{job.network} {job.precision}'

    def format_of(self, job):
        """The memory format that a job was measured in before, or else channels last."""
        for row in self.rows('training' if job.train else 'inference'):
            if (row['model'], row['size'], row['batch']) == (job.model, job.size, job.batch):
                return row['format']
        return 'channels_last'

    def start(self, models, limit):
        """Start workers, see :meth:`Pool.start`."""
        errors = self.pool.start(models, self.limit(limit))
        self.say(f'{len(self.pool.workers)} processes are ready')
        return errors

    def parallel(self, what, tasks, limit):
        """Let workers work at the same time, see :meth:`Pool.parallel`."""
        values, errors = self.pool.parallel(tasks, self.limit(limit))
        self.say(f'{what}: {len(values)} done, {len(errors)} failed')
        return values, errors

    def finish_tests(self):
        """Wait for the tests, if they run."""
        if self.tests is not None:
            self.tests.finish(self.written['tests'], self.end)
            self.tests = None

    def ask(self, name, method, *arguments, limit):
        """What one worker returns while all others wait, see :meth:`Pool.alone`."""
        self.finish_tests()
        return self.pool.alone(name, method, *arguments, limit=self.limit(limit))

    def alone(self, job, method, *arguments, limit):
        """The same, of the worker of a job."""
        return self.ask(self.worker(job), method, *arguments, limit=limit)

    def run(self, names):
        """Run parts."""
        if 'tests' in names:
            self.part('tests')
            self.tests = GpuTests()
        for name in PARTS:
            if name not in names:
                continue
            try:
                PARTS[name](self)
            except TimeUp:
                self.say(f'the time is up in {name}')
                self.note(name, 'cut off: the time was up')
                break
            except Exception as error:  # whatever one part fails with, the others are worth having
                self.say(f'{name} FAILED: {type(error).__name__}: {error}')
                self.note(name, f'{type(error).__name__}: {error}')
        self.finish_tests()
        self.pool.close()

    def note(self, name, error):
        """Record why a part is not complete."""
        part = self.written.get(name) or self.part(name)
        part.content['error'] = error
        part.save()


def focus_of(models):
    """The last MobileMamba of some models, ``(name, size)``, or None."""
    ours = [(name, tuple(size)) for name, *size in models if name in ARCHS]
    return ours[-1] if ours else None


def parse_args(argv):
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('--out', type=Path, required=True, help='folder of the results, made if need be')
    names = ('tests', *PARTS)
    parser.add_argument('--only', nargs='+', choices=names, default=names, metavar='PART', help='these parts')
    parser.add_argument(
        '--models',
        nargs='+',
        type=parse_model,
        default=[(name, size, size) for name, size in networks()],
        metavar='MODEL@SIZE',
        help='as benchmark.py takes them (default: all with a published accuracy)',
    )
    parser.add_argument('--train-batch', type=int, default=128)
    parser.add_argument('--inference-batch', type=int, nargs='+', default=[256, 1], help='the largest first')
    parser.add_argument('--seconds', type=float, default=0.3, help='to spend on a timing (default: 0.3)')
    parser.add_argument('--limit', type=float, default=540, help='seconds for all parts (default: 540)')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--compile-backend', default='inductor', help='of torch.compile (default: inductor)')
    parser.add_argument(
        '--cudnn-benchmark', action='store_true', help='let cuDNN time its algorithms for each size'
    )
    args = parser.parse_args(argv)
    try:
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check(args):
    """Make sure that all can be measured, before time is lost.

    Raises:
        ValueError: If something cannot.
    """
    if torch.device(args.device).type == 'cuda' and not torch.cuda.is_available():
        raise ValueError('PyTorch sees no GPU; --device cpu tries out everything but CUDA graphs')
    for name, _, _ in args.models:
        if benchmark_models.is_file(name):
            benchmark_models.load_function(name)
    if focus_of(args.models) is None:
        raise ValueError(f'--models needs a MobileMamba, one of {sorted(ARCHS)}')


def main(argv=None):
    args = parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    report = Report(args)
    report.say(', '.join(f'{key} {value}' for key, value in report.machine.items()))
    report.run(args.only)
    report.say(f'done: {args.out / "report.md"}')


if __name__ == '__main__':
    main()
