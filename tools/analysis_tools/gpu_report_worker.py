"""Worker process of ``gpu_report.py``: builds, compiles and times one network.

MobileMamba has a classifier, like the timm models.
"""

import gc
import json
import sys
import time
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import benchmark
import benchmark_models
import torch
import torch._inductor.config
from timing import capture, measure

FORMATS = ('channels_first', 'channels_last')
PRECISIONS = dict(  # settings of benchmark.py
    amp=dict(dtype='bfloat16', amp=True, tf32=False),
    bfloat16=dict(dtype='bfloat16', amp=False, tf32=False),
    tf32=dict(dtype='float32', amp=False, tf32=True),
    float32=dict(dtype='float32', amp=False, tf32=False),
)
PROBE = 0.1  # s per timing that only selects the memory format
COMPILED_STEPS = 3
RECOMPILE_LIMIT = 64
PROFILED_STEPS = 5


class Settings(NamedTuple):
    """Settings of all workers."""

    device: str
    seconds: float  # per timing
    compile_backend: str
    cudnn_benchmark: bool


class Job(NamedTuple):
    """A measurement of a network."""

    model: str
    size: tuple  # height and width
    batch: int
    train: bool
    precision: str  # one of PRECISIONS

    @property
    def network(self):
        """Name of the network with its size, such as ``b1@256``."""
        height, width = self.size
        return f'{self.model}@{height}' if height == width else f'{self.model}@{height}x{width}'


class ScanJob(NamedTuple):
    """A measurement of the scans of a network."""

    arch: str
    size: tuple
    stage: int
    batch: int
    train: bool
    dtype: str


def variant(job, memory_format, options=''):
    """The variant of ``benchmark.py`` for a job, such as ``plain+channels_last+compile``."""
    parts = ['plain' if job.train else 'deploy']
    parts += ['channels_last'] if memory_format == 'channels_last' else []
    return '+'.join(parts + ([options] if options else []))


class Worker:
    """A network in the forms that are measured.

    Args:
        settings (Settings): Settings of all workers.
        model (str): Model name as in ``benchmark.py``, or empty for scans only.
    """

    def __init__(self, settings, model):
        self.settings, self.on_gpu = settings, torch.device(settings.device).type == 'cuda'
        torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = settings.cudnn_benchmark
        # Otherwise torch silently falls back to eager.
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        # Regions of several networks, batches and precisions count as recompilations of the same functions.
        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        self.model = benchmark_models.build(model, classifier=True) if model else None
        self.networks, self.scans = {}, {}

    def warm_up(self, job, batch, formats):
        """Run steps in some memory formats, to compile the Triton kernels.

        Args:
            job (Job): The job to measure later.
            batch (int): Number of images for the warm-up.
            formats (tuple[str]): Elements of ``FORMATS``.

        Returns:
            int: Estimated GPU memory of a step with the job's batch, in bytes.
        """
        trial, needed = job._replace(batch=batch), 0
        for memory_format in formats:
            step = self.step(trial, variant(trial, memory_format))
            step()
            if self.on_gpu:
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
                step()
                needed = max(needed, torch.cuda.max_memory_allocated() - before)
        self.free()
        return needed * job.batch // batch

    def time_formats(self, job, options):
        """Time both memory formats; returns timings (dict) by format."""
        return {memory_format: self.time(job, memory_format, options) for memory_format in FORMATS}

    def time_uncompiled(self, job, formats, variants):
        """Time variants in the faster of some memory formats.

        Args:
            job (Job): The job to measure.
            formats (tuple[str]): Elements of ``FORMATS``.
            variants (list[str]): Options; the format is selected by the time of the last one.

        Returns:
            tuple[str, dict]: The format, and timings (dict) by options.
        """
        texts = {memory_format: variant(job, memory_format, variants[-1]) for memory_format in formats}
        steps = {name: benchmark.captured(text, self.step(job, text)) for name, text in texts.items()}
        best = formats[0]
        if len(formats) > 1:
            probed = measure(steps, PROBE, self.settings.device)
            best = min(formats, key=lambda name: probed[name].median)
        timings = {variants[-1]: self.measure(job, steps[best])}
        steps.clear()
        for options in variants[:-1]:
            timings[options] = self.measure(job, self.step(job, variant(job, best, options)))
        self.free()
        return best, timings

    def time(self, job, memory_format, options=''):
        """Time a variant, uncompiled or compiled earlier by :meth:`compile`; returns the timing (dict)."""
        text = variant(job, memory_format, options)
        step = benchmark.captured(text, self.step(job, text))
        timing = self.measure(job, step)
        del step
        self.free()
        return timing

    def measure(self, job, step):
        """Time a step; returns the timing (dict)."""
        timing = measure({job: step}, self.settings.seconds, self.settings.device)[job]
        return dict(timing._asdict(), images_per_second=1e3 * job.batch / timing.median)

    def compile(self, job, memory_format):
        """Compile a network for a job; returns the duration of the first steps in s."""
        start = time.perf_counter()
        step = self.step(job, variant(job, memory_format, 'compile'))
        for _ in range(COMPILED_STEPS):
            step()
        self.synchronize()
        self.free()
        return time.perf_counter() - start

    def profile(self, job, memory_format, options=''):
        """Profile a step; returns a list of ``[kernel, calls, ms]``, the slowest kernel first."""
        step = self.step(job, variant(job, memory_format, options))
        step()
        self.synchronize()
        activities = torch.profiler.ProfilerActivity
        kinds = [activities.CPU, activities.CUDA] if self.on_gpu else [activities.CPU]
        with torch.profiler.profile(activities=kinds) as profiler:
            for _ in range(PROFILED_STEPS):
                step()
            self.synchronize()
        self.free()
        rows = []
        for event in profiler.key_averages():
            if event.device_type.name != kinds[-1].name or getattr(event, 'is_user_annotation', False):
                continue
            total = event.self_device_time_total if self.on_gpu else event.self_cpu_time_total
            rows.append([event.key, event.count / PROFILED_STEPS, 1e-3 * total / PROFILED_STEPS])
        return sorted(rows, key=lambda row: -row[2])

    def warm_up_scan(self, job):
        """Compile a scan."""
        self.scan_step(job)()
        self.synchronize()

    def time_scan(self, job):
        """Time a scan, on a GPU as a CUDA graph; returns the timing (dict)."""
        step = self.scan_step(job)
        step = capture(step) if self.on_gpu else step
        timing = measure({job: step}, self.settings.seconds, self.settings.device)[job]
        del step
        self.free()
        return timing._asdict()

    def step(self, job, text):
        """A step of a job in a variant, before any capture; its network is cached."""
        args = self.arguments(job)
        benchmark.set_device(args)
        image = benchmark.random_images(job.batch, job.size, args)
        form = text.replace(f'+{benchmark.CUDA_GRAPH}', '')
        # Compiled networks have a fixed batch size.
        key = form, job.train, job.precision, job.batch if 'compile' in form else None
        if key not in self.networks:
            backend = self.settings.compile_backend
            self.networks[key] = benchmark_models.make_variant(self.model, form, image, backend)
        return benchmark.make_step(self.networks[key], text, image, args)

    def scan_step(self, job):
        """A step of a scan, before any capture."""
        settings = dict(device=self.settings.device, dtype=job.dtype, train=job.train, tf32=False)
        args = SimpleNamespace(**settings)
        benchmark.set_device(args)
        inputs = benchmark.scan_inputs(job.arch, job.stage, job.size, job.batch, args)
        return partial(benchmark.scan_step, 'triton' if self.on_gpu else 'auto', inputs, job.train)

    def arguments(self, job):
        """Settings of ``benchmark.py`` for a job."""
        device = self.settings.device
        return SimpleNamespace(device=device, train=job.train, **PRECISIONS[job.precision])

    def synchronize(self):
        """Wait for the GPU."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def free(self):
        """Release cached GPU memory for the other processes."""
        for network in self.networks.values():
            network.zero_grad(set_to_none=True)
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()


def serve(connection, settings, model, compilers):
    """Answer requests, ``(method, arguments)``, until a request is None.

    Answers are ``('value', returned)`` or ``('error', text)``; the first one reports the start. A network has
    hundreds of Triton kernels. ``compilers`` processes compile them; PyTorch starts these at the first
    compilation, and they exit with this process.
    """
    torch.set_num_threads(1)
    torch._inductor.config.compile_threads = compilers
    worker = None
    request = ('start', ())
    while request is not None:
        method, arguments = request
        try:
            if method == 'start':
                worker, answer = Worker(settings, model), ('value', None)
            else:
                answer = 'value', getattr(worker, method)(*arguments)
        except Exception as error:  # any error is reported, so that the other networks continue
            answer = 'error', f'{type(error).__name__}: {error}'[:2000]
        connection.send(answer)
        request = connection.recv()


def first_step(model, size, batch, settings):
    """Durations in s of the first two steps of a compiled training, in this process (dict)."""
    job = Job(model, tuple(size), batch, True, 'amp')
    worker = Worker(Settings(*settings), model)
    step = worker.step(job, variant(job, 'channels_last', 'compile'))  # also initialises the GPU
    worker.synchronize()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        step()
        worker.synchronize()
        seconds.append(time.perf_counter() - start)
    return dict(first_step=seconds[0], second_step=seconds[1])


if __name__ == '__main__':
    print(json.dumps(first_step(*json.loads(sys.argv[1]))))
