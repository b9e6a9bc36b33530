"""Benchmark MobileMamba against other networks on a GPU, in minutes, with one command.

    python tools/analysis_tools/gpu_report.py --out report
    python tools/analysis_tools/gpu_report.py --out report --resume
    python tools/analysis_tools/gpu_report.py --out out --only training --models b1@256 timm/repvit_m1_1@224

Each network runs in its own process. Processes compile in parallel while nothing is timed; timing is strictly
sequential. Each network is measured in its faster memory format, which for MobileMamba on tensor cores is
channels last. MobileMamba has a classifier, like the other networks. Parts:

tests         tests of the repository that need a GPU
training      training steps under bfloat16 autocast: eager, as CUDA graphs, and compiled
inference     the same for folded networks in bfloat16; MobileMamba also in TF32 and float32
scan          the scans of MobileMamba
compile_time  the first training step with empty compiler caches
profile       time by kernel; by kind of kernel for peers that are faster and not more accurate
formats       MobileMamba in every precision and memory format

Parts about a single network use the last MobileMamba in --models. Networks are compiled in waves that share
the cores. The first wave has that MobileMamba and the fastest peers that are not more accurate. All parts run
before the second wave, and a wave that would exceed the time limit is skipped. Each part writes its JSON
while it runs, and report.md collects the tables of all parts so far. Failures are recorded, and the run
continues. With --resume, a second run on the same kind of GPU measures what is missing.
"""

import argparse
import sys
import time
from contextlib import suppress
from pathlib import Path

import benchmark_models
import torch
from benchmark import parse_model
from gpu_report_networks import CUDA_GRAPH, START
from gpu_report_parts import PARTS, begin, steps
from gpu_report_pool import Pool
from gpu_report_results import LOW, Part, is_of, load
from gpu_report_tests import HEAD_START, GpuTests
from gpu_report_worker import Settings
from timing import describe_machine

from mmmobilemamba.models.backbones.arch import ARCHS

NAMES = ('tests', *PARTS)
# Networks with a published accuracy, few enough for the time limit.
MODELS = (
    't2@192',
    't4@192',
    's6@224',
    'b1@256',
    'timm/repvit_m1_1@224',
    'timm/mobilenetv4_conv_medium@256',
    'timm/mobilenetv4_conv_small@224',
    'timm/fastvit_t12@256',
    'timm/efficientvit_m5@224',
    'timm/efficientvit_b1@224',
    'timm/efficientnet_b0@224',
    'timm/mobileone_s2@224',
    'timm/mambaout_femto@224',
    'timm/starnet_s4@224',
    'timm/shvit_s4@256',
)


class TimeUp(Exception):
    """The time limit for all parts is reached."""


class Report:
    """A run of all parts: settings, workers and time limit.

    Args:
        args (Namespace): Command line.

    Raises:
        ValueError: If the results to resume from are of another machine.
    """

    names = NAMES

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
        self.kept = load(self.out, NAMES, self.machine, self.settings) if args.resume else {}
        self.written = {}

    def elapsed(self):
        """Seconds since the start."""
        return time.monotonic() - self.begin

    def left(self):
        """Seconds until the time limit."""
        return self.end - time.monotonic()

    def limit(self, seconds, reserve=0):
        """``seconds``, limited to the remaining time less a reserve.

        Raises:
            TimeUp: If no time is left.
        """
        left = self.left() - reserve
        if left <= 0:
            raise TimeUp
        return min(seconds, left)

    def say(self, text):
        """Print progress."""
        print(f'[{self.elapsed():5.0f} s] {text}', flush=True)

    def part(self, name, **settings):
        """The results of a part; created on first use, from an earlier run with ``--resume``."""
        if name not in self.written:
            self.written[name] = Part(self, name, settings, self.kept.get(name))
        return self.written[name]

    def rows(self, name):
        """Results of a part so far (list)."""
        content = self.written[name].content if name in self.written else self.kept.get(name, {})
        return content.get('results', [])

    def row_of(self, job):
        """The result of a job (dict), empty if it was not measured."""
        rows = self.rows('training' if job.train else 'inference')
        return next((row for row in rows if is_of(row, **job._asdict())), {})

    def has_failed(self, job, what):
        """Whether a step (``what``) of a job has failed in this run."""
        part = self.written.get('training' if job.train else 'inference')
        errors = part.content['errors'] if part else []
        return any(is_of(row, **job._asdict(), what=what) for row in errors)

    def format_of(self, job):
        """The memory format in which a job was measured before; channels last if it was not."""
        return self.row_of(job).get('format', 'channels_last')

    def memory_of(self, job):
        """Measured GPU memory of a step of a job in bytes, or None."""
        return self.row_of(job).get('memory')

    def possible(self, variants):
        """The variants that this device supports (list)."""
        return [options for options in variants if self.on_gpu or CUDA_GRAPH not in options]

    def worker(self, job):
        """Name of the worker for a job."""
        return job.network if job.precision in LOW else f'{job.network} {job.precision}'

    def start(self, models, limit):
        """Start missing workers, see :meth:`Pool.start`."""
        missing = [name for name in models if name not in self.pool.workers]
        errors = self.pool.start(models, self.limit(limit)) if missing else {}
        if missing:
            self.say(f'{len(missing) - len(errors)} processes are ready')
        return errors

    def parallel(self, what, tasks, limit, reserve=0):
        """Run tasks in parallel, see :meth:`Pool.parallel`."""
        if not tasks:
            return {}, {}
        values, errors = self.pool.parallel(tasks, self.limit(limit, reserve))
        self.say(f'{what}: {len(values)} done, {len(errors)} failed')
        return values, errors

    def ask(self, name, method, *arguments, limit):
        """Call a method of one worker while all others are idle, see :meth:`Pool.alone`."""
        return self.pool.alone(name, method, *arguments, limit=self.limit(limit))

    def alone(self, job, method, *arguments, limit):
        """Like :meth:`ask`, for the worker of a job."""
        return self.ask(self.worker(job), method, *arguments, limit=limit)

    def run(self, names):
        """Run parts."""
        try:
            self.run_steps(names)
        except TimeUp:
            self.say('the time is up')
        finally:
            self.pool.close()

    def run_steps(self, names):
        """Run the tests, then all steps, until the time limit."""
        tests = self.start_tests() if 'tests' in names else None
        try:
            found = begin(self, names)
            if tests is not None:
                tests.wait(HEAD_START)
            self.start_workers(found)
        finally:
            if tests is not None:
                tests.finish(self.part('tests'), self.end)
        for name, step in steps(self, names, found):
            self.attempt(name, step)

    def start_tests(self):
        """Start the tests; returns None if an earlier run has finished them."""
        part = self.part('tests')
        return None if 'passed' in part.content else GpuTests()

    def start_workers(self, found):
        """Start the workers of all networks, which import in parallel; failed ones are retried later."""
        models = {}
        for name in ('training', 'inference'):
            models.update(found[name].needed() if name in found else {})
        with suppress(TimeUp):  # the first step raises it again
            self.start(models, START)

    def attempt(self, name, step):
        """Run a step of a part.

        Raises:
            TimeUp: If there is no time left.
        """
        try:
            step()
        except TimeUp:
            self.note(name, 'cut off: the time was up')
            raise
        except Exception as error:  # a failure of one part must not stop the others
            self.say(f'{name} FAILED: {type(error).__name__}: {error}')
            self.note(name, f'{type(error).__name__}: {error}')

    def note(self, name, error):
        """Record why a part is incomplete."""
        part = self.part(name)
        part.content['error'] = error
        part.save()


def focus_of(models):
    """The last MobileMamba in a list of models, ``(name, size)``, or None."""
    ours = [(name, tuple(size)) for name, *size in models if name in ARCHS]
    return ours[-1] if ours else None


def parse_args(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('--out', type=Path, required=True, help='folder for the results, created if missing')
    parser.add_argument(
        '--only', nargs='+', choices=NAMES, default=NAMES, metavar='PART', help='run only these parts'
    )
    parser.add_argument('--resume', action='store_true', help='keep the results in --out, measure the rest')
    parser.add_argument(
        '--models',
        nargs='+',
        type=parse_model,
        default=[parse_model(text) for text in MODELS],
        metavar='MODEL@SIZE',
        help=f'models as in benchmark.py (default: {" ".join(MODELS)})',
    )
    parser.add_argument('--train-batch', type=int, default=128)
    parser.add_argument('--inference-batch', type=int, nargs='+', default=[256, 1], help='the largest first')
    parser.add_argument('--seconds', type=float, default=0.3, help='seconds per timing (default: 0.3)')
    parser.add_argument('--limit', type=float, default=540, help='time limit in seconds (default: 540)')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--compile-backend', default='inductor', help='of torch.compile (default: inductor)')
    parser.add_argument('--cudnn-benchmark', action='store_true', help='set torch.backends.cudnn.benchmark')
    args = parser.parse_args(argv)
    try:
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check(args):
    """Check that everything can be measured, before the run starts.

    Raises:
        ValueError: If something cannot.
    """
    if torch.device(args.device).type == 'cuda' and not torch.cuda.is_available():
        raise ValueError('PyTorch sees no GPU; --device cpu tries out everything but CUDA graphs')
    for name, _, _ in args.models:
        benchmark_models.check_model(name)
    if focus_of(args.models) is None:
        raise ValueError(f'--models needs a MobileMamba, one of {sorted(ARCHS)}')


def main(argv=None):
    args = parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        report = Report(args)
    except ValueError as error:
        sys.exit(str(error))
    report.say(', '.join(f'{key} {value}' for key, value in report.machine.items()))
    report.run(args.only)
    report.say(f'done: {args.out / "report.md"}')


if __name__ == '__main__':
    main()
