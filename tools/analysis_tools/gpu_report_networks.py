"""The parts training and inference of ``gpu_report.py``: all networks uncompiled, then compiled in waves."""

import time
from functools import partial
from typing import NamedTuple

from gpu_report_order import WIDTH, waves
from gpu_report_pool import Task
from gpu_report_worker import FORMATS, Job

from mmmobilemamba.models.backbones.arch import ARCHS

CUDA_GRAPH, COMPILED = 'cuda_graph', 'compile'
FEW = 16  # batch size of the first warm-up, small enough to run all networks at once and estimate memory
# Seconds after which unfinished workers are killed.
START, WARM_UP, COMPILE, TIMING = 100, 120, 150, 40
RESERVE = 2  # s reserved for each timing when limiting the time for compilation


class Key(NamedTuple):
    """Identifies a task: part, step and job."""

    part: str
    what: str
    job: Job


class Networks:
    """A part that measures many networks.

    Args:
        report (Report): The run.
        name (str): Name of the part.
        jobs (list[Job]): Jobs to measure; uncompiled ones in this order.
        compiled (tuple[str]): Options of the compiled variants.
        **settings: Settings of the part.
    """

    def __init__(self, report, name, jobs, compiled, **settings):
        self.report, self.name, self.jobs = report, name, jobs
        self.part = report.part(name, **settings)
        self.uncompiled = report.possible(('', CUDA_GRAPH))
        self.compiled = report.possible(compiled)
        self.part.content['variants'] = self.uncompiled + self.compiled
        self.formats, self.memory, self.seconds = {}, {}, {}
        for job in jobs:
            if not self.missing(job, self.uncompiled):
                row = self.part.find(**job._asdict())[0]
                self.formats[job], self.memory[job] = row['format'], row['memory']
        self.waves, self.last = [], 0.0  # duration of the last wave in s

    def missing(self, job, variants):
        """The variants of a job that are not measured yet (list)."""
        found = [row['options'] for row in self.part.find(**job._asdict())]
        return [options for options in variants if options not in found]

    def needed(self):
        """Models by worker, for all workers with unmeasured variants (dict)."""
        variants = self.uncompiled + self.compiled
        return {self.report.worker(job): job.model for job in self.jobs if self.missing(job, variants)}

    def warm_up_tasks(self):
        """Warm-up tasks for the uncompiled variants (list)."""
        jobs = [job for job in self.jobs if job not in self.memory]
        return warm_up_tasks(self.report, self.name, jobs, formats_to_try, self.memory)

    def time_uncompiled(self):
        """Time all networks eagerly and as CUDA graphs, in the faster memory format."""
        warm_up(self.report, self.part, self.warm_up_tasks())
        for job in self.jobs:
            missing = self.missing(job, self.uncompiled)
            if job not in self.memory or not missing:
                continue
            with self.part.recording(job, 'uncompiled'):
                arguments = (job, formats_to_try(job), self.uncompiled)
                found, timings = self.report.alone(job, 'time_uncompiled', *arguments, limit=TIMING)
                self.formats[job] = found
                for options in missing:
                    self.add(job, options, timings[options])
        self.plan()

    def add(self, job, options, timing, **more):
        """Record a timing."""
        timing = dict(timing, memory=self.memory[job], **more)
        self.part.add_timing(job, self.formats[job], options, timing)

    def plan(self):
        """Order the jobs to compile into waves."""
        rates = {}
        for row in self.part.find(options=self.uncompiled[-1]):
            job = Job(*(row[field] for field in Job._fields))
            rates[job._replace(size=tuple(job.size))] = row['images_per_second']
        jobs = [job for job in self.jobs if job in self.formats and self.missing(job, self.compiled)]
        self.waves = waves(jobs, self.report.focus, rates, WIDTH)

    def next_wave(self, beside=list):
        """Compile a few networks in parallel and time them, if enough time is left.

        Args:
            beside (Callable): Returns more tasks (list) to run in parallel with the compilation.
        """
        if not self.waves:
            return
        wave, left = self.waves.pop(0), self.report.left()
        if left < self.last:
            names = ', '.join(dict.fromkeys(job.network for job in wave))
            self.part.skip(f'compilation of {names}: {left:.0f} s left, the last one took {self.last:.0f} s')
            return
        begin = self.end = time.monotonic()
        self.report.start({self.report.worker(job): job.model for job in wave}, START)
        tasks = [
            Task(
                Key(self.name, COMPILED, job),
                self.report.worker(job),
                'compile',
                (job, self.formats[job]),
                self.memory[job],
                partial(self.note_compiled, job),
            )
            for job in wave
        ]
        reserve = RESERVE * len(wave) * len(self.compiled)
        _, errors = self.report.parallel('compilation', tasks + beside(), COMPILE, reserve)
        for task in tasks:
            if task.key in errors:
                self.part.fail(task.key.job, COMPILED, errors[task.key])
        self.last = self.end - begin  # without the tasks of ``beside``
        begin = time.monotonic()
        for job in wave:
            self.time_compiled(job)
        self.last += time.monotonic() - begin

    def note_compiled(self, job, seconds):
        """Record the compilation time of a job, and print which jobs are pending."""
        self.seconds[job], self.end = seconds, time.monotonic()
        pending = [key.job.network for key in self.report.pool.pending if key.what == COMPILED]
        self.report.say(
            f'{self.name}: {job.network} batch {job.batch} compiled in {seconds:.1f} s; waiting for '
            f'{", ".join(pending) or "none"}'
        )

    def time_compiled(self, job):
        """Time the compiled variants of a job, if its compilation succeeded."""
        for options in self.missing(job, self.compiled) if job in self.seconds else ():
            with self.part.recording(job, options):
                timing = self.report.alone(job, 'time', job, self.formats[job], options, limit=TIMING)
                self.add(job, options, timing, compile_seconds=self.seconds[job])


def formats_to_try(job):
    """Memory formats to compare (tuple); for MobileMamba on tensor cores, the faster one is known."""
    return ('channels_last',) if job.model in ARCHS and job.precision != 'float32' else FORMATS


def warm_up_tasks(report, name, jobs, formats, memory):
    """Tasks that run steps with a few images, then with the whole batch.

    Args:
        report (Report): The run.
        name (str): Name of the part.
        jobs (list[Job]): Jobs to measure.
        formats (Callable): Returns the memory formats of a job.
        memory (dict): Filled with the GPU memory of a step, in bytes, by job.

    Returns:
        list[Task]: The tasks to run.
    """

    def task(job, batch, needed, done):
        arguments = (job, batch, formats(job))
        key = Key(name, f'warm-up with {batch}', job)
        return Task(key, report.worker(job), 'warm_up', arguments, needed, partial(done, job))

    def warmed(job, needed):
        memory[job] = needed

    def begun(job, needed):
        return [task(job, job.batch, needed, warmed)]

    return [task(job, *((FEW, 0, begun) if job.batch > FEW else (job.batch, 0, warmed))) for job in jobs]


def warm_up(report, part, tasks):
    """Start the workers of tasks and warm up; records failures and returns the failed jobs (set)."""
    if not tasks:
        return set()
    errors = report.start({task.worker: task.key.job.model for task in tasks}, START)
    failed = {task.key.job: ('start', errors[task.worker]) for task in tasks if task.worker in errors}
    tasks = [task for task in tasks if task.worker not in errors]
    _, errors = report.parallel('warm-up', tasks, WARM_UP)
    failed.update((key.job, ('warm-up', error)) for key, error in errors.items())
    for job, (what, error) in failed.items():
        part.fail(job, what, error)
    return set(failed)


def training(report):
    """The part for training steps of all networks, under bfloat16 autocast."""
    jobs = [Job(name, size, report.train_batch, True, 'amp') for name, size in report.models]
    jobs.sort(key=lambda job: (job.model, job.size) != report.focus)
    settings = dict(dtype='bfloat16', amp=True, train=True)
    return Networks(report, 'training', jobs, (COMPILED, f'{COMPILED}+{CUDA_GRAPH}'), **settings)


def inference(report):
    """The part for inference of all networks, folded, in bfloat16; one network also in other precisions."""
    jobs = []
    for batch in report.inference_batches:
        of_a_batch = [Job(name, size, batch, False, 'bfloat16') for name, size in report.models]
        jobs += sorted(of_a_batch, key=lambda job: (job.model, job.size) != report.focus)
    for precision in report.precisions:
        jobs += [Job(*report.focus, batch, False, precision) for batch in report.inference_batches]
    settings = dict(dtype='bfloat16', amp=False, train=False)
    compiled = f'{COMPILED}+{CUDA_GRAPH}' if report.on_gpu else COMPILED
    return Networks(report, 'inference', jobs, (compiled,), **settings)
