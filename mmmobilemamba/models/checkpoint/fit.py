"""Checks that weights match a network completely."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from .convert import convert_backbone
from .layout import backbone_part, describe, is_fused
from .read import CheckpointError

if TYPE_CHECKING:
    from ..backbones import MobileMamba


def is_deployed(backbone: MobileMamba) -> bool:
    """Whether a backbone is in its deployed form, batch norms folded into the convolutions."""
    return backbone.is_deployed


def check_form(folded: bool, wanted: bool, part: str, or_else: str | None = None) -> None:
    """Compare the form of a checkpoint with that of the network.

    Args:
        folded (bool): Whether the checkpoint is in the deployed form.
        wanted (bool): Whether the network is.
        part (str): What it is, in words.
        or_else (str, optional): What else than folded it may be, where its keys do not tell.

    Raises:
        CheckpointError: If they differ, with what to do.
    """
    if folded and not wanted:
        doubt = f' (or was {or_else}: then build it without them, too)' if or_else else ''
        raise CheckpointError(
            f'The {part} of this checkpoint is in the deployed form, which cannot be undone: build it with '
            f'deploy=True, or load the checkpoint from which it was made{doubt}.'
        )
    if wanted and not folded:
        raise CheckpointError(
            f'The {part} is built with deploy=True, but this checkpoint is not: build it with '
            f'deploy=False, load, and call switch_to_deploy(), or deploy the file with '
            f'tools/model_converters/reparameterize_model.py.'
        )


def fitting_weights(backbone: MobileMamba, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights for a backbone under our names, out of a state dict in any known form.

    Raises:
        CheckpointError: If they are not those of a MobileMamba that fits completely.
    """
    looks_like = describe(state_dict)
    part = backbone_part(state_dict)
    if not part:
        raise CheckpointError(f'The checkpoint looks like {looks_like}.')
    weights = convert_backbone(part)
    check_form(is_fused(weights), is_deployed(backbone), 'backbone')
    return check_fit(backbone, weights, looks_like)


def check_fit(backbone: MobileMamba, weights: Mapping[str, Tensor], looks_like: str) -> dict[str, Tensor]:
    """Compare names and shapes of ``weights`` with a backbone; drop stages that it does not build.

    Returns:
        dict[str, Tensor]: The weights that the backbone takes.

    Raises:
        CheckpointError: If a key is left over, missing or of the wrong shape.
    """
    built = len(backbone.stages)
    wanted = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    weights = {key: value for key, value in weights.items() if not is_beyond(key, built)}
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    problems = {
        'left over': [key for key in shapes if key not in wanted],
        'missing': [key for key in wanted if key not in shapes and not key.endswith('num_batches_tracked')],
        'of another shape': [
            f'{key} {shapes[key]} instead of {wanted[key]}'
            for key in wanted
            if key in shapes and shapes[key] != wanted[key]
        ],
    }
    problems = {kind: keys for kind, keys in problems.items() if keys}
    if problems:
        lines = [f'{len(keys)} {kind}: {"; ".join(keys[:3])}' for kind, keys in problems.items()]
        widths, depths = backbone.arch['embed_dims'], backbone.arch['depths']
        raise CheckpointError(
            f'The checkpoint does not fit this MobileMamba of widths {widths} and depths {depths}.\n  '
            + '\n  '.join(lines)
            + f'\nIt looks like {looks_like}. Build the backbone with the `arch` and `in_channels` of the '
            f'checkpoint, or choose the checkpoint of this arch.'
        )
    return weights


def is_beyond(key: str, built: int) -> bool:
    """Whether a key belongs to a stage of the paper's three after the first ``built``."""
    match = re.match(r'stages\.(\d)\.', key)
    return match is not None and built <= int(match[1]) < 3
