"""Strides and number of the maps against those of anchors, points and RoI extractors.

A detector whose anchors have other strides than its maps trains, and puts its boxes in a corner of the image.
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

SIDE = 1024  # a multiple of all strides, and four times the largest common one
GENERATORS = ('prior_generator', 'anchor_generator', 'square_anchor_generator')
OWN = ('strides', 'point_strides', 'featmap_strides')  # settings of heads that make their generator
FINEST = 16  # stride of the backbone's first map


class Reader(NamedTuple):
    """What expects maps of certain strides."""

    module: nn.Module
    name: str  # in its part
    strides: list[float]
    pools: bool  # reads the first maps, as RoI extractors do, instead of all


def readers_of(part: Part) -> list[Reader]:
    """Heads and RoI extractors of a model that have strides."""
    found = []
    for name, module in part.model.named_modules():
        if name.partition('.')[0] in (part.name, 'neck'):
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


def _strides_of(generator) -> list[float]:
    """Strides of a generator of priors, along the height; [] if it is none."""
    return numbers(getattr(generator, 'strides', None) or [])


def numbers(values: Any) -> list[float]:
    """Numbers out of numbers and pairs (width, height), of which the second counts; [] of anything else."""
    values = values if isinstance(values, Sequence) else [values]
    values = [value[-1] if isinstance(value, Sequence) and value else value for value in values]
    return list(values) if all(isinstance(value, (int, float)) for value in values) else []


def check_strides(part: Part, config: Config) -> list[Finding]:
    """Compare the maps of a detector with what its heads and RoI extractors take them for.

    Args:
        part (Part): The model, or the part that has the backbone.
        config (Config): The whole config, to name its keys.

    Returns:
        list[Finding]: An error for every head whose strides or number of maps is wrong, else what is right.

    Raises:
        MapsError: If the model makes no maps.
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
    findings = list({finding.text: finding for finding in findings}.values())  # stages of a cascade are alike
    if not wrong:
        return findings
    # What is right for a head alone is wrong for the others once the neck has changed.
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
    """Side of an image on which strides are measured. SSD's hold at one size, the last map's stride."""
    is_ssd = any('SSD' in type(getattr(reader.module, key, None)).__name__ for key in GENERATORS)
    return int(max(reader.strides)) if is_ssd else SIDE


def maps_for(reader: Reader, maps: list[Tensor]) -> list[Tensor]:
    """The maps as a head uses them: SOLO resizes the first and the last one."""
    maps = [x for x in maps if x.ndim == 4]
    if not hasattr(reader.module, 'resize_feats'):
        return maps
    try:
        return list(reader.module.resize_feats(maps))
    except FAILURES:
        return maps


def follow_maps(part: Part, config: Config, reader: Reader, measured: list[int]) -> dict[str, Any]:
    """What to change in a config so that a head has the strides of its maps, {} if that is not to be said."""
    if hasattr(reader.module, 'resize_feats') or not measured:
        return {}
    path = [name for name in part.key(reader.name).split('.') if not name.isdigit()]
    settings: Any = {'model': config.get('model')}
    for name in path:
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    if isinstance(settings, (list, tuple)):  # of which a config can only change all
        return {}
    key = stride_key(reader.module, settings if isinstance(settings, Mapping) else {})
    return nest('.'.join([*path, key]), measured) if key else {}


def stride_key(module: nn.Module, settings: Mapping[str, Any]) -> str | None:
    """The setting of a head or RoI extractor that has its strides: one that is there, or else an argument."""
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
    """What to change so that :class:`~mmmobilemamba.models.necks.DeconvFPN` makes the maps that heads expect.

    Returns:
        dict: {} unless the neck is an FPN of mmdet, and the heads expect maps from stride 4 or 8 on.
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
    """Channels of all three stages, whether they are built or not."""
    return list(backbone.arch['embed_dims'])


def _type_name(settings: Mapping[str, Any]) -> str:
    kind = settings.get('type')  # a class, in pure Python style
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]
