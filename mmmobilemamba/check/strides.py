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

from .finding import Finding, as_text, merge, nest
from .maps import FAILURES, Part, maps_of

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
        if name.partition('.')[0] in (part.name, 'neck') or is_dynamic(name, module):
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


def is_dynamic(name: str, module: nn.Module) -> bool:
    """Whether a module is CondInst's or BoxInst's mask head, whose points are on its own map of features."""
    return name.rpartition('.')[2] == 'mask_head' and hasattr(module, 'parse_dynamic_params')


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
            text = f'{what}, for {len(reader.strides)} maps, and gets {len(maps)}: {as_text(measured)[1:-1]}.'
            findings.append(Finding('error', 'levels', text))
        elif any(abs(x.shape[2] - side / stride) >= 1 for x, stride in zip(maps, reader.strides)):
            wrong.append((reader, measured))
            text = f'{what}, and its maps have {as_text(measured)[1:-1]}.'
            findings.append(Finding('error', 'strides', text))
        else:
            findings.append(Finding('ok', 'strides', f'{what}, and so have its maps.'))
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
    advice = 'Give the heads the maps that they expect, or the strides of the maps that there are:'
    advice = advice if other else 'Give both the same strides:' if mend else 'Give both the same strides.'
    findings[last] = findings[last]._replace(advice=advice, mend=mend, other=other)
    return findings


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
    path = [name for name in part.key(reader.name).split('.') if not name.isdigit()]
    settings: Any = {'model': config.get('model')}
    for name in path:
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    if isinstance(settings, (list, tuple)):  # a config can only replace a list as a whole
        return {}
    key = stride_key(reader.module, settings if isinstance(settings, Mapping) else {})
    return nest('.'.join([*path, key]), measured) if key else {}


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
        dict: The changes; {} unless the neck is mmdet's FPN or DeconvFPN and the finest maps that the heads
        expect have stride 4 or 8.
    """
    neck = (config.get('model') or {}).get('neck')
    dense = [reader.strides for reader in readers if not reader.pools]
    if (
        not isinstance(neck, Mapping)
        or _type_name(neck) not in ('FPN', 'DeconvFPN')
        or not dense
        or part.path
    ):
        return {}
    if hasattr(readers[0].module, 'resize_feats'):
        dense = [[4, 8, 16, 32, 64]]
    first, levels = dense[0][0], len(dense[0])
    if first not in (4, 8) or dense[0] != [first * 2**level for level in range(levels)]:
        return {}
    extra = 2 if first == 4 else 1
    if levels < 3 + extra:
        return {}
    widths = stage_widths(part.backbone)
    kept = ('out_channels', 'add_extra_convs', 'relu_before_extra_convs', 'conv_cfg', 'norm_cfg', 'act_cfg')
    settings = dict(_delete_=True, type='DeconvFPN', in_channels=widths)
    settings.update({key: neck[key] for key in kept if neck.get(key) is not None})
    settings.update(num_outs=levels, **(dict(num_extra_trans_convs=extra) if extra > 1 else {}))
    change = nest(part.key('neck'), settings)
    if len(part.backbone.out_indices) < 3:
        change = merge([nest(part.key(f'{part.name}.out_indices'), (0, 1, 2)), change])
    imports = list((config.get('custom_imports') or {}).get('imports') or [])
    if 'mmmobilemamba.mmdet' in imports:
        return change
    imports = [*(name for name in imports if name != 'mmmobilemamba'), 'mmmobilemamba.mmdet']
    return {'custom_imports': dict(imports=imports), **change}


def stage_widths(backbone: nn.Module) -> list[int]:
    """Return the channels of all three stages, including stages that are not built (list[int])."""
    return list(backbone.arch['embed_dims'])


def _type_name(settings: Mapping[str, Any]) -> str:
    kind = settings.get('type')  # a class in pure Python style
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]
