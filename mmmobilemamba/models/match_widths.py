"""Detectors and segmentors whose necks and heads follow the width of the backbone."""

from __future__ import annotations

import re
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from .arch import resolve_arch

CHANNELS = re.compile(r'(^|_)channels$')  # the keys under which widths stand


@MODELS.register_module()
def match_widths(model_type: str, backbone: dict[str, Any], **model: Any) -> nn.Module:
    """Build a detector or segmentor with the widths that its backbone's ``arch`` has.

    Under every key that ends in ``channels``, like ``in_channels`` or ``c1_in_channels``, however deep in the
    model, ``'stage0'``, ``'stage1'`` and ``'stage2'`` stand for the channels of MobileMamba's stages, alone
    or in a list, so that ``model.backbone.arch`` is all there is to change for another size. Numbers stay
    as they are.

    Args:
        model_type (str): ``type`` of the model, like ``'RetinaNet'`` or ``'EncoderDecoder'``.
        backbone (dict): Config of :class:`MobileMamba`.
        **model: The other arguments of the model.

    Returns:
        nn.Module: The model, which knows nothing of this.

    Raises:
        ValueError: If the backbone is not MobileMamba, or a width is a word other than those three.

    Example:
        >>> neck = dict(type='DeconvFPN', in_channels=['stage0', 'stage1', 'stage2'], ...)
        >>> model = dict(type='match_widths', model_type='RetinaNet', neck=neck, ...)
    """
    kind = backbone.get('type')  # a class in configs of mmengine's pure Python style
    name = str(getattr(kind, '__name__', kind))  # with a scope in front, or what mmmobilemamba.mmaction has
    if not name.endswith('MobileMamba') or 'arch' not in backbone:
        raise ValueError(
            f"match_widths takes widths from backbone=dict(type='MobileMamba', arch=...), not from "
            f'{dict(backbone)}. For another backbone use type={model_type!r} and write the widths as numbers.'
        )
    arch = resolve_arch(backbone['arch'], backbone.get('drop_path_rate'))
    widths = {f'stage{index}': width for index, width in enumerate(arch['embed_dims'])}
    return MODELS.build(dict(type=model_type, backbone=backbone, **_replace(model, widths)))


def _replace(value, widths, path='model'):
    """``value`` with names of stages replaced by widths wherever a key fits ``CHANNELS``."""
    if isinstance(value, (list, tuple)):
        return type(value)(_replace(item, widths, path) for item in value)
    if isinstance(value, dict):
        return type(value)({key: _replace(item, widths, f'{path}.{key}') for key, item in value.items()})
    if not isinstance(value, str) or not CHANNELS.search(path.rpartition('.')[2]):
        return value
    if value not in widths:
        raise ValueError(f'{path} is {value!r}; allowed are numbers and {", ".join(map(repr, widths))}.')
    return widths[value]
