"""Checks whether weights match a network."""

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
    """Whether a backbone is in its deployed form, with batch norms folded into the convolutions (bool)."""
    return backbone.is_deployed


def check_form(folded: bool, wanted: bool, part: str, or_else: str | None = None) -> None:
    """Check that checkpoint and network are both deployed or both not.

    Args:
        folded (bool): Whether the checkpoint is in the deployed form.
        wanted (bool): Whether the network is in the deployed form.
        part (str): Name of the part for the error message, such as ``'backbone'``.
        or_else (str, optional): Another explanation for keys that look deployed, for the error message.
            Defaults to None.

    Raises:
        CheckpointError: If the forms differ; the message says what to do.
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
    """Load weights into a whole OpenMMLab model, strictly.

    Args:
        model (nn.Module): The model.
        state_dict (dict[str, Tensor]): Its weights.

    Raises:
        CheckpointError: If a key is unexpected, missing or of the wrong shape; the message lists the first
            ones.
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
    """Extract the weights of a backbone from a state dict in any known layout.

    Args:
        backbone (MobileMamba): The backbone to load.
        state_dict (dict[str, Tensor]): A backbone or a model with one, in the authors' layout or that of this
            package.

    Returns:
        dict[str, Tensor]: The weights under the names of this package, without stages that ``backbone`` does
        not build.

    Raises:
        CheckpointError: If there is no MobileMamba in it, or it does not match completely.
    """
    looks_like = describe(state_dict)
    part = backbone_part(state_dict)
    if not part:
        raise CheckpointError(f'The checkpoint looks like {looks_like}.')
    weights = convert_backbone(part)
    check_form(is_fused(weights), is_deployed(backbone), 'backbone')
    return check_fit(backbone, adapt_input(backbone, weights), looks_like)


def check_fit(backbone: MobileMamba, weights: Mapping[str, Tensor], looks_like: str) -> dict[str, Tensor]:
    """Compare names and shapes of weights with a backbone, and drop stages that it does not build.

    Args:
        backbone (MobileMamba): The backbone to load.
        weights (dict[str, Tensor]): Weights under the names of this package.
        looks_like (str): Result of :func:`~.layout.describe`, for the error message.

    Returns:
        dict[str, Tensor]: The weights to load.

    Raises:
        CheckpointError: If a key is unexpected, missing or of the wrong shape.
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
    """Refuse weights of another network: less than half of them match a backbone by name and shape.

    Any two different archs of the family have less than half of their entries in common.

    Args:
        backbone (MobileMamba): The backbone to load.
        weights (dict[str, Tensor]): Weights under the names of this package, possibly incomplete.

    Raises:
        CheckpointError: If less than half match.
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
    """Descriptions of the keys whose shapes differ from ``wanted``."""
    return [
        f'{key} {shapes[key]} instead of {wanted[key]}'
        for key in wanted
        if key in shapes and shapes[key] != wanted[key]
    ]


def _misfit(backbone, problems, looks_like):
    """Error message with the first keys of each problem, what the checkpoint looks like, and what to do."""
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
    """Adapt the first convolution of RGB weights to the ``in_channels`` of a backbone.

    For one channel, the RGB weights are summed. For n channels, they are repeated cyclically to n channels
    and scaled by 3 / n, so that an image with equal channels gives about the same features. Source:
    ``adapt_input_conv`` of
    https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/_manipulate.py.

    Args:
        backbone (MobileMamba): Weights are adapted only if it was built with ``adapt_in_channels=True``.
        weights (dict[str, Tensor]): Weights under the names of this package. They are changed only if their
            first convolution has three input channels.

    Returns:
        dict[str, Tensor]: A copy of the dict, with a first convolution (C, in_channels, 3, 3).
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
    """Whether a key belongs to one of the three stages, but not to the first ``built`` ones (bool)."""
    match = re.match(r'stages\.(\d)\.', key)
    return match is not None and built <= int(match[1]) < 3
