"""What a state dict is: the authors' layout or ours, folded or not, and of which arch."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..arch import ARCHS
from .names import rename

# Keys that no other network has. Met elsewhere are `patch_embed.proj` (ViT), `patch_embed.0.c` and
# `blocks1.0.mixer.m` (EfficientViT), `stem.0.weight` (ConvNeXt), `stem.0.conv` (CSPNeXt) and
# `stages.0.blocks.0.mixer.m` (EfficientViT in timm).
AUTHORS = r'blocks[123]\.\d+\.mixer\.m\.attn\.(global_op|local_op)\.'
OURS = r'stages\.\d\.(blocks\.\d+|downsample)\.((dw0|dw1|ffn0|ffn1|mixer)\.fn|merge\.conv1)\.'
FUSED = r'patch_embed\.0\.weight$|stem\.0\.weight$|stages\.\d\.blocks\.\d+\.dw0\.weight$'


def is_authors(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the keys are the authors' names of a backbone, fused or not."""
    return any(re.match(AUTHORS, key) for key in state_dict)


def is_ours(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the keys are our names of a backbone."""
    return any(re.match(OURS, key) for key in state_dict)


def is_fused(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether batch norms are folded into the convolutions, in the authors' layout or ours."""
    return any(re.match(FUSED, key) for key in state_dict)


def backbone_part(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a backbone, without ``backbone.``: all of a bare one's, {} if there is none."""
    for prefix in ('', 'backbone.'):
        part = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        if is_authors(part) or is_ours(part):
            return part
    return {}


def guess_archs(state_dict: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names of the archs whose stage widths and depths a backbone has; () if none fits."""
    keys = {key if is_ours(state_dict) else rename(key): value for key, value in state_dict.items()}
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
    """What a state dict looks like, in words."""
    part = backbone_part(state_dict)
    if not part:
        keys = ', '.join(list(map(str, state_dict))[:3]) or 'none'
        return f'no MobileMamba (its first keys: {keys})'
    archs = '/'.join(name.upper() for name in guess_archs(part)) or 'of unknown size'
    layout = "in the authors' layout" if is_authors(part) else 'in the layout of this package'
    fused = ', in the deployed form' if is_fused(part) else ''
    return f'a MobileMamba {archs} {layout}{fused}'
