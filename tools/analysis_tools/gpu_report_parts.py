"""The parts of ``gpu_report.py`` about a single network, and the order of all parts."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import zip_longest
from pathlib import Path

from gpu_report_networks import (
    COMPILE,
    COMPILED,
    CUDA_GRAPH,
    START,
    TIMING,
    Key,
    inference,
    training,
    warm_up,
    warm_up_tasks,
)
from gpu_report_order import CORES, WIDTH, faster_peers
from gpu_report_pool import Task, WorkerError
from gpu_report_worker import FORMATS, Job, ScanJob

PARTS = ('training', 'inference', 'scan', 'compile_time', 'profile', 'formats')
LOWEST = {True: 'amp', False: 'bfloat16'}  # precision in which all networks are measured, by training or not
MOST_MEMORY = 3  # upper bound for a step in any precision and memory format, as a multiple of LOWEST
STAGES, SCAN_WORKERS = 3, 6
TOP_KERNELS = 25
FIRST_STEP = 150  # timeout in s for the first step of a compiled training
# Kinds of kernels by name; the first match counts. Names of kernels that torch.compile fused also list other
# operations, so their pattern comes first.
MATMUL, ELEMENTWISE = 'convolution, matmul', 'elementwise, norm'
KINDS = (
    (ELEMENTWISE, r'^triton_(poi|red|per|for)_'),
    ('scan', r'scan|^_(summaries|link)'),
    (ELEMENTWISE, r'bn_|batch_?norm|layer_?norm|norm_gate|dwt'),
    (MATMUL, r'conv|depthwise|gem[mv]|cutlass|xmma|nvjet|cudnn|[wd]grad|grad_(input|weight)|sum_shares'),
    (MATMUL, r'fprop|winograd|mm|splitk|attention|flash|nchwto|nhwcto'),
    (ELEMENTWISE, r'elementwise|reduce|catarray|copy|softmax|pool|fill|foreach|triton_|aten::'),
)


def begin(report, names):
    """Create the parts training, inference and scan, whose warm-ups overlap with other parts (dict)."""
    makers = dict(training=training, inference=inference, scan=Scans)
    return {name: make(report) for name, make in makers.items() if name in names}


def steps(report, names, found):
    """All steps of a run, the most important first.

    Args:
        report (Report): The run.
        names (Iterable[str]): Parts to measure.
        found (dict): From :func:`begin`.

    Yields:
        tuple[str, Callable]: Name of the part, and a function without arguments.
    """
    networks = [found[name] for name in ('training', 'inference') if name in found]
    prepared = list(found.values())
    for one, following in zip_longest(networks, prepared[1:]):
        yield one.name, one.time_uncompiled
        beside = following.warm_up_tasks if following is not None else list
        yield one.name, partial(one.next_wave, beside)
    if 'scan' in names:
        yield 'scan', found['scan'].run
    for name, function in (('compile_time', compile_time), ('profile', profile_focus), ('formats', formats)):
        if name in names:
            yield name, partial(function, report)
    while any(one.waves for one in networks):
        for one in networks:
            yield one.name, one.next_wave
    if 'profile' in names:
        yield 'profile', partial(profile_peers, report)


class Scans:
    """Scans of one network, with and without backward, in two dtypes."""

    def __init__(self, report):
        (arch, size), batch = report.focus, report.inference_batches[0]
        self.report, self.part = report, report.part('scan', model=arch, size=size, batch=batch)
        jobs = [
            ScanJob(arch, size, stage, batch, train, dtype)
            for train in (False, True)
            for dtype in ('float32', 'bfloat16')
            for stage in range(STAGES)
        ]
        self.jobs = [job for job in jobs if not self.part.find(**job._asdict())]
        self.workers = {}  # name of the worker that compiled the scan, by job

    def warm_up_tasks(self):
        """Tasks that compile the scans that are not compiled yet (list)."""
        workers = self.report.pool.workers
        # Last workers first: the first ones are compiling networks.
        names = list(workers)[::-1][:SCAN_WORKERS]
        tasks = []
        for job in self.jobs:
            if self.workers.get(job) not in workers:
                # One worker runs a scan with and without backward, to compile the forward pass once.
                number = job.stage + STAGES * (job.dtype == 'bfloat16')
                name = names[number % len(names)]
                done = partial(self.note_compiled, job, name)
                tasks.append(Task(Key('scan', 'scan', job), name, 'warm_up_scan', (job,), done=done))
        return tasks

    def note_compiled(self, job, name, _):
        """Record which worker compiled a scan."""
        self.workers[job] = name

    def run(self):
        """Time all scans."""
        report, part = self.report, self.part
        if not self.jobs:
            return
        if not report.pool.workers:
            report.start({f'scan {number}': '' for number in range(min(SCAN_WORKERS, CORES))}, START)
        _, errors = report.parallel('compilation of scans', self.warm_up_tasks(), COMPILE)
        for key, error in errors.items():
            part.add(dict(key.job._asdict(), error=error), 'errors')
        for job in [job for job in self.jobs if job in self.workers]:
            row = dict(job._asdict(), backend='triton+cuda_graph' if report.on_gpu else 'auto')
            try:
                timing = report.ask(self.workers[job], 'time_scan', job, limit=TIMING)
            except WorkerError as error:
                part.add(dict(row, error=str(error)), 'errors')
            else:
                part.add(dict(row, **timing))
                report.say(
                    f'scan: stage {job.stage}, {job.dtype}, train {job.train}: {timing["median"]:.4f} ms'
                )


def formats(report):
    """One network in every precision and memory format, in training and inference."""
    name, size = report.focus
    part = report.part('formats', model=name, size=size)
    options = report.possible(('', CUDA_GRAPH))[-1]
    jobs = []
    for train, batch in ((True, report.train_batch), (False, report.inference_batches[0])):
        for precision in (LOWEST[train], *report.precisions):
            job = Job(name, size, batch, train, precision)
            if len(part.find(**job._asdict())) < len(FORMATS):
                jobs.append(job)
    memory = {job: report.memory_of(job._replace(precision=LOWEST[job.train])) for job in jobs}
    tasks = [warm_up_in_formats(report, job, MOST_MEMORY * (memory[job] or 0)) for job in jobs]
    failed = warm_up(report, part, tasks)
    for job in [job for job in jobs if job not in failed]:
        with part.recording(job, options):
            timings = report.alone(job, 'time_formats', job, options, limit=TIMING)
            for memory_format, timing in timings.items():
                if not part.find(**job._asdict(), format=memory_format):
                    part.add_timing(job, memory_format, options, timing)


def warm_up_in_formats(report, job, needed):
    """Task that runs steps with the whole batch in both memory formats."""
    arguments = (job, job.batch, FORMATS)
    return Task(Key('formats', 'warm-up', job), report.worker(job), 'warm_up', arguments, needed)


def compile_time(report):
    """Duration of the first training step of a compiled network, with empty compiler caches."""
    name, size = report.focus
    part = report.part('compile_time', model=name, size=size, batch=report.train_batch, precision='amp')
    if part.find():
        return
    script = Path(__file__).with_name('gpu_report_worker.py')
    arguments = json.dumps([name, size, report.train_batch, report.settings])
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH'))))
    with tempfile.TemporaryDirectory() as folder:
        caches = dict(TORCHINDUCTOR_CACHE_DIR=f'{folder}/inductor', TRITON_CACHE_DIR=f'{folder}/triton')
        done = subprocess.run(
            [sys.executable, str(script), arguments],
            env=dict(os.environ, PYTHONPATH=path, **caches),
            capture_output=True,
            text=True,
            check=False,
            timeout=report.limit(FIRST_STEP),
        )
    if done.returncode:
        raise WorkerError(f'exit code {done.returncode}: {done.stderr[-2000:]}')
    row = json.loads(done.stdout.splitlines()[-1])
    part.add(row)
    report.say(f'compile_time: first step {row["first_step"]:.1f} s, second {row["second_step"]:.3f} s')


def profile_focus(report):
    """Profile the kernels of one network, in training and inference."""
    jobs = [
        Job(*report.focus, report.train_batch, True, 'amp'),
        Job(*report.focus, report.inference_batches[0], False, 'bfloat16'),
    ]
    profile(report, jobs)


def profile_peers(report):
    """Profile peers that are faster than an equally accurate MobileMamba, a few at a time."""
    jobs = list(dict.fromkeys(faster_peers(report)))
    last = 0.0
    for start in range(0, len(jobs), WIDTH):
        begin, left, few = time.monotonic(), report.left(), jobs[start : start + WIDTH]
        if left < last:
            names = ', '.join(job.network for job in few)
            report.part('profile').skip(f'{names}: {left:.0f} s left, the last ones took {last:.0f} s')
            continue
        profile(report, few)
        last = time.monotonic() - begin


def profile(report, jobs):
    """Profile compiled networks; earlier compilations are reused."""
    part = report.part('profile')
    jobs = [job for job in jobs if not part.find(**job._asdict()) and not report.has_failed(job, COMPILED)]
    memory = {job: report.memory_of(job) for job in jobs if report.memory_of(job) is not None}
    others = [job for job in jobs if job not in memory]
    tasks = warm_up_tasks(report, 'profile', others, lambda job: (report.format_of(job),), memory)
    warm_up(report, part, tasks)
    formats = {job: report.format_of(job) for job in jobs if job in memory}
    report.start({report.worker(job): job.model for job in formats}, START)
    tasks = [
        Task(Key('profile', COMPILED, job), report.worker(job), 'compile', (job, name), memory[job])
        for job, name in formats.items()
    ]
    _, errors = report.parallel('compilation', tasks, COMPILE)
    for key, error in errors.items():
        part.fail(key.job, COMPILED, error)
    for job in [task.key.job for task in tasks if task.key not in errors]:
        with part.recording(job, 'profile'):
            kernels = report.alone(job, 'profile', job, formats[job], COMPILED, limit=TIMING)
            row = part.describe(job, formats[job], COMPILED)
            row.update(total=sum(kernel[2] for kernel in kernels), sums=sums_by_kind(kernels))
            part.add(dict(row, kernels=kernels[:TOP_KERNELS]))
            report.say(f'profile: {job.network}, train {job.train}: {row["sums"]}')


def sums_by_kind(kernels):
    """Milliseconds by kind of kernel (dict), from rows of ``[kernel, calls, ms]``."""
    sums = dict.fromkeys(('scan', MATMUL, ELEMENTWISE, 'rest'), 0.0)
    for name, _, ms in kernels:
        fitting = (kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE))
        sums[next(fitting, 'rest')] += ms
    return sums
