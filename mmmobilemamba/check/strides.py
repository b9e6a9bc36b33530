"""Compares strides and number of feature maps with those of anchors, points and RoI extractors.

A detector whose anchor strides differ from those of its maps trains without an error, but places all boxes in
a corner of the image.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config
from torch import Tensor, nn

from .failures import FAILURES
from .finding import Finding, as_text, importing, lookup, merge, nest_in
from .maps import Part, maps_of

SIDE = 1024  # px; a multiple of all strides, and four times the largest common one
GENERATORS = ('prior_generator', 'anchor_generator', 'square_anchor_generator')
OWN = ('strides', 'point_strides', 'featmap_strides')  # arguments of heads that build their own generator
FINEST = 16  # stride of the backbone's first map


class Reader(NamedTuple):
    """A head or RoI extractor, which expects maps of certain strides."""

    module: nn.Module
    name: str  # within its part
    strides: list[float]
    pools: bool  # True for RoI extractors, which read only the first maps


def readers_of(part: Part) -> list[Reader]:
    """Return the heads and RoI extractors of a model that have strides (list[Reader])."""
    found = []
    for name, module in part.model.named_modules():
        if name.partition('.')[0] in (part.name, 'neck') or reads_others(name, module):
            continue
        strides = next(
            (
                strides
                for strides in (_strides_of(getattr(module, key, None)) for key in GENERATORS)
                if strides
            ),
            None,
        )
        if strides:
            found.append(Reader(module, name, strides, False))
        elif hasattr(module, 'featmap_strides') and hasattr(module, 'roi_layers'):
            found.append(Reader(module, name, numbers(module.featmap_strides), True))
        elif hasattr(module, 'resize_feats') and hasattr(module, 'strides'):  # SOLO's
            found.append(Reader(module, name, numbers(module.strides), False))
    return found


def reads_others(name: str, module: nn.Module) -> bool:
    """Whether a module has strides, but reads other maps than those of the neck (bool).

    These are the mask heads of CondInst and BoxInst, whose points are on a map of their own, and the RoI
    extractors of HTC and SCNet that read the map of the semantic head.
    """
    kind = name.rpartition('.')[2]
    return kind == 'semantic_roi_extractor' or (
        kind == 'mask_head' and hasattr(module, 'parse_dynamic_params')
    )


def _strides_of(generator) -> list[float]:
    """Return the vertical strides of a prior generator, or [] for other objects."""
    return numbers(getattr(generator, 'strides', None) or [])


def numbers(values: Any) -> list[float]:
    """Convert numbers and (width, height) pairs, whose height is used, to a list; [] for anything else."""
    values = values if isinstance(values, Sequence) else [values]
    values = [value[-1] if isinstance(value, Sequence) and value else value for value in values]
    return list(values) if all(isinstance(value, (int, float)) for value in values) else []


def check_strides(part: Part, config: Config) -> list[Finding]:
    """Compare the maps of a detector with the strides of its heads and RoI extractors.

    Args:
        part (Part): The model, or the part that has the backbone.
        config (Config): The whole config, to look up its keys.

    Returns:
        list[Finding]: One finding for each head and RoI extractor, an error if its strides or its number of
        maps are wrong.

    Raises:
        MapsError: If the model cannot process a blank image.
    """
    readers = readers_of(part)
    finer = finer_maps(part, config, readers)
    findings, wrong = [], []
    for reader in readers:
        side = side_for(reader)
        maps = maps_for(reader, maps_of(part, side, side))
        measured = [round(side / x.shape[2]) for x in maps]
        name = re.sub(r'\.\d+', '', reader.name) or type(reader.module).__name__
        what = f'{name} has strides {as_text(reader.strides)[1:-1]}'
        if reader.pools:
            maps, measured = maps[: len(reader.strides)], measured[: len(reader.strides)]
        if len(maps) != len(reader.strides):
            wrong.append((reader, measured))
            text = f'{what}, for {len(reader.strides)} maps, but gets {len(maps)}: {as_text(measured)[1:-1]}.'
            findings.append(Finding('error', 'levels', text))
        elif any(differ(side / x.shape[2], stride) for x, stride in zip(maps, reader.strides)):
            wrong.append((reader, measured))
            text = f'{what}, but its maps have {as_text(measured)[1:-1]}.'
            findings.append(Finding('error', 'strides', text))
        else:
            findings.append(Finding('ok', 'strides', f'{what}, as do its maps.'))
    findings = list({finding.text: finding for finding in findings}.values())  # cascade stages repeat
    if not wrong:
        return findings
    # One suggestion for all heads, because a change of the neck for one of them affects the others.
    follow = merge(
        change for reader, measured in wrong for change in [follow_maps(part, config, reader, measured)]
    )
    ways = [way for way in (finer, follow) if way]
    mend, other = (*ways, {}, {})[:2]
    last = max(index for index, finding in enumerate(findings) if finding.level == 'error')
    advice = 'Give the heads the maps that they expect:' if finer else 'Give both the same strides:'
    advice = advice if mend else 'Give both the same strides.'
    findings[last] = findings[last]._replace(advice=advice, mend=mend, other=other)
    return findings


def differ(measured: float, expected: float) -> bool:
    """Whether two strides differ (bool); those of YOLACT are those of 550 px, such as 110 instead of 128."""
    return max(measured / expected, expected / measured) > 1.3


def side_for(reader: Reader) -> int:
    """Return the image side on which strides are measured, in px (int).

    SSD's strides only hold for one size, which is the stride of its last map.
    """
    is_ssd = any('SSD' in type(getattr(reader.module, key, None)).__name__ for key in GENERATORS)
    return int(max(reader.strides)) if is_ssd else SIDE


def maps_for(reader: Reader, maps: list[Tensor]) -> list[Tensor]:
    """Return the maps as used by a head: SOLO resizes the first and the last one."""
    maps = [x for x in maps if x.ndim == 4]
    if not hasattr(reader.module, 'resize_feats'):
        return maps
    try:
        return list(reader.module.resize_feats(maps))
    except FAILURES:
        return maps


def follow_maps(part: Part, config: Config, reader: Reader, measured: list[int]) -> dict[str, Any]:
    """Return the config changes that set a head's strides to those of its maps.

    Args:
        part (Part): The model, or the part that has the backbone.
        config (Config): The whole config.
        reader (Reader): The head or RoI extractor.
        measured (list[int]): Strides of its maps.

    Returns:
        dict: The changes, by nested keys; {} if they cannot be determined.
    """
    if hasattr(reader.module, 'resize_feats') or not measured:
        return {}
    path = part.key(reader.name)
    settings = lookup(config, path)
    key = stride_key(reader.module, settings if isinstance(settings, Mapping) else {})
    return nest_in(config, f'{path}.{key}', measured) if key else {}


def stride_key(module: nn.Module, settings: Mapping[str, Any]) -> str | None:
    """Return the config key of a head's or RoI extractor's strides (str), or None.

    This is a key that the config already has, otherwise an argument of the class.
    """
    for name in GENERATORS:
        if isinstance(settings.get(name), Mapping):
            return f'{name}.strides'
    own = [vars(kind)['__init__'] for kind in type(module).__mro__ if '__init__' in vars(kind)]
    for names in [
        settings,
        *(inspect.signature(each).parameters for each in own if each is not object.__init__),
    ]:
        for name in OWN:
            if name in names:
                return name
    return None


def finer_maps(part: Part, config: Config, readers: Sequence[Reader]) -> dict[str, Any]:
    """Return the config changes that make :class:`~mmmobilemamba.models.necks.DeconvFPN` match the heads.

    Args:
        part (Part): The model, or the part that has the backbone.
        config (Config): The whole config.
        readers (Sequence[Reader]): Its heads and RoI extractors.

    Returns:
        dict: The changes; {} unless the (first) neck is mmdet's FPN or DeconvFPN and the finest maps that the
        heads expect have stride 4 or 8.
    """
    settings = lookup(config, part.key('neck'))
    several = isinstance(settings, Sequence) and bool(settings)
    neck = settings[0] if several else settings
    levels, extra = finer_levels(readers)
    if not isinstance(neck, Mapping) or _type_name(neck) not in ('FPN', 'DeconvFPN') or not extra:
        return {}
    widths = stage_widths(part.backbone)
    kept = ('out_channels', 'add_extra_convs', 'relu_before_extra_convs', 'conv_cfg', 'norm_cfg', 'act_cfg')
    new = dict(_delete_=True, type='DeconvFPN', in_channels=widths)
    new.update({key: neck[key] for key in kept if neck.get(key) is not None})
    new.update(num_outs=levels, **(dict(num_extra_trans_convs=extra) if extra > 1 else {}))
    change = nest_in(config, part.key('neck.0' if several else 'neck'), new)
    if len(part.backbone.out_indices) < 3:
        change = merge([nest_in(config, part.key(f'{part.name}.out_indices'), (0, 1, 2)), change])
    return {**importing(config, 'mmmobilemamba.mmdet'), **change}


def finer_levels(readers: Sequence[Reader]) -> tuple[int, int]:
    """Return the number of maps and of extra transposed convolutions that make the maps of some heads.

    Args:
        readers (Sequence[Reader]): Heads and RoI extractors.

    Returns:
        tuple[int, int]: (0, 0) if their maps cannot be made so.
    """
    dense = [reader.strides for reader in readers if not reader.pools]
    if any(hasattr(reader.module, 'resize_feats') for reader in readers):
        dense = [[4, 8, 16, 32, 64]]
    if not readers or not (dense or readers[0].strides):
        return 0, 0
    strides = dense[0] if dense else readers[0].strides  # of Sparse R-CNN, which has no dense head
    first, levels = round(strides[0]), len(strides)
    extra = {4: 2, 8: 1}.get(first, 0)
    if any(differ(first * 2**level, stride) for level, stride in enumerate(strides)):
        return 0, 0
    if dense and levels < 3 + extra:
        return 0, 0
    return (max(levels, 3 + extra), extra) if extra else (0, 0)


def stage_widths(backbone: nn.Module) -> list[int]:
    """Return the channels of all three stages, including stages that are not built (list[int])."""
    return list(backbone.arch['embed_dims'])


def _type_name(settings: Mapping[str, Any]) -> str:
    kind = settings.get('type')  # a class in pure Python style
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]
