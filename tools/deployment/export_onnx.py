"""Export a trained network: to ONNX, in standard operators alone, or to a program of torch.export.

    python tools/deployment/export_onnx.py CONFIG CHECKPOINT OUT.onnx
    mim run mmmobilemamba export_onnx CONFIG CHECKPOINT OUT.onnx

takes classifiers (logits, and the best classes), detectors (boxes, scores, labels, masks; overlapping boxes
are suppressed inside), segmentors (the class of each pixel) and, with ``--backbone``, the backbone alone.
The batch is free, and with ``--dynamic`` the size, too. The file is run in ONNX Runtime and compared with
PyTorch for several images, and only if they agree to 1e-4 does it take the place of OUT. A name that ends
in .pt2 asks for a program of torch.export instead, for one size, which needs mmmobilemamba for detectors.

``--fp16`` and ``--int8 FOLDER`` make a file of float16, or with convolutions in 8 bits, of the proven one in
float32, and print what that loses and how fast both are.
"""

import argparse
import json
import sys
import time
from pathlib import Path

try:
    import onnx
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401
except ImportError as missing:
    raise SystemExit(
        f'export_onnx.py: error: {missing}. It needs: python -m pip install onnx onnxruntime onnxscript'
    ) from None

import torch
from mmengine.config import DictAction

if not hasattr(torch.export, 'Dim') or not hasattr(torch.export.Dim, 'DYNAMIC'):
    raise SystemExit(f'export_onnx.py: error: it needs torch 2.6 or newer, and this is {torch.__version__}.')

from mmmobilemamba.deployment import (
    build,
    calibration,
    onnx_file,
    pipeline,
    precision,
    probes,
    proof,
    report,
)
from mmmobilemamba.models.checkpoint import CheckpointError

TOPK = 5
FLOAT16_TOLERANCE = 1e-2  # see report.Difference
IMAGES = 128  # of a folder, for the calibration
LEAST_AGREEMENT = 0.95  # of 8 bits with float32 on the images of the calibration, before there is a warning


def parse_args(argv):
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('config', help='config file of the network')
    parser.add_argument('checkpoint', type=Path, help='its checkpoint, in the deployed form or not')
    parser.add_argument('out', type=Path, help='where to write, a name that ends in .onnx or .pt2')
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        metavar='SIDE',
        help="height and width, or one side (default: the config's)",
    )
    parser.add_argument('--dynamic', action='store_true', help='height and width are free')
    parser.add_argument('--backbone', action='store_true', help='the maps of the backbone, nothing more')
    parser.add_argument('--topk', type=int, help=f'classes that a classifier names (default: {TOPK})')
    parser.add_argument('--logits', action='store_true', help='of a segmentor, too')
    parser.add_argument(
        '--preprocess',
        action='store_true',
        help='normalise inside: images are uint8, RGB, (N, H, W, 3); of other in_channels, (N, H, W, C)',
    )
    parser.add_argument('--fp16', action='store_true', help='float16, with float32 at inputs and outputs')
    parser.add_argument(
        '--int8',
        type=Path,
        metavar='FOLDER',
        help='convolutions in 8 bits, calibrated on images of this folder and of those in it',
    )
    parser.add_argument(
        '--calibration-images', type=int, metavar='N', help=f'how many of them (default: {IMAGES})'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, help='changes of the config'
    )
    args = parser.parse_args(argv)
    check_args(parser, args)
    return args


def check_args(parser, args):
    """Leave with a message if the arguments cannot be."""
    if args.out.suffix not in ('.onnx', '.pt2'):
        parser.error(f'OUT must end in .onnx or .pt2, not {args.out.name}')
    if not args.out.parent.is_dir():
        parser.error(f'there is no folder {args.out.parent}; make it first')
    if args.size and len(args.size) > 2:
        parser.error('--size takes one or two numbers')
    if args.topk is not None and args.topk < 1:
        parser.error('--topk must be 1 or more')
    if args.fp16 and args.int8:
        parser.error('--fp16 and --int8 are two files: run the tool for each')
    if (args.fp16 or args.int8) and args.out.suffix == '.pt2':
        parser.error('--fp16 and --int8 are for files of ONNX: OUT must end in .onnx')
    if args.dynamic and args.out.suffix == '.pt2':
        # Such a program exists, but guards of PyTorch's make it refuse most sizes.
        parser.error('--dynamic is for files of ONNX: choose an OUT that ends in .onnx, or one size')
    if args.calibration_images is not None and not args.int8:
        parser.error('--calibration-images goes with --int8 FOLDER')
    if args.calibration_images is not None and args.calibration_images < 1:
        parser.error('--calibration-images must be 1 or more')


def prepare(args):
    """The graph to export, what its users have to know, and an example image.

    Raises:
        CheckpointError, OSError, RuntimeError: If that cannot be had.
    """
    config = build.read_config(args.config, args.cfg_options)
    model = build.load_model(config, args.checkpoint)
    if args.backbone:
        model = model.backbone
    task = build.task_of(model)
    about = build.describe(config, task, model)
    size = build.input_size(about, args.size, args.dynamic)
    warn_of_pictures(about)
    about.update(size=None if args.dynamic else size, preprocessed=args.preprocess, precision='float32')
    if (args.logits and task != 'segmentation') or (args.topk and task != 'classification'):
        raise build.DeploymentError(f'--logits is for segmentors and --topk for classifiers; this is {task}.')
    graph = build.make_graph(model, task, args.topk or TOPK, args.logits)
    if args.dynamic and getattr(graph, 'slides', False):
        raise build.DeploymentError(
            "test_cfg.mode is 'slide', whose windows depend on the size: give --size HEIGHT WIDTH instead of "
            '--dynamic, or --cfg-options model.test_cfg.mode=whole.'
        )
    image = torch.randn(2, len(about['mean']), *size, generator=torch.Generator().manual_seed(0))
    if args.preprocess:
        graph, image = build.with_preprocessing(graph, about), proof.to_pixels(image)
    return graph.eval(), about, image


def warn_of_pictures(about):
    """Say what the programs that read pictures will refuse, if anything."""
    steps = pipeline.unknown_steps(about['resize'])
    if about['load'] is None or about['load']['type'] not in pipeline.LOADERS:
        steps.insert(0, about['load']['type'] if about['load'] else 'no loader of pictures')
    if steps:
        print(
            f"warning: the config's test pipeline has {', '.join(steps)}, so infer_onnx.py and the page "
            f'refuse pictures for this file. Prepare them yourself, as the pipeline does.',
            file=sys.stderr,
        )


def compare(graph, run, about, size):
    """Print how far PyTorch and ``run`` are apart for several images; the largest error."""
    worst = 0.0
    for name, image in proof.test_images(size, about):
        shape = 'x'.join(map(str, image.shape))
        with onnx_file.refusing(f'run it on {shape}', about['size'] is None), torch.no_grad():
            graph(image)  # what it cannot take itself is no fault of the file's
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


def make_program(graph, about, image, path):
    """Write a program of torch.export, read it again, and return what runs it."""
    program = onnx_file.to_program(graph, image, dynamic_sizes=False)
    with onnx_file.quietly():
        torch.export.save(program, path, extra_files={'mmmobilemamba.json': json.dumps(about)})
        program = probed = torch.export.load(path).module()
    if probes.has_probes(graph, image):  # which a second program of the same network has, for the proof alone
        probed = onnx_file.to_program(probes.Recorded(graph), image, dynamic_sizes=False).module()

    def run(image):
        with torch.no_grad():
            outputs = program(image)
            return outputs, probed(image)[len(outputs) :]

    return run


def make_onnx(graph, about, image, path):
    """Write a file of ONNX, print what it holds, and return what runs it with its probes."""
    probed = onnx_file.to_onnx(probes.Recorded(graph), image, about['size'] is None)
    count = len(onnx_file.graph_of(graph).output_names)
    proto = onnx_file.without_probes(probed, count)
    counts = onnx_file.operators(proto)
    print(f'{sum(counts.values())} nodes: {", ".join(f"{n} {name}" for name, n in counts.most_common())}')
    onnx_file.write(proto, path, about)
    session = onnx_file.open_session(path)
    if len(probed.graph.output) > count:
        session = onnx_file.open_session(probed.SerializeToString())

    def run(image):
        found = [torch.from_numpy(x) for x in onnx_file.run(session, image)]
        return found[:count], found[count:]

    return run


def find_images(args):
    """Images (list[Path]) for the calibration, of which those that cannot be read are named; [] without one.

    Raises:
        DeploymentError: If there is none.
    """
    if not args.int8:
        return []
    from infer import SUFFIXES  # which lies beside this file, and needs more packages

    paths, broken = calibration.find_images(args.int8, SUFFIXES, args.calibration_images or IMAGES)
    for path in broken:
        print(f'{path} was skipped. It cannot be read.', file=sys.stderr)
    return paths


def prepare_images(about, args, paths):
    """Images as batches for the network, prepared as infer_onnx.py does it (calibration.Images), or None.

    Raises:
        DeploymentError: If none is of a size that the file takes.
    """
    if not args.int8:
        return None
    from infer import NetworkError, Preparation  # see above

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


def lower_precision(path, about, size, args, images):
    """Put a file of float16 or int8 in place of the one at ``path``, and print what that loses and gains.

    Raises:
        DeploymentError: If it loses too much.
    """
    full = onnx.load(str(path))
    proofs = proof.test_images(size, about, extreme=False)
    sets = {'images of the proof': [image.numpy() for _, image in proofs]}
    if images:
        sets[f'{len(images)} images of {args.int8}'] = images
        kind, reduced = 'int8', precision.to_int8(full, images)
    else:
        kind, reduced = 'float16', precision.to_float16(full)
    print(f'{kind} against float32, both in ONNX Runtime:')
    pair = report.Pair(about['task'], full, reduced)
    for name, batches in sets.items():
        difference = pair.difference(batches)
        print(f'  {name}: {difference}')
        check_difference(difference, kind)
    before, after = pair.milliseconds(next(iter(batches)))
    sizes = ' -> '.join(f'{proto.ByteSize() / 2**20:.1f} MiB' for proto in (full, reduced))
    print(f'  {sizes}; 1 thread, batch 1: {before:.2f} -> {after:.2f} ms, ratio {before / after:.2f}')
    if kind == 'int8' and difference.agreement < LEAST_AGREEMENT:
        print(
            f'warning: in 8 bits {1 - difference.agreement:.1%} of the {difference.choices} are other ones. '
            f'Score the file with evaluate_onnx.py before it is used.',
            file=sys.stderr,
        )
    onnx_file.remove(path)
    onnx_file.write(reduced, path, dict(about, precision=kind))


def check_difference(difference, kind):
    """Refuse a file that gives no numbers, or one of float16 that is too far from float32.

    Raises:
        DeploymentError: If it is so.
    """
    if difference.error == float('inf'):
        raise build.DeploymentError(f'What it gives in {kind} is not finite, or of another shape.')
    if kind == 'float16' and not difference.error <= FLOAT16_TOLERANCE:
        raise build.DeploymentError(
            f'In float16 it would differ from float32 by {difference.error:.1e}, and at most '
            f'{FLOAT16_TOLERANCE:.0e} is allowed.'
        )


def main(argv=None):
    args = parse_args(argv)
    start = time.perf_counter()
    try:
        paths = find_images(args)
        graph, about, image = prepare(args)
        images = prepare_images(about, args, paths)
    except (CheckpointError, build.DeploymentError, ImportError, OSError, RuntimeError) as error:
        sys.exit(f'{args.checkpoint} was not exported. {error}')
    size = tuple(image.shape[1:3] if args.preprocess else image.shape[2:])
    partial = args.out.with_name(f'.{args.out.stem}.part{args.out.suffix}')
    make = make_program if args.out.suffix == '.pt2' else make_onnx
    try:
        run = make(graph, about, image, partial)
        seconds = time.perf_counter() - start
        print(f'exported in {seconds:.0f} s; largest difference to PyTorch, relative:')
        error = compare(graph, run, about, size)
        if not error <= proof.TOLERANCE:
            sys.exit(f'{args.out} was not written: it would differ from PyTorch by {error:.1e}.')
        if args.fp16 or args.int8:
            lower_precision(partial, about, size, args, images)
        onnx_file.move(partial, args.out)
    except build.DeploymentError as failure:
        sys.exit(f'{args.out} was not written. {failure}')
    finally:
        onnx_file.remove(partial)
    size = args.out.stat().st_size / 2**20
    source = ', made of one in float32' if args.fp16 or args.int8 else ''
    print(f'{args.out}: {about["task"]}, {size:.1f} MiB{source}, within {error:.1e} of PyTorch')


if __name__ == '__main__':
    main()
