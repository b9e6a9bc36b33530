"""Convert a checkpoint of the MobileMamba authors to an OpenMMLab classifier checkpoint.

    python tools/model_converters/mobilemamba_to_mm.py mobilemamba_b1.pth mobilemamba-b1_in1k.pth

Writes ``mobilemamba-b1_in1k-<sha256[:8]>.pth`` with the keys ``backbone.*`` and ``head.*`` of an
mmpretrain ImageClassifier (MobileMamba, GlobalAveragePooling, MobileMambaClsHead).
The file contains only tensors and plain values. It is only written if the checkpoint matches completely.
"""

import argparse
import hashlib
import io
import os
import sys
from pathlib import Path

import torch

from mmmobilemamba import MobileMamba
from mmmobilemamba.models.checkpoint import (
    WRAPPERS,
    CheckpointError,
    backbone_part,
    convert_head,
    describe,
    fetch_checkpoint,
    fitting_weights,
    guess_archs,
    is_authors,
    unwrap,
)
from mmmobilemamba.weights import checkpoint_argument

HEAD_KEYS = {
    f'head.head.{name}'
    for name in (
        'bn.weight',
        'bn.bias',
        'bn.running_mean',
        'bn.running_var',
        'bn.num_batches_tracked',
        'linear.weight',
        'linear.bias',
    )
}


def convert(checkpoint, raw=False):
    """Convert an authors' checkpoint to ``dict(state_dict=..., meta=...)``.

    Args:
        checkpoint (dict): From :func:`fetch_checkpoint`.
        raw (bool): Prefer the raw weights (``net``) to their EMA (``net_E``).

    Returns:
        dict: An OpenMMLab checkpoint.

    Raises:
        CheckpointError: If it is not a classifier of the authors, or a key is unexpected, missing or has
            another shape.
    """
    wrappers = (*(name for name in WRAPPERS if name != 'net_E'), 'net_E') if raw else WRAPPERS
    state_dict = backbone_part(unwrap(checkpoint, wrappers))
    looks_like = describe(state_dict)
    if not is_authors(state_dict):
        raise CheckpointError(f"The file looks like {looks_like}, not one in the authors' layout.")
    archs = guess_archs(state_dict)
    if not archs:
        raise CheckpointError(f'The file looks like {looks_like}, so there is no arch to convert it to.')
    with torch.device('meta'):
        backbone = MobileMamba(archs[0])
    converted = {f'backbone.{key}': value for key, value in fitting_weights(backbone, state_dict).items()}
    head = convert_head(state_dict)
    check_head(head, backbone.out_channels[-1])
    converted.update(head)
    state_dict = {key: value.detach().cpu().contiguous().clone() for key, value in converted.items()}
    weights = next((name for name in wrappers if isinstance(checkpoint.get(name), dict)), 'flat')
    return dict(meta=dict(arch='/'.join(archs), weights=weights, layout='mmpretrain'), state_dict=state_dict)


def check_head(head, channels):
    """Check that the head is a BatchNorm1d and a Linear with ``channels`` inputs, and nothing else."""
    missing, left_over = sorted(HEAD_KEYS - set(head)), sorted(set(head) - HEAD_KEYS)
    if missing or left_over:
        raise CheckpointError(
            f'The head is not the BatchNorm1d and Linear of a plain classifier.\n'
            f'  missing: {missing[:3]}\n  left over: {left_over[:3]}'
        )
    classes = len(head['head.head.linear.weight'])
    shapes = {'linear.weight': (classes, channels), 'linear.bias': (classes,), 'bn.num_batches_tracked': ()}
    for key, value in head.items():
        expected = shapes.get(key[len('head.head.') :], (channels,))
        if tuple(value.shape) != expected:
            raise CheckpointError(f'{key} has shape {tuple(value.shape)} instead of {expected}.')


def save(checkpoint, destination):
    """Read a checkpoint back and compare it, then write it with its hash in the file name.

    Args:
        checkpoint (dict): Tensors and plain values.
        destination (Path): ``name.pth`` becomes ``name-<sha256[:8]>.pth``.

    Returns:
        Path: The file.
    """
    buffer = io.BytesIO()  # torch.save would store the file name, which would change the hash
    torch.save(checkpoint, buffer)
    content = buffer.getvalue()
    back = torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)['state_dict']
    state_dict = checkpoint['state_dict']
    if set(back) != set(state_dict) or not all(torch.equal(back[key], state_dict[key]) for key in back):
        raise CheckpointError('The converted checkpoint differs when read back; nothing was written.')
    digest = hashlib.sha256(content).hexdigest()[:8]
    path = destination.with_name(f'{destination.stem}-{digest}.pth')
    partial = path.with_name(f'.{path.name}.part')
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        'src', type=checkpoint_argument, help="the authors' checkpoint, a file or mobilemamba://NAME"
    )
    parser.add_argument('dst', type=Path, help='file to write, ending in .pth')
    parser.add_argument(
        '--raw', action='store_true', help='use the raw weights even if there is a moving average'
    )
    args = parser.parse_args(argv)
    if args.dst.suffix != '.pth':
        parser.error(f'DST must end in .pth, not {args.dst.name}')
    if not args.dst.parent.is_dir():
        parser.error(f'there is no folder {args.dst.parent}; make it first')
    try:
        checkpoint = convert(fetch_checkpoint(args.src), args.raw)
        path = save(checkpoint, args.dst)
    except (CheckpointError, OSError) as error:
        sys.exit(f'{args.src} was not converted. {error}')
    tensors = checkpoint['state_dict'].values()
    size = sum(tensor.numel() for tensor in tensors) / 1e6
    print(f'{path}: MobileMamba {checkpoint["meta"]["arch"]}, {len(tensors)} tensors, {size:.2f} M numbers')


if __name__ == '__main__':
    main()
