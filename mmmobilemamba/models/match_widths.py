"""Detectors and segmentors whose necks and heads follow the widths of the backbone."""

from __future__ import annotations

import re
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from .arch import resolve_arch

CHANNELS = re.compile(r'(^|_)channels$')  # keys of widths


@MODELS.register_module()
def match_widths(model_type: str, backbone: dict[str, Any], **model: Any) -> nn.Module:
    """Build a detector or segmentor, filling in widths from the ``arch`` of its backbone.

    To change the size of the backbone, set ``model.backbone.arch`` only. At any depth of the model config,
    values of keys that end in ``channels``, such as ``in_channels`` or ``c1_in_channels``, may be
    ``'stage0'``, ``'stage1'`` or ``'stage2'``, alone or in a list. They are replaced by the channels of these
    stages of MobileMamba. Numbers are kept.

    Args:
        model_type (str): ``type`` of the model, such as ``'RetinaNet'`` or ``'EncoderDecoder'``.
        backbone (dict): Config of :class:`MobileMamba`.
        **model: The other arguments of the model.

    Returns:
        nn.Module: The model, built as if the config had contained numbers.

    Raises:
        ValueError: If the backbone is not MobileMamba, or a width is any other string.

    Example:
        >>> neck = dict(type='DeconvFPN', in_channels=['stage0', 'stage1', 'stage2'], ...)
        >>> model = dict(type='match_widths', model_type='RetinaNet', neck=neck, ...)
    """
    kind = backbone.get('type')  # a class in mmengine's pure Python configs
    name = str(getattr(kind, '__name__', kind))  # may have a scope, or be FrameMobileMamba of mmaction
    if not name.endswith('MobileMamba') or 'arch' not in backbone:
        raise ValueError(
            f"match_widths takes widths from backbone=dict(type='MobileMamba', arch=...), not from "
            f'{dict(backbone)}. For another backbone use type={model_type!r} and write the widths as numbers.'
        )
    arch = resolve_arch(backbone['arch'], backbone.get('drop_path_rate'))
    widths = {f'stage{index}': width for index, width in enumerate(arch['embed_dims'])}
    return MODELS.build(dict(type=model_type, backbone=backbone, **_replace(model, widths)))


def _replace(value, widths, path='model'):
    """``value`` with names of stages replaced by widths under all keys that match ``CHANNELS``."""
    if isinstance(value, (list, tuple)):
        return type(value)(_replace(item, widths, path) for item in value)
    if isinstance(value, dict):
        return type(value)({key: _replace(item, widths, f'{path}.{key}') for key, item in value.items()})
    if not isinstance(value, str) or not CHANNELS.search(path.rpartition('.')[2]):
        return value
    if value not in widths:
        raise ValueError(f'{path} is {value!r}; allowed are numbers and {", ".join(map(repr, widths))}.')
    return widths[value]
