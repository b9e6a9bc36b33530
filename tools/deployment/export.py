"""Export a trained network for a runtime on servers, browsers or phones, selected by the suffix of OUT.

    python tools/deployment/export.py CONFIG CHECKPOINT OUT.onnx
    mim run mmmobilemamba export CONFIG CHECKPOINT OUT.ncnn

Exports classifiers, detectors, segmentors and, with ``--backbone``, the backbone alone. OUT ends in

    {endings}

or ``--to`` sets the suffix. ONNX files contain the post-processing: the best classes, boxes after NMS, or the
class of each pixel. Their batch size is dynamic; with ``--dynamic``, the image size is, too. Programs of
torch.export have a fixed image size, and those of detectors need mmmobilemamba. All other files have a fixed
size and end before the post-processing, with logits, or with boxes and scores of all classes. ``infer.py``
returns the same results for all of them.

The tool runs each file in its runtime and compares it with PyTorch on several images. It only replaces OUT if
they agree to 1e-4. ``--fp16`` and ``--int8 FOLDER`` then convert the verified float32 file with the tools of
the runtime, and print how much the results differ and how fast both files are.

``--custom-ops`` makes ONNX files that ONNX Runtime runs faster, with operators of this package. They are not
standard: the file needs a library, which is written beside it, and no other runtime opens it.
"""

import argparse
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import DictAction
from runtimes import library_of

from mmmobilemamba.deployment import build, calibration, custom_ops, dense_heads, pipeline, proof, scan_effect
from mmmobilemamba.deployment.errors import DeploymentError, check_torch, refusing
from mmmobilemamba.deployment.targets import TARGETS
from mmmobilemamba.models.checkpoint import CheckpointError
from mmmobilemamba.utils import config_argument, read_config
from mmmobilemamba.weights import checkpoint_argument

try:
    check_torch()
except DeploymentError as error:
    raise SystemExit(f'export.py: error: {error}') from error

TO_ONNX = {'.onnx': 'ONNX', '.pt2': 'torch.export'}  # other suffixes are in TARGETS
SUFFIXES = {**TO_ONNX, **{suffix: target.name for suffix, target in TARGETS.items()}}
ENDINGS = ', '.join(f'{suffix} ({name})' for suffix, name in SUFFIXES.items())
IMAGES = 128  # for the calibration


def parse_args(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.replace('{endings}', ENDINGS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('config', type=config_argument, help='config file of the network')
    parser.add_argument(
        'checkpoint',
        type=checkpoint_argument,
        help="its checkpoint, deployed or not; mobilemamba://NAME is one of the authors'",
    )
    parser.add_argument('out', type=Path, help='file to write; its suffix selects the runtime, see above')
    parser.add_argument(
        '--to', choices=[suffix[1:] for suffix in SUFFIXES], help='suffix to add if OUT has none of them'
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        metavar='SIDE',
        help="height and width, or one side (default: the config's)",
    )
    parser.add_argument('--dynamic', action='store_true', help='dynamic height and width')
    parser.add_argument('--backbone', action='store_true', help='export only the maps of the backbone')
    parser.add_argument('--topk', type=int, help='classes in the output of a classifier (default: 5)')
    parser.add_argument(
        '--logits', action='store_true', help='for a segmentor: also output the logits, besides the classes'
    )
    parser.add_argument(
        '--preprocess',
        action='store_true',
        help='normalise inside the file: inputs are uint8 RGB images, (N, H, W, 3), for ncnn float32, '
        '(1, 3, H, W); with other in_channels, that many channels',
    )
    parser.add_argument(
        '--custom-ops',
        action='store_true',
        help='for ONNX Runtime on servers: operators of this package, from a library written beside OUT',
    )
    parser.add_argument('--fp16', action='store_true', help='float16, with float32 inputs and outputs')
    parser.add_argument(
        '--int8',
        type=Path,
        metavar='FOLDER',
        help='8-bit convolutions, calibrated on the images in this folder and its subfolders',
    )
    parser.add_argument(
        '--calibration-images', type=int, metavar='N', help=f'maximum number of them (default: {IMAGES})'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, help='changes to the config'
    )
    args = parser.parse_args(argv)
    check_args(parser, args)
    return args


def check_args(parser, args):
    """Exit with a message if the arguments are invalid."""
    if args.to:
        args.out = (
            args.out if args.out.suffix == f'.{args.to}' else args.out.with_name(f'{args.out.name}.{args.to}')
        )
    suffix = args.out.suffix
    if suffix not in SUFFIXES:
        parser.error(f'OUT must end in {", ".join(SUFFIXES)}, not {args.out.name}; or choose one with --to')
    if not args.out.parent.is_dir():
        parser.error(f'there is no folder {args.out.parent}; make it first')
    if args.size and len(args.size) > 2:
        parser.error('--size takes one or two numbers')
    if args.topk is not None and args.topk < 1:
        parser.error('--topk must be 1 or more')
    if args.topk is not None and suffix in TARGETS:
        parser.error(f'--topk is for .onnx and .pt2: a file for {SUFFIXES[suffix]} gives the logits of all')
    if args.fp16 and args.int8:
        parser.error('--fp16 and --int8 are two files: run the tool for each')
    for flag, kind in (('--fp16', 'float16'), ('--int8', 'int8')):
        able = [SUFFIXES['.onnx'], *(target.name for target in TARGETS.values() if kind in target.precisions)]
        if getattr(args, flag[2:]) and SUFFIXES[suffix] not in able:
            parser.error(f'{flag} is for files of {", ".join(able)}, and not of {SUFFIXES[suffix]}')
    if args.dynamic and suffix != '.onnx':
        # torch.export can make a dynamic program, but its guards reject most sizes.
        parser.error('--dynamic is for files of ONNX: choose an OUT that ends in .onnx, or one size')
    if args.custom_ops and (suffix != '.onnx' or args.fp16):
        parser.error(
            '--custom-ops is for files of ONNX in float32 or int8: choose an OUT that ends in .onnx, and '
            'leave out --fp16'
        )
    if args.calibration_images is not None and not args.int8:
        parser.error('--calibration-images goes with --int8 FOLDER')
    if args.calibration_images is not None and args.calibration_images < 1:
        parser.error('--calibration-images must be 1 or more')


def make_exporter(args):
    """Create the exporter for the suffix of OUT; exits with a message if packages are missing."""
    target = TARGETS.get(args.out.suffix)
    if target is None:
        from graph_exporter import OnnxExporter, ProgramExporter

        return (ProgramExporter if args.out.suffix == '.pt2' else OnnxExporter)(args)
    missing = target.why_not('float16' if args.fp16 else 'int8' if args.int8 else 'float32')
    if missing:
        sys.exit(f'export.py: error: {missing}')
    from runtime_exporter import RuntimeExporter

    return RuntimeExporter(args, target)


def prepare(args, exporter):
    """Build the graph to export, its metadata, and an example image.

    Raises:
        CheckpointError, OSError, RuntimeError: If that fails.
    """
    config = read_config(args.config, args.cfg_options)
    model = build.load_model(config, args.checkpoint)
    if args.backbone:
        model = model.backbone
    task = build.task_of(model)
    about = build.describe(config, task, model)
    size = build.input_size(about, args.size, args.dynamic)
    warn_of_pictures(about)
    if not args.dynamic and task != 'backbone':
        warn_of_size(about, size)
    about.update(size=None if args.dynamic else size, preprocessed=args.preprocess, precision='float32')
    if args.custom_ops:
        about['custom_ops'] = dict(domain=custom_ops.DOMAIN, version=custom_ops.VERSION)
    if (args.logits and task != 'segmentation') or (args.topk and task != 'classification'):
        raise build.DeploymentError(f'--logits is for segmentors and --topk for classifiers; this is {task}.')
    image = torch.randn(2, len(about['mean']), *size, generator=torch.Generator().manual_seed(0))
    graph, given = exporter.make_graph(model, task, about, image)
    if task == 'detection':
        head = getattr(model, 'rpn_head', None) or model.bbox_head
        dense_heads.check_scores(head, model.extract_feat(image), proof.TOLERANCE)
    return graph, about, given


def warn_of_pictures(about):
    """Warn if infer.py and the web page cannot prepare pictures for this file."""
    steps = pipeline.unknown_steps(about['resize'])
    if about['load'] is None or about['load']['type'] not in pipeline.LOADERS:
        steps.insert(0, about['load']['type'] if about['load'] else 'no loader of pictures')
    if steps:
        print(
            f"warning: the config's test pipeline has {', '.join(steps)}, so infer.py and the page "
            f'refuse pictures for this file. Prepare them yourself, as the pipeline does.',
            file=sys.stderr,
        )


def warn_of_size(about, size):
    """Warn if pictures from the test pipeline will be refused, or padded more than in PyTorch."""
    shape = ' x '.join(map(str, size))
    if about['task'] == 'classification':
        made = pipeline.largest_sizes(about['resize'])
        if made and tuple(size) not in map(tuple, made):
            print(
                f"warning: the config's test pipeline makes pictures of {made[0][0]} x {made[0][1]} px, and "
                f'this file takes {shape} alone: infer.py refuses them.',
                file=sys.stderr,
            )
    elif any(step.get('keep_ratio') or step['type'] == 'ResizeEdge' for step in about['resize']):
        print(
            f'warning: pictures that are not {shape} px after the test pipeline are padded to that, and '
            f'PyTorch pads less, so that other objects may be found. If yours have another shape, set it '
            f'with --size, or use --dynamic and an OUT that ends in .onnx.',
            file=sys.stderr,
        )


def compare(graph, run, about, size):
    """Print the differences between PyTorch and ``run`` for several images; returns the largest error."""
    worst = 0.0
    for name, image in proof.test_images(size, about):
        shape = 'x'.join(map(str, image.shape))
        with refusing(f'run it on {shape}', about['size'] is None), torch.no_grad():
            graph(image)  # if PyTorch fails, too, the file is not at fault
        outputs, probed = run(image)
        if name == proof.BEYOND:
            finite = proof.is_finite(graph, image, outputs)
            error, said = (0.0, 'numbers') if finite else (float('inf'), 'no numbers')
        else:
            error = proof.largest_error(graph, image, outputs, probed)
            said = f'{error:.1e}'
        print(f'  {name}, {shape}: {said}')
        worst = max(worst, error)
    return worst


def compare_awakened(exporter, graph, about, image, path):
    """If the scans hardly affect the outputs, also compare a file with random weights; returns the error."""
    effect = scan_effect.scan_effect(graph, image[:1])
    if effect >= scan_effect.LEAST:
        return 0.0
    print(
        f'In this network the scans change the maps by {effect:.1e} alone, as in one that has not been '
        f'trained. So the conversion is compared with random weights, too:'
    )
    other = scan_effect.awakened(graph, image[:1])
    run = exporter.make(other, about, image, path)
    return compare(other, run, about, build.size_of(image))


def find_images(args):
    """Calibration images (list[Path]), [] without ``--int8``; unreadable ones are reported and skipped.

    Raises:
        DeploymentError: If there are none.
    """
    if not args.int8:
        return []
    from pictures import SUFFIXES as KINDS  # in the folder of this file

    paths, broken = calibration.find_images(args.int8, KINDS, args.calibration_images or IMAGES)
    for path in broken:
        print(f'{path} was skipped. It cannot be read.', file=sys.stderr)
    return paths


def prepare_images(about, args, paths):
    """Calibration batches, prepared as in infer.py (calibration.Images), or None without ``--int8``.

    Raises:
        DeploymentError: If no image has a size that the file accepts.
    """
    if not args.int8:
        return None
    from pictures import NetworkError, Preparation  # see above

    preparation, usable = Preparation(about, args.out.name), []

    def prepare(picture):
        return preparation.prepare(picture)[0]

    for image in paths:
        try:
            next(iter(calibration.Images([image], prepare)))
            usable.append(image)
        except NetworkError as error:
            print(f'{image} was skipped. {error}', file=sys.stderr)
    if not usable:
        raise build.DeploymentError(f'None of the images of {args.int8} can be used, see above.')
    return calibration.Images(usable, prepare)


def write(exporter, args, graph, about, image, images, folder):
    """Write the file to a folder next to OUT, compare it, and move it to OUT; returns the largest error.

    Raises:
        DeploymentError: If the file cannot be made, or its outputs differ from PyTorch's.
    """
    start = time.perf_counter()
    path = folder / args.out.name
    run = exporter.make(graph, about, image, path)
    print(f'exported in {time.perf_counter() - start:.0f} s; largest difference to PyTorch, relative:')
    error = compare(graph, run, about, build.size_of(image))
    other = folder / f'other{args.out.suffix}'
    error = max(error, compare_awakened(exporter, graph, about, image, other))
    if not error <= proof.TOLERANCE:
        raise build.DeploymentError(
            f'It would differ from PyTorch by {error:.1e}, and {proof.TOLERANCE:.0e} is allowed. Another '
            f'runtime may compute more exactly.'
        )
    exporter.finish(graph, about, image, path)
    if args.fp16 or args.int8:
        exporter.lower_precision(graph, about, image, path, images)
    exporter.move(path, args.out)
    return error


def export(exporter, args, folder):
    """Read the network, write its file to OUT, and print what it is.

    ``folder`` (Path) is for temporary files, on the file system of OUT.

    Raises:
        DeploymentError, OSError: If the file cannot be written.
        SystemExit: If the network cannot be exported.
    """
    try:
        if args.custom_ops:
            exporter.find_operators()
        paths = find_images(args)
        graph, about, image = prepare(args, exporter)
        images = prepare_images(about, args, paths)
    except (CheckpointError, build.DeploymentError, ImportError, OSError, RuntimeError) as error:
        sys.exit(f'{args.checkpoint} was not exported. {error}')
    error = write(exporter, args, graph, about, image, images, folder)
    size = exporter.size(args.out) / 2**20
    source = ', made of one in float32' if args.fp16 or args.int8 else ''
    print(f'{args.out}: {about["task"]}, {size:.1f} MiB{source}, within {error:.1e} of PyTorch')


@contextmanager
def temporary_folder(parent):
    """A folder (Path) in ``parent``, removed afterwards.

    Raises:
        DeploymentError: If nothing can be written to ``parent``.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix='.export-', dir=parent)
    except OSError as error:
        raise build.DeploymentError(
            f'The folder {parent} cannot be written to: {error.strerror}. Choose another OUT.'
        ) from error
    with folder as name:
        yield Path(name)


def main(argv=None):
    args = parse_args(argv)
    exporter = make_exporter(args)
    try:
        exporter.check_place(args.out)
        with temporary_folder(args.out.parent) as folder:
            export(exporter, args, folder)
    except (build.DeploymentError, OSError) as failure:
        sys.exit(f'{args.out} was not written. {failure}')
    except KeyboardInterrupt:
        sys.exit(f'{args.out} was not written: the export was interrupted.')
    if args.custom_ops:
        library = library_of(args.out)
        print(f'It has operators that are not standard, and needs {library.name} beside it on this platform.')


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('export.py was stopped.'))  # removes temporary files
    main()
