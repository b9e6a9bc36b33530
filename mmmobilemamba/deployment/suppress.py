"""Non-maximum suppression of a batch as one operator, ``torch.ops.mmmobilemamba.suppress``."""

import torch
import torchvision
from torch import Tensor


@torch.library.custom_op('mmmobilemamba::suppress', mutates_args=())
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


@suppress.register_fake
def _fake(boxes, scores, iou_threshold, score_threshold):
    return torch.empty_like(scores)
