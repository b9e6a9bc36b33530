"""Non-maximum suppression of a batch as one operator, ``torch.ops.mmmobilemamba.suppress``; its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor

from .errors import DeploymentError


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    """Scores that are left when each box of a better one has taken those that overlap it.

    Args:
        boxes (Tensor): Left, top, right and bottom, (N, B, 4).
        scores (Tensor): (N, B).
        iou_threshold (float): Boxes that overlap more than this are one.
        score_threshold (float): Only scores above it count.

    Returns:
        Tensor: The scores, zero where they do not count or the box is suppressed, (N, B).
    """
    kept = torch.zeros_like(scores)
    for image_boxes, image_scores, image_kept in zip(boxes, scores, kept):
        candidates = torch.nonzero(image_scores > score_threshold).flatten()
        best = torchvision.ops.nms(image_boxes[candidates], image_scores[candidates], iou_threshold)
        image_kept[candidates[best]] = image_scores[candidates[best]]
    return kept


def _fake(boxes, scores, iou_threshold, score_threshold):
    return torch.empty_like(scores)


if hasattr(torch.library, 'custom_op'):  # not before torch 2.4, which exports nothing and needs no operator
    operator: Any = torch.library.custom_op('mmmobilemamba::suppress', suppress, mutates_args=())
    operator.register_fake(_fake)
    suppress = operator


class Suppression(NamedTuple):
    """What mmcv's ``batched_nms`` does with ``nms`` of a ``test_cfg``.

    Source: https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/nms.py

    Attributes:
        iou_threshold (float): Boxes that overlap more than this are one.
        class_agnostic (bool): Boxes of different classes are, too.
        offset (int): Of 0 or 1 px, which a box is longer than the difference of its sides.
        score_threshold (float): Only scores above it count.
        max_num (int): The most boxes that are left; no limit if not positive.
        split_thr (int): From so many boxes on, each class is suppressed by itself in any case.
    """

    iou_threshold: float
    class_agnostic: bool = False
    offset: int = 0
    score_threshold: float = 0.0
    max_num: int = -1
    split_thr: int = 10000


def read_suppression(config: Mapping[str, Any], name: str = 'test_cfg') -> Suppression | None:
    """The settings of a ``test_cfg`` (Suppression); None if it asks for no suppression, by ``nms=None``.

    Raises:
        DeploymentError: If it has none, or another than plain NMS with the settings above.
    """
    if 'nms' not in config:
        raise DeploymentError(f'{name} has no nms; set nms=dict(type="nms", iou_threshold=...), or None.')
    if config['nms'] is None:
        return None
    nms = dict(config['nms'])
    kind = nms.pop('type', 'nms')
    kind = kind if isinstance(kind, str) else kind.__name__  # of a config in pure Python
    if kind != 'nms':
        raise DeploymentError(
            f"{name}.nms asks for {kind!r}, and the file suppresses boxes by plain 'nms': set "
            f'{name}.nms.type to that.'
        )
    if 'iou_thr' in nms:  # its old name, which mmcv takes with a warning
        nms['iou_threshold'] = nms.pop('iou_thr')
    unknown = sorted(set(nms) - set(Suppression._fields))
    if unknown or 'iou_threshold' not in nms:
        what = f'has {", ".join(unknown)}' if unknown else 'has no iou_threshold'
        raise DeploymentError(f'{name}.nms {what}; it takes {", ".join(Suppression._fields)}.')
    return Suppression(**nms)
