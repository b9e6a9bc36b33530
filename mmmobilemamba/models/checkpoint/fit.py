"""Checks that weights match a network completely."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from .convert import convert_backbone
from .layout import backbone_part, describe, is_fused
from .read import CheckpointError

if TYPE_CHECKING:
    from ..backbones import MobileMamba

COUNTER = 'num_batches_tracked'


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


def load_whole_model(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load weights into all of a model of OpenMMLab.

    Raises:
        CheckpointError: If a key is left over, missing or of the wrong shape; the message has the first ones.
    """
    try:
        load_state_dict(model, state_dict, strict=True)
    except CheckpointError:
        raise
    except RuntimeError as error:
        lines = [textwrap.shorten(line, 200) for line in str(error).splitlines() if line.strip()]
        text = '\n  '.join([*lines[:12], *(['[...]'] if len(lines) > 12 else [])])
        raise CheckpointError(
            f'The checkpoint does not fit this {type(model).__name__}; it is of another config, or of '
            f'another number of classes.\n  {text}'
        ) from error


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
    return check_fit(backbone, adapt_input(backbone, weights), looks_like)


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
        'missing': [key for key in wanted if key not in shapes and not key.endswith(COUNTER)],
        'of another shape': _other_shapes(shapes, wanted),
    }
    problems = {kind: keys for kind, keys in problems.items() if keys}
    if problems:
        raise CheckpointError(_misfit(backbone, problems, looks_like))
    return weights


def check_overlap(backbone: MobileMamba, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights of which less than half fit a backbone by name and shape: those of another network.

    Two archs of the family that are not the same have less than that in common.

    Raises:
        CheckpointError: If it is so.
    """
    wanted = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    shapes = {
        key: tuple(value.shape)
        for key, value in weights.items()
        if isinstance(value, Tensor) and not key.endswith(COUNTER)
    }
    fitting = [key for key in shapes if shapes[key] == wanted.get(key)]
    if 2 * len(fitting) < len(shapes):
        problems = {
            'left over': [key for key in shapes if key not in wanted],
            'of another shape': _other_shapes(shapes, wanted),
        }
        problems = {kind: keys for kind, keys in problems.items() if keys}
        raise CheckpointError(_misfit(backbone, problems, describe(weights)))


def _other_shapes(shapes, wanted):
    """Which keys have another shape than ``wanted``, with both."""
    return [
        f'{key} {shapes[key]} instead of {wanted[key]}'
        for key in wanted
        if key in shapes and shapes[key] != wanted[key]
    ]


def _misfit(backbone, problems, looks_like):
    """The message: the first keys of each problem, what the checkpoint looks like, and what to do."""
    lines = [f'{len(keys)} {kind}: {"; ".join(keys[:3])}' for kind, keys in problems.items()]
    widths, depths = backbone.arch['embed_dims'], backbone.arch['depths']
    return (
        f'The checkpoint does not fit this MobileMamba of widths {widths} and depths {depths}.\n  '
        + '\n  '.join(lines)
        + f'\nIt looks like {looks_like}. Build the backbone with the `arch` and `in_channels` of the '
        f'checkpoint (adapt_in_channels=True takes RGB weights for other channels), or choose the '
        f'checkpoint of this arch.'
    )


def adapt_input(backbone: MobileMamba, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose first convolution reads as many channels as the backbone's, if it adapts them.

    RGB weights are summed for one channel; for n they are repeated in turn, cut to n and scaled by 3 / n,
    so that an image with the same values in all channels gives features alike. Source: ``adapt_input_conv``
    of https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/_manipulate.py.

    Args:
        backbone (MobileMamba): Adapts with ``adapt_in_channels=True``; else nothing is changed.
        weights (dict[str, Tensor]): Under our names; weights of other than three channels stay.

    Returns:
        dict[str, Tensor]: The same, with another first convolution, (C, in_channels, 3, 3).
    """
    weights = dict(weights)
    channels = backbone.in_channels
    for key in ('stem.0.conv.weight', 'stem.0.weight'):
        rgb = weights.get(key)
        if (
            not backbone.adapt_in_channels
            or channels == 3
            or rgb is None
            or rgb.ndim != 4
            or rgb.shape[1] != 3
        ):
            continue
        repeated = rgb.float().repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)
        weights[key] = (rgb.float().sum(1, keepdim=True) if channels == 1 else repeated).to(rgb.dtype)
    return weights


def is_beyond(key: str, built: int) -> bool:
    """Whether a key belongs to a stage of the paper's three after the first ``built``."""
    match = re.match(r'stages\.(\d)\.', key)
    return match is not None and built <= int(match[1]) < 3
