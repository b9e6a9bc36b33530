"""Non-maximum suppression of a batch, as one operator of PyTorch and as standard operators of ONNX.

Source of the ONNX operator: https://onnx.ai/onnx/operators/onnx__NonMaxSuppression.html
"""

import torch
import torchvision
from torch import Tensor

NO_LIMIT = 2**63 - 1


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


def onnx_translations():
    """What :func:`torch.onnx.export` writes for the operator (dict); needs onnxscript."""
    from onnxscript import opset18 as op

    def translate(boxes, scores, iou_threshold, score_threshold):
        picked = op.NonMaxSuppression(
            boxes,
            op.Unsqueeze(scores, op.Constant(value_ints=[1])),
            op.Constant(value_int=NO_LIMIT),
            op.Constant(value_float=iou_threshold),
            op.Constant(value_float=score_threshold),
        )
        places = op.Gather(picked, op.Constant(value_ints=[0, 2]), axis=1)  # image and box of each
        nothing = op.Mul(scores, op.Constant(value_float=0.0))
        return op.ScatterND(nothing, places, op.GatherND(scores, places))

    return {torch.ops.mmmobilemamba.suppress.default: translate}
