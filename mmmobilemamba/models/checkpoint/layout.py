"""Detects the layout of a state dict (the authors' or that of this package), its form and its arch."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..arch import ARCHS
from .names import rename

# Keys that no other network has. Others do have `patch_embed.proj` (ViT), `patch_embed.0.c` and
# `blocks1.0.mixer.m` (EfficientViT), `stem.0.weight` (ConvNeXt), `stem.0.conv` (CSPNeXt) and
# `stages.0.blocks.0.mixer.m` (EfficientViT in timm).
AUTHORS = r'blocks[123]\.\d+\.mixer\.m\.attn\.(global_op|local_op)\.'
OURS = r'stages\.\d\.(blocks\.\d+|downsample)\.((dw0|dw1|ffn0|ffn1|mixer)\.fn|merge\.conv1)\.'
FUSED = r'patch_embed\.0\.weight$|stem\.0\.weight$|stages\.\d\.blocks\.\d+\.dw0\.weight$'


def is_authors(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the keys are the authors' names of a backbone, fused or not (bool)."""
    return any(re.match(AUTHORS, key) for key in state_dict)


def is_ours(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the keys are this package's names of a backbone (bool)."""
    return any(re.match(OURS, key) for key in state_dict)


def is_fused(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether batch norms are folded into the convolutions, in either layout (bool)."""
    return any(re.match(FUSED, key) for key in state_dict)


def backbone_part(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of the backbone, without the prefix ``backbone.``.

    Args:
        state_dict (dict[str, Tensor]): A backbone or a model with one, in either layout.

    Returns:
        dict[str, Tensor]: All entries if the state dict is that of a backbone; {} if there is no backbone.
    """
    for prefix in ('', 'backbone.'):
        part = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        if is_authors(part) or is_ours(part):
            return part
    return {}


def guess_archs(state_dict: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Archs whose widths and depths match those of a backbone.

    Args:
        state_dict (dict[str, Tensor]): Result of :func:`backbone_part`.

    Returns:
        tuple[str]: Names of the archs; () if none matches.
    """
    ours = is_ours(state_dict)
    keys = {key if ours else rename(key): value for key, value in state_dict.items()}
    pattern = r'^stages\.(\d)\.blocks\.(\d+)\.dw0\.(?:fn\.)?(?:conv\.)?weight$'
    blocks = {
        tuple(map(int, match.groups())): value.shape[0]
        for key, value in keys.items()
        if (match := re.match(pattern, key)) and isinstance(value, Tensor) and value.ndim
    }
    stages = sorted({stage for stage, _ in blocks})
    if stages != list(range(len(stages))) or not stages:
        return ()
    widths = tuple(blocks.get((stage, 0)) for stage in stages)
    depths = tuple(sum(1 for found, _ in blocks if found == stage) for stage in stages)
    sizes = len(stages)
    return tuple(
        name
        for name, arch in ARCHS.items()
        if arch['embed_dims'][:sizes] == widths and arch['depths'][:sizes] == depths
    )


def describe(state_dict: Mapping[str, Tensor]) -> str:
    """Arch, layout and form of a state dict in words, for error messages (str)."""
    part = backbone_part(state_dict)
    if not part:
        keys = ', '.join(list(map(str, state_dict))[:3]) or 'none'
        return f'no MobileMamba (its first keys: {keys})'
    archs = '/'.join(name.upper() for name in guess_archs(part)) or 'of unknown size'
    layout = "in the authors' layout" if is_authors(part) else 'in the layout of this package'
    fused = ', in the deployed form' if is_fused(part) else ''
    return f'a MobileMamba {archs} {layout}{fused}'
