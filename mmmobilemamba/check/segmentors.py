"""Compares feature maps with what the heads of mmseg read: their indices, channels and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from .failures import FAILURES, shorten
from .finding import Finding, as_text, nest_in
from .maps import MapsError, Part, blank_copy, flatten, maps_of
from .sides import training_size
from .strides import SIDE

HEADS = ('decode_head', 'auxiliary_head')
OWN_NETWORK = ('DDRHead', 'DPTHead', 'PIDHead')


def check_segmentor(part: Part, config: Config, maps: list[Tensor]) -> list[Finding]:
    """Check the heads of a segmentor; [] for other models.

    Args:
        part (Part): The model, or the part that has the backbone.
        config (Config): The whole config.
        maps (list[Tensor]): Maps of its neck or backbone for an image of side ``SIDE``, (N, C, H, W).
    """
    heads = {
        name: module
        for name, module in part.model.named_modules()
        if name.partition('.')[0] in HEADS and hasattr(module, 'in_index')
    }
    findings = [check_inputs(part, name, head, config, maps) for name, head in heads.items()]
    if all(finding.level == 'ok' for finding in findings):
        findings += [check_forward(part, name, head, config) for name, head in heads.items()]
    return [finding for finding in findings if finding is not None]


def check_inputs(part: Part, name: str, head: nn.Module, config: Config, maps: list[Tensor]) -> Finding:
    """Check ``in_index``, ``in_channels`` and, of DeepLabv3+, ``c1_in_channels`` of a head."""
    offered = [x.shape[1] for x in maps]
    several = isinstance(head.in_index, Sequence)
    indices = list(head.in_index) if several else [head.in_index]
    widths = list(head.in_channels) if isinstance(head.in_channels, Sequence) else [head.in_channels]
    there = all(-len(maps) <= index < len(maps) for index in indices)
    got = [offered[index] for index in indices] if there else []
    summed = getattr(head, 'input_transform', None) == 'resize_concat'
    fits = there and (sum(got) == sum(widths) if summed else got == widths)
    finest = finest_width(head)
    if fits and finest in (None, offered[0]):
        stride = min(round(SIDE / maps[index].shape[2]) for index in indices)
        text = (
            f'{name} reads {len(indices)} of {len(maps)} maps, {as_text(got)[1:-1]} wide, from 1/{stride} on.'
        )
        return Finding('ok', 'widths', text)
    settings: dict[str, Any] = {}
    noun = 'map' if len(indices) == 1 else 'maps'
    wanted = f'{noun} {as_text(indices)[1:-1]} of {as_text(widths)[1:-1]} channels'
    if not fits:
        right = right_indices(name, indices, len(maps), there)
        channels = [offered[index] for index in right]
        settings = (
            dict(in_index=right, in_channels=channels)
            if several
            else dict(in_index=right[0], in_channels=channels[0])
        )
        if several and hasattr(head, 'feature_strides') and len(right) != len(indices):
            settings['feature_strides'] = [round(SIDE / maps[level].shape[2]) for level in right]
    if finest not in (None, offered[0]):
        wanted += f' and map 0 of {finest}'
        settings['c1_in_channels'] = offered[0]
    text = f'{name} reads {wanted}, but there are {len(maps)}, of {as_text(offered)[1:-1]}.'
    mend = nest_in(config, part.key(name), settings)
    return Finding('error', 'widths', text, 'Set the actual values:', mend)


def finest_width(head: nn.Module) -> int | None:
    """Return the channels that DeepLabv3+'s head expects of the finest map (int), None for other heads."""
    convolution = getattr(getattr(head, 'c1_bottleneck', None), 'conv', None)
    return getattr(convolution, 'in_channels', None)


def right_indices(name: str, indices: Sequence[int], number: int, there: bool) -> list[int]:
    """Return the maps that a head should read.

    Args:
        name (str): Name of the head; an auxiliary head reads a finer map than a decode head.
        indices (Sequence[int]): The maps that it reads.
        number (int): Number of maps.
        there (bool): Whether it reads maps that exist.

    Returns:
        list[int]: As many indices if there are as many maps: some heads need a certain number.
    """
    if len(indices) == 1:
        return [min(indices[0], max(number - (1 if name.startswith('decode_head') else 2), 0))]
    return list(indices) if there else list(range(max(number - len(indices), 0), number))


def check_forward(part: Part, name: str, head: nn.Module, config: Config) -> Finding | None:
    """Check that a head can process the maps of a training image, with LRASPP's pooling in mind.

    Returns:
        Finding, optional: The error; None if there is none, or if the head needs more than maps.
    """
    needed = [each for each in signature(head.forward).parameters.values() if each.default is Parameter.empty]
    if len(needed) != 1 or '.' in name:
        return None
    height, width = training_size(config) or (SIDE, SIDE)
    for device in ('meta', 'cpu'):
        try:
            # SegNeXt's head draws random numbers.
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                maps = flatten(maps_of(part, height, width))
                blank_copy(head, device)([torch.zeros(x.shape, device=device) for x in maps])
            return None
        except MapsError:  # is another finding
            return None
        except FAILURES as error:
            failure = error
    kind = type(head).__name__
    reason = shorten(failure)
    text = f'{name} ({kind}) fails on the maps of a {height} x {width} image (height x width): {reason}'
    pools = [each for each in head.modules() if isinstance(each, nn.AvgPool2d)]
    if kind in OWN_NETWORK:
        advice = 'This head is for the network of the same name. A light one for several maps:'
        return Finding('error', 'maps', text, advice, light_head(part, name, config))
    if kind != 'LRASPPHead' or not pools:
        return Finding('error', 'maps', text)
    side = pools[0].kernel_size
    stride = round(SIDE / maps_of(part, SIDE, SIDE)[head.in_index[-1]].shape[2])
    text = (
        f'{name} (LRASPPHead) pools over {side} x {side} px of a map of stride {stride}, so it needs images '
        f'of {side * stride} px, but the training uses {height} x {width} (height x width).'
    )
    return Finding(
        'error', 'sides', text, 'Use a light head without that pooling:', light_head(part, name, config)
    )


def light_head(part: Part, name: str, config: Config) -> dict[str, Any]:
    """Return the changes that put SegFormer's head, which also joins several maps, in place of another."""
    given = config['model'][name]
    maps = maps_of(part, SIDE, SIDE)
    settings = dict(in_channels=[x.shape[1] for x in maps], in_index=list(range(len(maps))))
    kept = ('channels', 'dropout_ratio', 'num_classes', 'norm_cfg', 'align_corners', 'ignore_index')
    settings.update({key: given[key] for key in kept if key in given})
    if isinstance(given.get('loss_decode'), Mapping):  # one of several outputs
        settings['loss_decode'] = given['loss_decode']
    return nest_in(config, part.key(name), dict(_delete_=True, type='SegformerHead', **settings))
