"""Compares channels and number of feature maps with those that necks and heads expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from .finding import Finding, as_text, lookup, merge, nest_in
from .maps import Part
from .strides import SIDE, Reader, finer_maps, readers_of, stage_widths

# Self-supervised models of mmpretrain (1.2.0) for backbones with a mask as a second input.
MASKING = ('BEiT', 'CAE', 'EVA', 'MAE', 'MFF', 'MILAN', 'MaskFeat', 'MixMIM', 'SimMIM', 'SparK', 'iTPN')


def check_neck(part: Part, config: Config, failure: str) -> Finding:
    """Explain why a model cannot process a blank image.

    Args:
        part (Part): The model, or the part that has the backbone.
        config (Config): The whole config.
        failure (str): The message of the error that it raised.
    """
    neck = getattr(part.model, 'neck', None)
    neck = neck[0] if isinstance(neck, nn.Sequential) and len(neck) else neck
    settings = lookup(config, part.key('neck'))
    several = isinstance(settings, Sequence)
    settings = settings[0] if several and settings else settings
    given = settings.get('in_channels') if isinstance(settings, Mapping) else None
    given = getattr(neck, 'in_channels', None) or given
    offered = list(part.backbone.out_channels)
    wanted = in_numbers(part, [given] if isinstance(given, (int, str)) else list(given or []))
    if neck is None or not wanted or wanted == offered:
        text = f'The feature maps cannot be checked because the model fails on a blank image: {failure}'
        return Finding('warning', 'maps', text)
    text = (
        f'The neck {type(neck).__name__} expects maps of {as_text(wanted)[1:-1]} channels, but the backbone '
        f'outputs {len(offered)} of {as_text(offered)[1:-1]}.'
    )
    finer = finer_maps(part, config, readers_of(part))
    if finer:
        advice = 'Use the neck that also computes the finer maps that the heads expect:'
        return Finding('error', 'widths', text, advice, finer)
    stages = stages_for(part, len(wanted))
    right = [stage_widths(part.backbone)[stage] for stage in stages]
    if wanted == sorted(wanted, reverse=True) != sorted(wanted):  # YOLOv3's, coarsest first
        right = right[::-1]
    numbers: Any = tuple(right) if isinstance(given, tuple) else right  # some necks insist on a tuple
    change: dict[str, Any] = dict(in_channels=right[0] if isinstance(given, (int, str)) else numbers)
    if len(wanted) > len(right) and getattr(neck, 'start_level', None):
        change['start_level'] = 0
    outputs = settings.get('out_channels') if isinstance(settings, Mapping) else None
    heads = {}
    if isinstance(outputs, Sequence) and list(outputs[: len(wanted)]) == wanted != list(outputs):
        # Of SSD, which reads the maps themselves and compares the two, so that both need the same type.
        change['out_channels'] = type(numbers)([*right, *outputs[len(wanted) :]])
        heads = nest_in(config, part.key('bbox_head.in_channels'), change['out_channels'])
    mend = merge([nest_in(config, part.key('neck.0' if several else 'neck'), change), heads])
    if stages == tuple(part.backbone.out_indices):
        return Finding('error', 'widths', text, 'Set the channels of the backbone:', mend)
    mend = merge([nest_in(config, part.key(f'{part.name}.out_indices'), stages), mend])
    return Finding('error', 'widths', text, 'Use the stages that such a neck needs:', mend)


def stages_for(part: Part, number: int) -> tuple[int, ...]:
    """Return the stages for a neck that takes a number of maps, which is up to three (tuple[int]).

    A single map is that of stage 1, whose stride of 32 is that of ResNet's last map.
    """
    given = tuple(part.backbone.out_indices)
    return given if len(given) == min(number, 3) else {1: (1,), 2: (0, 1)}.get(number, (0, 1, 2))


def check_masking(part: Part) -> list[Finding]:
    """Check that a self-supervised model does not need a backbone that masks parts of the image itself."""
    kind = type(part.model).__name__
    if kind not in MASKING:
        return []
    text = f'{kind} needs a backbone that masks parts of the image itself, which MobileMamba does not.'
    advice = 'Contrastive methods such as MoCo, SimSiam and BYOL take any backbone.'
    return [Finding('error', 'maps', text, advice)]


def check_heads(part: Part, config: Config, maps: list[Tensor]) -> list[Finding]:
    """Compare the channels of the maps with those that the heads of detectors and classifiers expect.

    Args:
        part (Part): The model, or the part that has the backbone.
        config (Config): The whole config.
        maps (list[Tensor]): Maps of its neck or backbone for an image of side ``SIDE``, (N, C, H, W) or (N,
            C).
    """
    findings = [_check_reader(part, config, reader, maps) for reader in readers_of(part)]
    for name in ('decode_head', 'panoptic_head'):
        findings.append(_check_pixel_decoder(part, name, config, maps))
    for name in map_readers(part):
        head = getattr(part.model, name)
        given = lookup(config, part.key(name))
        given = given.get('in_channels') if isinstance(given, Mapping) else None
        width = getattr(head, 'in_channels', given)
        if isinstance(width, int) and maps:
            read = maps if name == 'bbox_head' else maps[-1:]
            findings.append(_compare(part, config, name, width, [x.shape[1] for x in read]))
            findings.append(_check_pooling(part, config, head, width, maps[-1]))
    return [finding for finding in findings if finding is not None]


def map_readers(part: Part) -> list[str]:
    """Return the names of modules that read maps and have no strides (list[str]).

    These are the heads of mmpretrain's and mmpose's models, and of mmaction2's; of self-supervised models,
    the neck, as their ``extract_feat`` runs the backbone alone; of detectors without a neck, the dense head,
    which reads all maps.
    """
    names = ['head', 'cls_head']
    if any(kind.__name__ == 'BaseSelfSupervisor' for kind in type(part.model).__mro__):
        names = ['neck']
    elif getattr(part.model, 'neck', None) is None and not readers_of(part):
        names.append('bbox_head')
    return [name for name in names if isinstance(getattr(part.model, name, None), nn.Module)]


def in_numbers(part: Part, widths: Sequence[int | str]) -> list[int | str]:
    """Replace ``'stage0'``, ``'stage1'``, ..., as used by ``match_widths``, by numbers of channels."""
    stages: dict[int | str, int] = {
        f'stage{index}': width for index, width in enumerate(part.backbone.arch['embed_dims'])
    }
    return [stages.get(width, width) for width in widths]


def _check_reader(part: Part, config: Config, reader: Reader, maps: list[Tensor]) -> Finding | None:
    """Check the channels that a dense head expects, or that an RoI extractor returns."""
    width = getattr(reader.module, 'out_channels' if reader.pools else 'in_channels', None)
    if not isinstance(width, int):
        return None
    key = f'{reader.name}.out_channels' if reader.pools else None
    return _compare(part, config, reader.name, width, [x.shape[1] for x in maps[: len(reader.strides)]], key)


def _compare(part, config, name, width, offered, key=None) -> Finding | None:
    """Compare the width of a head with the channels of its maps."""
    if all(each == width for each in offered):
        return None
    text = f'{name} is built for {width} channels, but its maps have {as_text(offered)[1:-1]}.'
    alike = len(set(offered)) == 1
    mend = nest_in(config, part.key(key or f'{name}.in_channels'), offered[0]) if alike else {}
    return Finding('error', 'widths', text, mend=mend)


def _check_pooling(part, config, head, width, features) -> Finding | None:
    """Check that a classifier has a neck that pools, which ConvNeXt and ViT do themselves."""
    linear = any(isinstance(each, nn.Linear) and each.in_features == width for each in head.modules())
    if features.ndim != 4 or not linear or getattr(part.model, 'neck', None) is not None:
        return None
    text = f'The head {type(head).__name__} expects vectors, but the backbone outputs feature maps.'
    mend = nest_in(config, part.key('neck'), dict(type='GlobalAveragePooling'))
    return Finding('error', 'maps', text, 'Pool them:', mend)


def _check_pixel_decoder(part, name, config, maps) -> Finding | None:
    """Check ``in_channels`` of MaskFormer and Mask2Former, whose pixel decoders do not store it."""
    settings = lookup(config, part.key(name))
    settings = settings if isinstance(settings, Mapping) else {}
    given, offered = settings.get('in_channels'), [x.shape[1] for x in maps]
    head = getattr(part.model, name, None)
    if not hasattr(head, 'pixel_decoder') or not isinstance(given, Sequence):
        return None
    given = in_numbers(part, given)
    if given == offered:
        return None
    there = as_text(offered)[1:-1]
    text = f'{name} expects maps of {as_text(given)[1:-1]} channels, but there are {there}.'
    change: dict[str, Any] = dict(in_channels=offered)
    if 'strides' in settings:  # of mmdet's Mask2Former; the pixel decoder has its own
        change['strides'] = strides = [SIDE // x.shape[2] for x in maps]
        change['pixel_decoder'] = dict(strides=strides)
    return Finding('error', 'widths', text, 'Set the actual values:', nest_in(config, part.key(name), change))
