"""Batched non-maximum suppression as one operator, ``torch.ops.mmmobilemamba.suppress``, and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor

from .errors import DeploymentError


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    """Apply greedy non-maximum suppression to each image of a batch.

    Args:
        boxes (Tensor): Left, top, right and bottom, (N, B, 4).
        scores (Tensor): (N, B).
        iou_threshold (float): A box is suppressed if its IoU with a better one exceeds this value.
        score_threshold (float): Boxes whose score does not exceed this value are ignored.

    Returns:
        Tensor: The scores, 0 for ignored and suppressed boxes, (N, B).
    """
    kept = torch.zeros_like(scores)
    for image_boxes, image_scores, image_kept in zip(boxes, scores, kept):
        candidates = torch.nonzero(image_scores > score_threshold).flatten()
        best = torchvision.ops.nms(image_boxes[candidates], image_scores[candidates], iou_threshold)
        image_kept[candidates[best]] = image_scores[candidates[best]]
    return kept


def _fake(boxes, scores, iou_threshold, score_threshold):
    return torch.empty_like(scores)


if hasattr(torch.library, 'custom_op'):  # since torch 2.4; exports need 2.8, so older ones need no operator
    operator: Any = torch.library.custom_op('mmmobilemamba::suppress', suppress, mutates_args=())
    operator.register_fake(_fake)
    suppress = operator


class Suppression(NamedTuple):
    """Settings of mmcv's ``batched_nms``, the ``nms`` of a ``test_cfg``.

    Source: https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/nms.py

    Attributes:
        iou_threshold (float): A box is suppressed if its IoU with a better one exceeds this value.
        class_agnostic (bool): Whether boxes of different classes suppress each other.
        offset (int): 0 or 1 px, added to the width and height of boxes.
        score_threshold (float): Boxes whose score does not exceed this value are ignored.
        max_num (int): Maximum number of remaining boxes; no limit if not positive.
        split_thr (int): From this number of boxes, NMS runs per class regardless of ``class_agnostic``.
    """

    iou_threshold: float
    class_agnostic: bool = False
    offset: int = 0
    score_threshold: float = 0.0
    max_num: int = -1
    split_thr: int = 10000


def read_suppression(config: Mapping[str, Any], name: str = 'test_cfg') -> Suppression | None:
    """Read the NMS settings of a ``test_cfg``.

    Args:
        config (dict): The ``test_cfg``.
        name (str): Its name in the config, for messages. Defaults to ``'test_cfg'``.

    Returns:
        Suppression, optional: The settings; None for ``nms=None``, without suppression.

    Raises:
        DeploymentError: If ``nms`` is missing, is not plain NMS, or has other settings than those of
            :class:`Suppression`.
    """
    if 'nms' not in config:
        raise DeploymentError(f'{name} has no nms; set nms=dict(type="nms", iou_threshold=...), or None.')
    if config['nms'] is None:
        return None
    nms = dict(config['nms'])
    kind = nms.pop('type', 'nms')
    kind = kind if isinstance(kind, str) else kind.__name__  # a class in Python-style configs
    if kind != 'nms':
        raise DeploymentError(
            f"{name}.nms asks for {kind!r}, and the file suppresses boxes by plain 'nms': set "
            f'{name}.nms.type to that.'
        )
    if 'iou_thr' in nms:  # deprecated name, still accepted by mmcv
        nms['iou_threshold'] = nms.pop('iou_thr')
    unknown = sorted(set(nms) - set(Suppression._fields))
    if unknown or 'iou_threshold' not in nms:
        what = f'has {", ".join(unknown)}' if unknown else 'has no iou_threshold'
        raise DeploymentError(f'{name}.nms {what}; it takes {", ".join(Suppression._fields)}.')
    return Suppression(**nms)
