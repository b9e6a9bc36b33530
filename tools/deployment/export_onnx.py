"""Export a trained network: to ONNX, in standard operators alone, or to a program of torch.export.

    python tools/deployment/export_onnx.py CONFIG CHECKPOINT OUT.onnx
    mim run mmmobilemamba export_onnx CONFIG CHECKPOINT OUT.onnx

takes classifiers (logits, and the best classes), detectors (boxes, scores, labels, masks; overlapping boxes
are suppressed inside), segmentors (the class of each pixel) and, with ``--backbone``, the backbone alone.
The batch is free, and with ``--dynamic`` the size, too. The file is run in ONNX Runtime and compared with
PyTorch for several images, and only if they agree to 1e-4 does it take the place of OUT. A name that ends
in .pt2 asks for a program of torch.export instead, which needs mmmobilemamba for detectors.
"""

import argparse
import json
import sys
import time
from pathlib import Path

try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401
except ImportError as missing:
    raise SystemExit(
        f'export_onnx.py: error: {missing}. It needs: python -m pip install onnx onnxruntime onnxscript'
    ) from None

import torch
from mmengine.config import DictAction

from mmmobilemamba.deployment import build, onnx_file, proof
from mmmobilemamba.models.checkpoint import CheckpointError


def parse_args(argv):
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('config', help='config file of the network')
    parser.add_argument('checkpoint', type=Path, help='its checkpoint, folded for inference or not')
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
    parser.add_argument('--topk', type=int, default=5, help='classes that a classifier names (default: 5)')
    parser.add_argument('--logits', action='store_true', help='of a segmentor, too')
    parser.add_argument(
        '--preprocess', action='store_true', help='normalise inside: images are uint8, RGB, (N, H, W, 3)'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, help='changes of the config'
    )
    args = parser.parse_args(argv)
    if args.out.suffix not in ('.onnx', '.pt2'):
        parser.error(f'OUT must end in .onnx or .pt2, not {args.out.name}')
    if not args.out.parent.is_dir():
        parser.error(f'there is no folder {args.out.parent}; make it first')
    if args.size and len(args.size) > 2:
        parser.error('--size takes one or two numbers')
    if args.topk < 1:
        parser.error('--topk must be 1 or more')
    return args


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
    about = build.describe(config, task)
    size = build.input_size(about, args.size)
    about.update(size=None if args.dynamic else size, preprocessed=args.preprocess)
    graph = build.make_graph(model, task, args.topk, args.logits)
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    if args.preprocess:
        graph, image = build.with_preprocessing(graph, about), proof.to_pixels(image)
    return graph.eval(), about, image


def compare(graph, run, about, size):
    """Print how far PyTorch and ``run`` are apart for several images; the largest error."""
    worst = 0.0
    images = proof.test_images(size, about['size'] is None, about['preprocessed'])
    for name, image in images:
        with torch.no_grad(), proof.Candidates() as candidates:
            expected = list(graph(image))
        found = run(image)
        count = len(expected)
        error = proof.largest_error(about['task'], expected, found[:count])
        if len(found) > count:
            error = max(error, proof.candidates_error(candidates.found, found[count:]))
        print(f'  {name}, {"x".join(map(str, image.shape))}: {error:.1e}')
        worst = max(worst, error)
    return worst


def make_program(graph, about, image, path):
    """Write a program of torch.export, read it again, and return what runs it."""
    program = onnx_file.to_program(graph, image, about['size'] is None)
    torch.export.save(program, path, extra_files={'mmmobilemamba.json': json.dumps(about)})
    loaded = torch.export.load(path).module()

    def run(image):
        with torch.no_grad(), proof.Candidates() as candidates:
            return [*loaded(image), *candidates.found]

    return run


def make_onnx(graph, about, image, path):
    """Write a file of ONNX, print what it holds, and return what runs it."""
    proto = onnx_file.to_onnx(graph, image, about['size'] is None)
    counts = onnx_file.operators(proto)
    print(f'{sum(counts.values())} nodes: {", ".join(f"{n} {name}" for name, n in counts.most_common())}')
    onnx_file.write(proto, path, about)
    session = onnx_file.open_session(path)
    if 'NonMaxSuppression' in counts:
        session = onnx_file.open_session(onnx_file.with_candidates(proto).SerializeToString())

    def run(image):
        outputs = [torch.from_numpy(x) for x in onnx_file.run(session, image)]
        return [x.flatten(1) if x.ndim == 3 and x.shape[1] == 1 and x.shape[2] != 4 else x for x in outputs]

    return run


def main(argv=None):
    args = parse_args(argv)
    start = time.perf_counter()
    try:
        graph, about, image = prepare(args)
    except (CheckpointError, build.DeploymentError, OSError, RuntimeError) as error:
        sys.exit(f'{args.checkpoint} was not exported. {error}')
    size = image.shape[1:3] if args.preprocess else image.shape[2:]
    partial = args.out.with_name(f'.{args.out.stem}.part{args.out.suffix}')
    make = make_program if args.out.suffix == '.pt2' else make_onnx
    try:
        run = make(graph, about, image, partial)
        seconds = time.perf_counter() - start
        print(f'exported in {seconds:.0f} s; largest difference to PyTorch, relative:')
        error = compare(graph, run, about, tuple(size))
        if not error <= proof.TOLERANCE:
            sys.exit(f'{args.out} was not written: it would differ from PyTorch by {error:.1e}.')
        onnx_file.move(partial, args.out)
    finally:
        onnx_file.remove(partial)
    size = args.out.stat().st_size / 2**20
    print(f'{args.out}: {about["task"]}, {size:.1f} MiB, within {error:.1e} of PyTorch')


if __name__ == '__main__':
    main()
