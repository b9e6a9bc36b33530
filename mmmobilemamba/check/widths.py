"""Compares channels and number of feature maps with those that necks and heads expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from .finding import Finding, as_text, nest
from .maps import Part
from .strides import SIDE, Reader, finer_maps, readers_of


def check_neck(part: Part, config: Config, failure: str) -> Finding:
    """Explain why a model cannot process a blank image.

    Args:
        part (Part): The model, or the part that has the backbone.
        config (Config): The whole config.
        failure (str): The message of the error that it raised.
    """
    neck = getattr(part.model, 'neck', None)
    neck = neck[0] if isinstance(neck, nn.Sequential) and len(neck) else neck
    configured = settings = (config.get('model') or {}).get('neck')
    settings = settings[0] if isinstance(settings, Sequence) and settings else settings
    given = (settings or {}).get('in_channels') if isinstance(settings, Mapping) else None
    given = getattr(neck, 'in_channels', None) or given
    offered = list(part.backbone.out_channels)
    wanted = in_numbers(part, [given] if isinstance(given, (int, str)) else list(given or []))
    if neck is None or not wanted or wanted == offered:
        text = f'The maps cannot be checked, as the model does not take a blank image: {failure}'
        return Finding('warning', 'maps', text)
    text = (
        f'The neck {type(neck).__name__} expects maps of {as_text(wanted)[1:-1]} channels, and the backbone '
        f'gives {len(offered)} of {as_text(offered)[1:-1]}.'
    )
    change: dict[str, Any] = dict(in_channels=offered)
    if len(wanted) > len(offered) and getattr(neck, 'start_level', None):
        change['start_level'] = 0
    if len(offered) == 1 and len(wanted) == 3:
        mend = nest(part.key(f'{part.name}.out_indices'), (0, 1, 2))
        return Finding('error', 'widths', text, 'Let the backbone give all of its stages:', mend)
    if isinstance(configured, Sequence):
        return Finding('error', 'widths', text, f'Set in_channels={as_text(offered)} in the first neck.')
    follow = nest(part.key('neck'), change)
    finer = finer_maps(part, config, readers_of(part))
    if finer:
        advice = 'Take the neck that also makes the finer maps that the heads expect, or change the widths:'
        return Finding('error', 'widths', text, advice, finer, follow)
    return Finding('error', 'widths', text, 'Set what the backbone gives:', follow)


def check_heads(part: Part, config: Config, maps: list[Tensor]) -> list[Finding]:
    """Compare the channels of the maps, and for segmentors their number, with those expected by the heads.

    Args:
        part (Part): The model, or the part that has the backbone.
        config (Config): The whole config.
        maps (list[Tensor]): Maps of its neck or backbone for an image of side ``SIDE``, (N, C, H, W) or (N,
            C).
    """
    findings = [_check_reader(part, reader, maps) for reader in readers_of(part)]
    for name, module in part.model.named_modules():
        if name.partition('.')[0] in ('decode_head', 'auxiliary_head') and hasattr(module, 'in_index'):
            findings.append(_check_segmentor(part, name, module, maps))
    for name in ('decode_head', 'panoptic_head'):
        findings.append(_check_pixel_decoder(part, name, config, maps))
    head = getattr(part.model, 'head', None)
    width = getattr(head, 'in_channels', None)
    if isinstance(width, int) and maps and maps[-1].ndim == 2:
        findings.append(_compare(part, 'head', width, [maps[-1].shape[1]]))
    return [finding for finding in findings if finding is not None]


def in_numbers(part: Part, widths: Sequence[int | str]) -> list[int | str]:
    """Replace ``'stage0'``, ``'stage1'``, ..., as used by ``match_widths``, by numbers of channels."""
    stages: dict[int | str, int] = {
        f'stage{index}': width for index, width in enumerate(part.backbone.arch['embed_dims'])
    }
    return [stages.get(width, width) for width in widths]


def _check_reader(part: Part, reader: Reader, maps: list[Tensor]) -> Finding | None:
    """Check the channels that a dense head expects, or that an RoI extractor returns."""
    width = getattr(reader.module, 'out_channels' if reader.pools else 'in_channels', None)
    if not isinstance(width, int):
        return None
    key = f'{reader.name}.out_channels' if reader.pools else None
    return _compare(part, reader.name, width, [x.shape[1] for x in maps[: len(reader.strides)]], key)


def _compare(part, name, width, offered, key=None) -> Finding | None:
    """Compare the width of a head with the channels of its maps."""
    if all(each == width for each in offered):
        return None
    path = [each for each in part.key(key or f'{name}.in_channels').split('.') if not each.isdigit()]
    text = f'{name} is built for {width} channels, and its maps have {as_text(offered)[1:-1]}.'
    alike = len(set(offered)) == 1
    return Finding('error', 'widths', text, mend=nest('.'.join(path), offered[0]) if alike else {})


def _check_pixel_decoder(part, name, config, maps) -> Finding | None:
    """Check ``in_channels`` of MaskFormer and Mask2Former, whose pixel decoders do not store it."""
    settings = (config.get('model') or {}).get(name)
    settings = settings if isinstance(settings, Mapping) else {}
    given, offered = settings.get('in_channels'), [x.shape[1] for x in maps]
    head = getattr(part.model, name, None)
    if not hasattr(head, 'pixel_decoder') or not isinstance(given, Sequence):
        return None
    given = in_numbers(part, given)
    if given == offered:
        return None
    there = as_text(offered)[1:-1]
    text = f'{name} expects maps of {as_text(given)[1:-1]} channels, and there are {there}.'
    change: dict[str, Any] = dict(in_channels=offered)
    if 'strides' in settings:  # of mmdet's Mask2Former; the pixel decoder has its own
        change['strides'] = strides = [SIDE // x.shape[2] for x in maps]
        change['pixel_decoder'] = dict(strides=strides)
    return Finding('error', 'widths', text, 'Set what there is:', nest(part.key(name), change))


def _check_segmentor(part, name, head, maps) -> Finding:
    """Check ``in_index`` and ``in_channels`` of an mmseg head."""
    offered = [x.shape[1] for x in maps]
    several = isinstance(head.in_index, Sequence)
    indices = list(head.in_index) if several else [head.in_index]
    widths = list(head.in_channels) if isinstance(head.in_channels, Sequence) else [head.in_channels]
    there = all(-len(maps) <= index < len(maps) for index in indices)
    got = [offered[index] for index in indices] if there else []
    summed = getattr(head, 'input_transform', None) == 'resize_concat'
    if there and (sum(got) == sum(widths) if summed else got == widths):
        finest = min(round(SIDE / maps[index].shape[2]) for index in indices)
        text = (
            f'{name} reads {len(indices)} of {len(maps)} maps, {as_text(got)[1:-1]} wide, from 1/{finest} on.'
        )
        return Finding('ok', 'widths', text)
    last = max(len(maps) - (1 if name.startswith('decode_head') else 2), 0)
    right = list(range(len(maps))) if several else [min(indices[0], last)]
    channels = [offered[index] for index in right]
    settings: dict[str, Any] = (
        dict(in_index=right, in_channels=channels)
        if several
        else dict(in_index=right[0], in_channels=channels[0])
    )
    if several and hasattr(head, 'feature_strides') and len(right) != len(indices):
        settings['feature_strides'] = [16 * 2**level for level in right]
    noun = 'map' if len(indices) == 1 else 'maps'
    wanted = f'{noun} {as_text(indices)[1:-1]} of {as_text(widths)[1:-1]} channels'
    text = f'{name} reads {wanted}, and there are {len(maps)}, of {as_text(offered)[1:-1]}.'
    path = '.'.join(each for each in part.key(name).split('.') if not each.isdigit())
    advice = (
        'Set what there is, in each head of the list:' if path != part.key(name) else 'Set what there is:'
    )
    return Finding('error', 'widths', text, advice, nest(path, settings))
