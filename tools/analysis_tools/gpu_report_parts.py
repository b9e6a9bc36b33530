"""The parts of ``gpu_report.py``: what each of them measures."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from gpu_report_pool import WorkerError
from gpu_report_worker import Job, ScanJob
from published import accuracies

from mmmobilemamba.models.backbones.arch import ARCHS

CUDA_GRAPH, COMPILED = 'cuda_graph', 'compile'
STAGES, SCAN_WORKERS = 3, 6
FEW = 16  # images whose step shows how much memory a batch takes, and fits beside those of all other networks
TOP_KERNELS = 25
# Seconds after which workers that are not ready are dropped.
START, WARM_UP, COMPILE, TIMING, FIRST_STEP = 150, 180, 180, 60, 200
# Kinds of kernels by their names, the first that fits. Names of what torch.compile has fused list other
# operations, too, so these come before the others.
MATMUL, ELEMENTWISE = 'convolution, matmul', 'elementwise, norm'
KINDS = (
    (ELEMENTWISE, r'^triton_(poi|red|per|for)_'),
    ('scan', r'scan|^_(summaries|link)'),
    (ELEMENTWISE, r'bn_|batch_?norm|layer_?norm|norm_gate|dwt'),
    (MATMUL, r'conv|depthwise|gem[mv]|cutlass|xmma|nvjet|cudnn|[wd]grad|grad_(input|weight)|sum_shares'),
    (MATMUL, r'fprop|winograd|mm|splitk|attention|flash|nchwto|nhwcto'),
    (ELEMENTWISE, r'elementwise|reduce|catarray|copy|softmax|pool|fill|foreach|triton_|aten::'),
)


def training(report):
    """Training steps of all networks, under autocast to bfloat16."""
    part = report.part('training', dtype='bfloat16', amp=True, train=True)
    jobs = [Job(name, size, report.train_batch, True, 'amp') for name, size in report.models]
    measure_networks(report, part, jobs, compiled=(COMPILED, f'{COMPILED}+{CUDA_GRAPH}'))


def inference(report):
    """Inference of all networks, folded, in bfloat16; and of one in float32, too."""
    part = report.part('inference', dtype='bfloat16', amp=False, train=False)
    jobs = [
        Job(name, size, batch, False, 'bfloat16')
        for batch in report.inference_batches
        for name, size in report.models
    ]
    name, size = report.focus
    for precision in report.precisions:
        jobs += [Job(name, size, batch, False, precision) for batch in report.inference_batches]
    compiled = f'{COMPILED}+{CUDA_GRAPH}' if report.on_gpu else COMPILED
    measure_networks(report, part, jobs, compiled=(compiled,))


def measure_networks(report, part, jobs, compiled):
    """Time jobs as they are, in the faster memory format, and then compiled; compile all in parallel."""
    memory = warm_up(report, part, jobs)
    formats = {}
    for job in memory:
        with part.recording(job, 'eager'):
            formats[job] = measure_eager(report, part, job)
    tasks = [
        (job, report.worker(job), 'compile', (job, memory_format), memory[job])
        for job, memory_format in formats.items()
    ]
    seconds, errors = report.parallel('compilation', tasks, COMPILE)
    part.fail(errors, COMPILED)
    for job in [job for job in formats if job in seconds]:
        for options in report.possible(compiled):
            with part.recording(job, options):
                timing = report.alone(job, 'time', job, formats[job], options, limit=TIMING)
                part.add_timing(job, formats[job], options, timing)
    release(report)


def warm_up(report, part, jobs):
    """Start the workers of jobs and let them warm up; job to the bytes that a step takes on the GPU."""
    errors = report.start({report.worker(job): job.model for job in jobs}, START)
    part.fail({job: errors[report.worker(job)] for job in jobs if report.worker(job) in errors}, 'start')
    memory = {job: 0 for job in jobs if report.worker(job) not in errors}
    for most in (FEW, max(job.batch for job in jobs)):
        tasks = [
            (job, report.worker(job), 'warm_up', (job, min(most, job.batch)), needed)
            for job, needed in memory.items()
            if most == FEW or job.batch > FEW
        ]
        found, errors = report.parallel('warm-up', tasks, WARM_UP)
        part.fail(errors, 'warm-up')
        memory = {job: found.get(job, needed) for job, needed in memory.items() if job not in errors}
    return memory


def measure_eager(report, part, job):
    """Time a network that is not compiled, in its faster memory format; that format."""
    fastest = report.possible(('', CUDA_GRAPH))[-1]
    probed = report.alone(job, 'time_formats', job, fastest, limit=TIMING)
    memory_format = min(probed, key=lambda name: probed[name]['median'])
    for options in report.possible(('', CUDA_GRAPH)):
        timing = report.alone(job, 'time', job, memory_format, options, limit=TIMING)
        part.add_timing(job, memory_format, options, timing)
    return memory_format


def release(report):
    """Let all workers give back what they hold."""
    tasks = [(name, name, 'release', (), 0) for name in report.pool.workers]
    report.parallel('release', tasks, TIMING)


def scan(report):
    """Scans of one network, forward and with backward, in two types."""
    (arch, size), batch = report.focus, report.inference_batches[0]
    part = report.part('scan', model=arch, size=size, batch=batch)
    jobs = [
        ScanJob(arch, size, stage, batch, train, dtype)
        for train in (False, True)
        for dtype in ('float32', 'bfloat16')
        for stage in range(STAGES)
    ]
    if not report.pool.workers:
        count = min(SCAN_WORKERS, os.cpu_count() or 1)
        report.start({f'scan {number}': '' for number in range(count)}, START)
    names = list(report.pool.workers)
    # Forward and backward of one scan are compiled by one worker, which compiles the forward once.
    workers = {job: names[index % (len(jobs) // 2) % len(names)] for index, job in enumerate(jobs)}
    tasks = [(job, workers[job], 'warm_up_scan', (job,), 0) for job in jobs]
    _, errors = report.parallel('compilation of scans', tasks, COMPILE)
    for job in jobs:
        row = dict(job._asdict(), backend='triton+cuda_graph' if report.on_gpu else 'auto')
        if job in errors:
            part.add(dict(row, error=errors[job]), 'errors')
            continue
        try:
            timing = report.ask(workers[job], 'time_scan', job, limit=TIMING)
        except WorkerError as error:
            part.add(dict(row, error=str(error)), 'errors')
        else:
            part.add(dict(row, **timing))
            report.say(f'scan: stage {job.stage}, {job.dtype}, train {job.train}: {timing["median"]:.4f} ms')


def formats(report):
    """One network in every precision and memory format, in training and inference."""
    name, size = report.focus
    part = report.part('formats', model=name, size=size)
    jobs = []
    for train, batch in ((True, report.train_batch), (False, report.inference_batches[0])):
        low = 'amp' if train else 'bfloat16'
        jobs += [Job(name, size, batch, train, precision) for precision in (*report.precisions, low)]
    options = report.possible(('', CUDA_GRAPH))[-1]
    for job in warm_up(report, part, jobs):
        with part.recording(job, options):
            seconds = report.settings.seconds
            timings = report.alone(job, 'time_formats', job, options, seconds, limit=TIMING)
            for memory_format, timing in timings.items():
                part.add_timing(job, memory_format, options, timing)
    release(report)


def compile_time(report):
    """How long the first training step of a compiled network takes, with nothing compiled before."""
    name, size = report.focus
    part = report.part('compile_time', model=name, size=size, batch=report.train_batch, precision='amp')
    script = Path(__file__).with_name('gpu_report_worker.py')
    arguments = json.dumps([name, size, report.train_batch, report.settings])
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH'))))
    report.finish_tests()
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


def profile(report):
    """Kernels of one network, and sums by kind of the others that are faster than they should be."""
    part = report.part('profile')
    focus = [
        Job(*report.focus, report.train_batch, True, 'amp'),
        Job(*report.focus, report.inference_batches[0], False, 'bfloat16'),
    ]
    jobs = list(dict.fromkeys(focus + faster_peers(report)))
    memory = warm_up(report, part, jobs)
    formats = {job: report.format_of(job) for job in memory}
    tasks = [
        (job, report.worker(job), 'compile', (job, formats[job]), needed) for job, needed in memory.items()
    ]
    seconds, errors = report.parallel('compilation', tasks, COMPILE)
    part.fail(errors, COMPILED)
    for job in [job for job in formats if job in seconds]:
        with part.recording(job, 'profile'):
            kernels = report.alone(job, 'profile', job, formats[job], COMPILED, limit=TIMING)
            row = part.describe(job, formats[job], COMPILED)
            row.update(total=sum(kernel[2] for kernel in kernels), sums=sums_by_kind(kernels))
            part.add(dict(row, kernels=kernels[:TOP_KERNELS]))
            report.say(f'profile: {job.network}, train {job.train}: {row["sums"]}')
    release(report)


def sums_by_kind(kernels):
    """Milliseconds by kind of kernel (dict) from ``[kernel, calls, ms]``."""
    sums = dict.fromkeys(('scan', MATMUL, ELEMENTWISE, 'rest'), 0.0)
    for name, _, ms in kernels:
        fitting = (kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE))
        sums[next(fitting, 'rest')] += ms
    return sums


def faster_peers(report):
    """Jobs of networks of others that are faster than one of ours of the same accuracy or more, and of ours.

    Accuracies of one kind of training are compared, and the fastest variants.
    """
    jobs = []
    for name, precision in (('training', 'amp'), ('inference', 'bfloat16')):
        speed = {}
        for row in report.rows(name):
            if row['batch'] in (report.train_batch, report.inference_batches[0]):
                key = Job(row['model'], tuple(row['size']), row['batch'], row['train'], precision)
                speed[key] = max(row['images_per_second'], speed.get(key, 0))
        for ours in [job for job in speed if job.model in ARCHS]:
            for peer in [job for job in speed if job.model not in ARCHS]:
                if speed[peer] > speed[ours] and is_as_accurate(ours, peer):
                    jobs += [ours, peer]
    return jobs


def is_as_accurate(ours, peer):
    """Whether a network is as accurate as another one by a kind of training that is published of both."""
    mine, theirs = (accuracies(job.model, job.size[0]) for job in (ours, peer))
    return any(mine[kind].top1 >= theirs[kind].top1 for kind in mine if kind in theirs)


PARTS = dict(
    training=training,
    inference=inference,
    scan=scan,
    formats=formats,
    compile_time=compile_time,
    profile=profile,
)
