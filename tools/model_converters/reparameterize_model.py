"""Convert a trained checkpoint of a classifier, detector or segmentor to the deployed form.

    python tools/model_converters/reparameterize_model.py CONFIG CHECKPOINT OUT
    mim run mmmobilemamba reparameterize_model CONFIG CHECKPOINT OUT

Folds all modules with a ``switch_to_deploy``: MobileMamba, its head in mmpretrain, DeconvFPN. To use OUT, add
the options that the tool prints to the config, such as ``--cfg-options model.backbone.deploy=True``; the
config stored in OUT contains them, too. Before writing OUT, the tool loads it into the deployed model and
compares the outputs of both models on one random image.
"""

import argparse
import copy
import os
import sys
from pathlib import Path

import torch
from mmengine.config import DictAction
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmmobilemamba.models import deploy
from mmmobilemamba.models.checkpoint import CheckpointError, fetch_checkpoint, load_whole_model
from mmmobilemamba.utils import codebase_of, config_argument, read_config
from mmmobilemamba.weights import checkpoint_argument

TOLERANCE = 1e-3  # relative; folding changes float32 outputs by about 1e-6


def build(config):
    """Build the model of a config in eval mode, without loading weights."""
    init_default_scope(codebase_of(config) or 'mmengine')
    return MODELS.build(config.model).eval()


@torch.no_grad()
def difference(model, folded):
    """Largest difference between the outputs of two models for an image, relative to the largest value.

    Compares the features of the neck or backbone, and the logits of a classifier.
    """
    image = torch.rand(1, getattr(model.backbone, 'in_channels', 3), 128, 192) * 2 - 1
    outputs = [list(part.extract_feat(image)) for part in (model, folded)]
    if isinstance(getattr(model, 'head', None), nn.Module):
        outputs = [[*maps, part(image, mode='tensor')] for maps, part in zip(outputs, (model, folded))]
    return torch.stack([(a - b).abs().max() / a.abs().max() for a, b in zip(*outputs)]).max().item()


def fold(config, path):
    """Fold the checkpoint of a config.

    Returns:
        tuple[dict, dict, float]: The folded checkpoint, the config options for it, and the difference between
        the outputs.

    Raises:
        CheckpointError, FileNotFoundError, RuntimeError: If the checkpoint cannot be read or does not match,
            or the config cannot be built in the deployed form.
    """
    content = fetch_checkpoint(path)
    model = build(config)
    load_whole_model(model, content.get('state_dict', content))
    folded = copy.deepcopy(model)
    options = {f'model.{name}.deploy': True for name in deploy(folded)}
    if not options:
        raise RuntimeError('There is nothing to fold: no MobileMamba, MobileMambaClsHead or DeconvFPN.')
    config = copy.deepcopy(config)
    config.merge_from_dict(options)
    try:
        again = build(config)
        again.load_state_dict(folded.state_dict())
    except (RuntimeError, TypeError) as error:
        raise RuntimeError(f'The config cannot be built with {", ".join(options)}: {error}') from error
    meta = {**content.get('meta', {}), 'cfg': config.pretty_text}
    # In PyTorch's default memory layout, independent of this machine.
    state_dict = {key: value.contiguous() for key, value in folded.state_dict().items()}
    return dict(meta=meta, state_dict=state_dict), options, difference(model, again)


def save(checkpoint, path):
    """Write a checkpoint atomically."""
    partial = path.with_name(f'.{path.name}.part')
    try:
        torch.save(checkpoint, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('config', type=config_argument, help='config file of the model')
    parser.add_argument(
        'checkpoint',
        type=checkpoint_argument,
        help="its checkpoint, as trained; mobilemamba://NAME is one of the authors'",
    )
    parser.add_argument('out', type=Path, help='file to write, ending in .pth')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, help='changes to the config'
    )
    args = parser.parse_args(argv)
    if args.out.suffix != '.pth':
        parser.error(f'OUT must end in .pth, not {args.out.name}')
    if not args.out.parent.is_dir():
        parser.error(f'there is no folder {args.out.parent}; make it first')
    if args.out.exists() and Path(args.checkpoint).exists() and args.out.samefile(args.checkpoint):
        parser.error('OUT is CHECKPOINT, which folding cannot be undone from; give it another name')
    config = read_config(args.config, args.cfg_options)
    try:
        checkpoint, options, found = fold(config, args.checkpoint)
    except (CheckpointError, OSError, RuntimeError) as error:
        sys.exit(f'{args.checkpoint} was not folded. {error}')
    if not found < TOLERANCE:
        sys.exit(f'{args.checkpoint} was not folded: its outputs would change by {found:.1e}.')
    save(checkpoint, args.out)
    parts = ', '.join(key.split('.')[-2] for key in options)
    print(f'{args.out}: folded {parts}; outputs within {found:.1e} of the largest. Load it with')
    print(f'--cfg-options {" ".join(f"{key}=True" for key in options)}')


if __name__ == '__main__':
    main()
