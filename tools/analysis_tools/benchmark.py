r"""Benchmark MobileMamba in several forms against other networks.

    python tools/analysis_tools/benchmark.py t2@192 b1@256 --variants baseline plain deploy --threads 1 2
    python tools/analysis_tools/benchmark.py b1@224 --train --batch 8 --variants baseline plain --memory
    python tools/analysis_tools/benchmark.py scan:b1@256 --variants naive torch cpp --batch 1 16
    python tools/analysis_tools/benchmark.py b1@256 timm/repvit_m1_1@224 my/net.py:small@224 --variants deploy
    python tools/analysis_tools/benchmark.py published --classifier --costs --variants deploy --json all.json
    python tools/analysis_tools/benchmark.py b1@256 --device cuda --train --batch 128 --dtype bfloat16 --amp \
        --variants plain plain+cuda_graph plain+compile+cuda_graph

Models, each followed by ``@SIDE`` or ``@HEIGHTxWIDTH``:

ARCH              a MobileMamba backbone; with --classifier, a classifier for 1000 classes
timm/NAME         a timm model
PATH.py           a config
PATH.py:FUNCTION  the network that a function without arguments returns; its input is images
scan:ARCH         only the scans of the stages
published         all networks of published.py that can run here, without a size

Variants of a model: ``baseline`` (channels first, the scan as a Python loop), or one of ``plain`` and
``deploy`` (folded), followed by any of these, joined with +:

- a backend of the scan
- ``channels_last``, ``compile``
- ``prepare`` (``prepare_for_cpu``; on a GPU ``prepare_for_inference``)
- ``onnx``, ``onnx_fp16``, ``onnx_int8``, ``onnx_custom`` or ``onnx_custom_int8`` (ONNX Runtime; ``custom``
  has the operators of this package), or another runtime in lower case, such as ``mnn``
- ``cuda_graph`` (GPU only)

A variant of a scan is a backend, optionally with ``cuda_graph``.

All variants of a model are timed in turn in one process. A ratio is the median time of the first variant
divided by that of this one. Weights are random, which does not affect the time. With ``--together``, all
models with the same batch size and number of threads are timed in turn, and ratios are relative to the first
model. ``--costs`` prints the parameters and FLOPs of the deployed network, see ``costs.py``.
"""

import argparse
import itertools
import json
import math
import multiprocessing
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import benchmark_models
import torch
from costs import count_costs
from published import networks
from timing import capture, describe_machine, measure

from mmmobilemamba.models.backbones.arch import ARCHS, stage_splits
from mmmobilemamba.ops import check_backend, selective_scan

CUDA_GRAPH = benchmark_models.CUDA_GRAPH
COSTS = dict(parameters='M parameters', flops='M FLOPs')  # titles in the table
COMPILED_WARM_UP = (
    6  # calls of a compiled network before its capture; later calls no longer trigger a compilation
)
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16, float64=torch.float64)


def parse_model(text):
    """``NAME@SIZE`` -> name, height, width in pixels."""
    name, _, size = text.rpartition('@')
    sides = size.split('x')
    if not name or len(sides) > 2 or not all(side.isdigit() for side in sides):
        raise argparse.ArgumentTypeError(f'{text} is not NAME@SIDE or NAME@HEIGHTxWIDTH, such as b1@256')
    return name, int(sides[0]), int(sides[-1])


def parse_models(text):
    """Models (list) of one command-line argument, see :func:`parse_model`."""
    return [(name, size, size) for name, size in networks()] if text == 'published' else [parse_model(text)]


def cases(models):
    """Names and sizes to time; a scan yields one case for each of its three stages."""
    for name, *size in models:
        if name.startswith('scan:'):
            yield from ((f'{name} stage {stage}', tuple(size)) for stage in range(3))
        else:
            yield name, tuple(size)


def groups(args):
    """Cases that are timed in turn (list), and the number of threads."""
    if args.together:
        for batch, threads in itertools.product(args.batch, args.threads):
            yield [(*case, batch) for case in cases(args.models)], threads
    else:
        for case, batch, threads in itertools.product(cases(args.models), args.batch, args.threads):
            yield [(*case, batch)], threads


def make_steps(name, size, batch, variants, args):
    """The functions to time, by variant (dict)."""
    if name.startswith('scan:'):
        arch, _, stage = name[len('scan:') :].partition(' stage ')
        inputs = scan_inputs(arch, int(stage), size, batch, args)
        steps = {
            variant: partial(scan_step, variant.split('+')[0], inputs, args.train) for variant in variants
        }
        return {variant: captured(variant, step) for variant, step in steps.items()}
    model = benchmark_models.build(name, args.classifier)
    image = random_images(batch, size, args, benchmark_models.channels_of(model))
    steps = {}
    for variant in variants:
        network = benchmark_models.make_variant(model, variant, image, args.compile_backend)
        steps[variant] = captured(variant, make_step(network, variant, image, args))
    return steps


def random_images(batch, size, args, channels=3):
    """Random images, (batch, channels, height, width); float32 under autocast."""
    dtype = torch.float32 if args.amp else DTYPES[args.dtype]
    return torch.rand(batch, channels, *size, dtype=dtype, device=args.device)


def make_step(network, variant, image, args):
    """A step of a network in the form of a variant, before any capture (Callable)."""
    parts = variant.split('+')
    if 'channels_last' in parts:
        image = image.contiguous(memory_format=torch.channels_last)
    autocast = nullcontext
    if args.amp:
        # A captured step must not read weights that autocast cast before the capture, and a compiled one
        # casts them itself.
        cache = CUDA_GRAPH not in parts and 'compile' not in parts
        device = torch.device(args.device).type
        autocast = partial(torch.autocast, device, DTYPES[args.dtype], cache_enabled=cache)
    if args.train:
        return partial(training_step, network.train(), image, autocast)
    return partial(inference_step, network, image, autocast)


def captured(variant, step):
    """A step, captured as a CUDA graph if the variant asks for it."""
    parts = variant.split('+')
    if CUDA_GRAPH not in parts:
        return step
    return capture(step, COMPILED_WARM_UP) if 'compile' in parts else capture(step)


@torch.inference_mode()
def inference_step(model, image, autocast=nullcontext):
    """Forward."""
    with autocast():
        model(image)


def training_step(model, image, autocast=nullcontext):
    """Forward in training, and backward from the mean square of the last output."""
    model.zero_grad(set_to_none=True)
    with autocast():
        out = model(image)
    (out if torch.is_tensor(out) else out[-1]).float().square().mean().backward()


def scan_inputs(arch, stage, size, batch, args):
    """Random inputs of the scan in a stage: u, x_dbl, dt_weight, A, D, dt_bias."""
    channels, stride = stage_splits(ARCHS[arch], stage)[0], 16 * 2**stage
    length = math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    inner, rank = 2 * channels, math.ceil(channels / 16)
    shapes = [(batch, length, inner), (batch, length, 2, rank + 2), (2, inner, rank), *[(2, inner)] * 3]
    generator = torch.Generator().manual_seed(0)
    u, x_dbl, dt_weight, A, D, dt_bias = (torch.randn(shape, generator=generator) for shape in shapes)
    tensors = (u, x_dbl, 0.1 * dt_weight, -A.abs(), D, dt_bias)
    return [tensor.to(args.device, DTYPES[args.dtype]).requires_grad_(args.train) for tensor in tensors]


def scan_step(backend, inputs, train):
    """Forward, and backward in training."""
    with torch.set_grad_enabled(train):
        out = selective_scan(*inputs, backend=backend)
    if train:
        torch.autograd.grad(out, inputs, torch.ones_like(out))


def peak_memory(queue, case, threads, variant, args):
    """Measure the peak memory of a step in MiB, less the memory in use before it; runs in a new process."""
    torch.set_num_threads(threads)
    set_device(args)
    step = make_steps(*case, [variant], args)[variant]
    if torch.device(args.device).type == 'cuda':
        step()  # the first step allocates buffers that stay
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        queue.put((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    before = resident_memory('VmRSS')
    step()  # the allocator keeps the memory of the first step
    Path('/proc/self/clear_refs').write_text('5')  # resets the peak, VmHWM
    step()
    queue.put((resident_memory('VmHWM') - before) / 2**10)


def resident_memory(field):
    """A field of Linux' ``/proc/self/status``, in KiB."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))


def set_device(args):
    """Select the GPU, if any, and set TF32 for this process."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    if torch.device(args.device).type == 'cuda':
        torch.cuda.set_device(torch.device(args.device).index or 0)


def measure_memory(case, threads, variant, args):
    """Peak memory of a step in MiB.

    Raises:
        RuntimeError: If the measuring process fails.
    """
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    process = context.Process(target=peak_memory, args=(queue, case, threads, variant, args))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f'Measuring the memory of {case[0]}, {variant}, failed; see above.')
    return queue.get()


def run_cases(cases, threads, args):
    """Time all variants of some cases in turn; yields one result (dict) each."""
    torch.set_num_threads(threads)
    steps = {}
    for case in cases:
        for variant, step in make_steps(*case, args.variants, args).items():
            steps[case, variant] = step
    timings = measure(steps, args.seconds, args.device)
    first = next(iter(timings.values())).median
    for (case, variant), timing in timings.items():
        name, size, batch = case
        result = dict(model=name, size=size, batch=batch, threads=threads, variant=variant)
        result.update(timing._asdict(), ratio=first / timing.median)
        result['images_per_second'] = 1e3 * batch / timing.median
        if args.memory:
            result['memory'] = measure_memory(case, threads, variant, args)
        yield result


def table_row(result):
    """One row of the table."""
    name, (height, width) = result['model'], result['size']
    spread = f'{result["low"]:.3g} to {result["high"]:.3g}'
    cells = [name, f'{height}x{width}', result['batch'], result['threads'], result['variant']]
    rate = result['images_per_second']
    cells += [f'{result["median"]:.3g}', spread, f'{rate:.0f}' if rate >= 100 else f'{rate:.1f}']
    cells.append(f'{result["ratio"]:.2f}')
    if 'memory' in result:
        cells.append(f'{result["memory"]:.0f}')
    cells += [f'{result[key] / 1e6:.2f}' for key in COSTS if key in result]
    return f'| {" | ".join(map(str, cells))} |'


def parse_args(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('models', nargs='+', type=parse_models, metavar='MODEL@SIZE', help='or published')
    parser.add_argument('--variants', nargs='+', default=['plain', 'deploy'])
    parser.add_argument('--batch', nargs='+', type=int, default=[1])
    parser.add_argument('--threads', nargs='+', type=int, default=[torch.get_num_threads()])
    parser.add_argument('--dtype', choices=DTYPES, default='float32')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='autocast to --dtype; parameters and images stay in float32',
    )
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--tf32', action='store_true', help='allow TF32 for float32 on GPUs')
    parser.add_argument('--train', action='store_true', help='time forward and backward in training mode')
    parser.add_argument('--compile-backend', default='inductor', help='of torch.compile (default: inductor)')
    parser.add_argument('--classifier', action='store_true', help='add a head for 1000 classes to an arch')
    parser.add_argument('--costs', action='store_true', help='also count parameters and FLOPs')
    parser.add_argument('--memory', action='store_true', help='also measure the peak memory of a step')
    parser.add_argument(
        '--together', action='store_true', help='time all models in turn, with ratios to the first one'
    )
    parser.add_argument('--seconds', type=float, default=2.0, help='seconds per timing (default: 2)')
    parser.add_argument('--json', type=Path, help='file for the results, the machine and the settings')
    args = parser.parse_args(argv)
    args.models = list(itertools.chain(*args.models))
    if args.json and not args.json.parent.is_dir():
        parser.error(f'there is no folder {args.json.parent}; make it first')
    try:
        check_variants(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check_variants(args):
    """Check that every model supports every variant, before anything is timed.

    Raises:
        ValueError: If one does not.
    """
    if args.together and len(set(args.models)) < len(args.models):
        raise ValueError('with --together, each model can be there once')
    if args.classifier and 'baseline' in args.variants:
        raise ValueError('the baseline is that of a backbone; leave out --classifier')
    if args.amp and args.dtype not in ('bfloat16', 'float16'):
        raise ValueError(f'--amp needs --dtype bfloat16 or float16 to cast to, not {args.dtype}')
    if args.compile_backend != 'inductor':
        known = torch.compiler.list_backends(exclude_tags=())
        if args.compile_backend not in known:
            raise ValueError(f'--compile-backend {args.compile_backend} is not one of {known}')
    for name, _, _ in args.models:
        if not name.startswith('scan:'):
            benchmark_models.check_model(name)
    on_gpu = torch.device(args.device).type == 'cuda'
    for (name, _, _), variant in itertools.product(args.models, args.variants):
        if CUDA_GRAPH in variant.split('+') and (not on_gpu or args.memory):
            raise ValueError(f'{variant} needs a GPU, such as --device cuda, and does without --memory')
        if name.startswith('scan:'):
            check_scan(name, variant, args)
        else:
            check_network(name, variant, args, on_gpu)


def check_scan(name, variant, args):
    """Check that a scan supports a variant, see :func:`check_variants`."""
    if args.costs:
        raise ValueError(f'--costs is for networks, not for {name}')
    if name[len('scan:') :] not in ARCHS:
        raise ValueError(f'{name} is not scan: and one of {sorted(ARCHS)}')
    backend, *rest = variant.split('+')
    check_backend(backend)
    if rest not in ([], [CUDA_GRAPH]):
        raise ValueError(f'{variant} is not a backend of the scan, or one and +{CUDA_GRAPH}')
    if args.amp:
        raise ValueError(f'--amp is for networks; {name} takes its inputs in --dtype')


def check_network(name, variant, args, on_gpu):
    """Check that a network supports a variant, see :func:`check_variants`."""
    form, backend, options = benchmark_models.parse_variant(variant)
    is_other = name.startswith('timm/') or benchmark_models.is_file(name)
    if (name not in ARCHS and form == 'baseline') or (backend and is_other):
        raise ValueError(f'{variant} is for MobileMamba; {name} has no such variant')
    exported = set(benchmark_models.EXPORTED) & set(options)
    if args.train and (form == 'deploy' or exported or 'prepare' in options):
        raise ValueError(f'{variant} is for inference, and not to be had with --train')
    if (exported and on_gpu) or (
        (exported or 'prepare' in options) and not on_gpu and args.dtype != 'float32'
    ):
        raise ValueError(f'{variant} is for float32 on a CPU')
    if exported and (backend or len(exported) > 1):
        raise ValueError(f'{variant}: one exported form at a time, whose scan is that for export')
    for option in exported.intersection(benchmark_models.RUNTIMES):
        target = benchmark_models.RUNTIMES[option]
        missing = target.why_not() or (None if form == 'deploy' else f'{variant}: it must be deploy+{option}')
        if missing:
            raise ValueError(missing)
    if 'prepare' in options and on_gpu and (args.amp or {'compile', CUDA_GRAPH} & set(options)):
        raise ValueError(
            f'{variant}: on a GPU, prepare compiles and captures by itself, and takes --dtype without --amp'
        )
    if 'compile' in options and args.memory and not on_gpu:
        raise ValueError(
            f'{variant}: on a CPU, --memory would measure the compiler, too; leave one of them out'
        )


def save(args, machine, results):
    """Write the results so far, with ``--json``."""
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key != 'json'}
        content = dict(machine=machine, settings=settings, results=results)
        args.json.write_text(json.dumps(content, indent=2) + '\n')


def main(argv=None):
    args = parse_args(argv)
    set_device(args)
    machine = describe_machine(args.device)
    print(', '.join(f'{key} {value}' for key, value in machine.items()))
    head = ['model', 'size', 'batch', 'threads', 'variant', 'ms', 'quartiles', 'images/s', 'ratio']
    head += ['MiB'] if args.memory else []
    head += COSTS.values() if args.costs else []
    print(f'| {" | ".join(head)} |\n{"|---" * len(head)}|')
    costs, results = {}, []
    for together, threads in groups(args):
        for name, size, _ in together if args.costs else ():
            if (name, size) not in costs:
                costs[name, size] = count_costs(benchmark_models.build(name, args.classifier), size)
        for result in run_cases(together, threads, args):
            result.update(costs.get((result['model'], result['size']), {}))
            results.append(result)
            print(table_row(result), flush=True)
        save(args, machine, results)


if __name__ == '__main__':
    main()
