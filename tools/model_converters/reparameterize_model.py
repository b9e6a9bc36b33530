"""Fold a trained checkpoint for inference: of a classifier, a detector or a segmentor.

    python tools/model_converters/reparameterize_model.py CONFIG CHECKPOINT OUT
    mim run mmmobilemamba reparameterize_model CONFIG CHECKPOINT OUT

folds all that has a ``switch_to_deploy``: MobileMamba, its head in mmpretrain, DeconvFPN. OUT is a
checkpoint for the same config with the options that the tool prints, such as
``--cfg-options model.backbone.deploy=True``; they are in the config that OUT holds, too. The features
of both on one random image are compared before anything is written.
"""

import argparse
import copy
import os
import sys
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint

from mmmobilemamba.models.checkpoint import CheckpointError

TOLERANCE = 1e-3  # relative; folding moves float32 by some 1e-6


def build(config, checkpoint):
    """The model of a config with a checkpoint's weights, in evaluation, and the checkpoint.

    Raises:
        CheckpointError, RuntimeError: If they do not fit completely.
    """
    init_default_scope(config.get('default_scope', 'mmengine'))
    model = MODELS.build(config.model)
    content = load_checkpoint(model, str(checkpoint), map_location='cpu', strict=True)
    return model.eval(), content


def switch_to_deploy(model):
    """Fold what can be folded.

    Args:
        model (nn.Module): Changed in place.

    Returns:
        list[str]: Names of the parts that were folded.
    """
    parts = [(name, module) for name, module in model.named_modules() if hasattr(module, 'switch_to_deploy')]
    for _, module in parts:
        module.switch_to_deploy()
    return [name for name, _ in parts]


@torch.no_grad()
def difference(model, folded):
    """Largest difference of the features of two models, relative to the largest value."""
    image = torch.rand(1, 3, 64, 96) * 2 - 1
    outputs = [part.extract_feat(image) for part in (model, folded)]
    pairs = list(zip(*outputs))
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in pairs)


def save(checkpoint, path):
    """Write a checkpoint in one go."""
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
    parser.add_argument('config', help='config file of the model')
    parser.add_argument('checkpoint', type=Path, help='its checkpoint, as trained')
    parser.add_argument('out', type=Path, help='where to write, a name that ends in .pth')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, help='changes of the config'
    )
    args = parser.parse_args(argv)
    if args.out.suffix != '.pth':
        parser.error(f'OUT must end in .pth, not {args.out.name}')
    if not args.out.parent.is_dir():
        parser.error(f'there is no folder {args.out.parent}; make it first')
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options)
    try:
        model, content = build(config, args.checkpoint)
    except (CheckpointError, OSError, RuntimeError) as error:
        sys.exit(f'{args.checkpoint} was not folded. {error}')
    folded = copy.deepcopy(model)
    parts = switch_to_deploy(folded)
    if not parts:
        sys.exit(f'{args.config} has nothing to fold: no MobileMamba, MobileMambaClsHead or DeconvFPN.')
    found = difference(model, folded)
    if not found < TOLERANCE:
        sys.exit(f'{args.checkpoint} was not folded: its features would change by {found:.1e}.')
    options = {f'model.{name}.deploy': True for name in parts}
    config.merge_from_dict(options)
    meta = {**content.get('meta', {}), 'cfg': config.pretty_text}
    save(dict(meta=meta, state_dict=folded.state_dict()), args.out)
    print(f'{args.out}: folded {", ".join(parts)}; features within {found:.1e} of the largest. Load it with')
    print(f'--cfg-options {" ".join(f"{key}=True" for key in options)}')


if __name__ == '__main__':
    main()
