"""Box candidates of mmdet's dense heads, before non-maximum suppression.

One function for each prediction method of the heads in mmdet 3, named after the mmdet class that defines it.
Source: https://github.com/open-mmlab/mmdetection/tree/v3.3.0/mmdet/models/dense_heads
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .errors import DeploymentError
from .probes import Probe

# Methods that turn a head's outputs into boxes. Heads that override them in any other way cannot be exported.
METHODS = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process', 'score_voting')
CODERS = ('DeltaXYWHBBoxCoder', 'DistancePointBBoxCoder', 'TBLRBBoxCoder')
TINY = torch.finfo(torch.float32).tiny  # replaces a candidate's score of 0, which marks "no candidate"


class Candidates(NamedTuple):
    """Candidate detections of each image, a box and a class each.

    Attributes:
        boxes (Tensor): Left, top, right and bottom in px, (N, B, 4).
        scores (Tensor): 0 where there is no candidate, (N, B).
        labels (Tensor): Class indices, (N, B).
        most (float): Upper bound of the number of candidates per image, for any image size.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    most: float


class Level(NamedTuple):
    """Predictions at the A priors of a level: scores (N, A, C), deltas (N, A, 4), priors (A, 2 or 4)."""

    scores: Tensor
    deltas: Tensor
    priors: Tensor
    factors: Tensor | None = None  # score factors, (N, A)


def rule_of(head: nn.Module) -> Callable[..., Any]:
    """Return the function of this module that implements a dense head's prediction (Callable).

    Args:
        head (nn.Module): A dense head of mmdet.

    Raises:
        DeploymentError: If no function matches the head, or the head has an unsupported setting.
    """
    methods = [getattr(type(head), name) for name in METHODS if hasattr(type(head), name)]
    rule = RULES.get(tuple(method.__qualname__ for method in methods))
    if rule is None or not all(method.__module__.startswith('mmdet.') for method in methods):
        known = {name for names in RULES for name in names}
        own = [method.__qualname__ for method in methods if method.__qualname__ not in known]
        raise DeploymentError(
            f'{type(head).__name__} is a head that predicts in a way of its own'
            f'{" (" + ", ".join(own) + ")" if own else ""}; heads that predict like these can be exported: '
            f'{", ".join(HEADS)}.'
        )
    if rule is gfl_head and not is_mmdets(head.integral, 'Integral'):
        raise DeploymentError(f'its {type(head.integral).__name__} has no form for a file; Integral has.')
    coder = getattr(head, 'bbox_coder', None)
    if rule is not yolox_head and (not is_mmdets(coder, *CODERS) or coder.use_box_type):
        raise DeploymentError(f'its {type(coder).__name__} has no form for a file; {", ".join(CODERS)} have.')
    if getattr(head.loss_cls, 'custom_cls_channels', False):
        raise DeploymentError(f'the scores of its {type(head.loss_cls).__name__} have no form for a file.')
    return rule


def is_mmdets(part: Any, *names: str) -> bool:
    """Whether the type of a part of a head is one of these classes of mmdet, not a subclass (bool)."""
    return type(part).__name__ in names and type(part).__module__.startswith('mmdet.')


def base_dense_head(
    head: nn.Module, maps: Sequence[Sequence[Tensor]], size: Sequence[int], probe: Probe
) -> Candidates:
    """``BaseDenseHead``: RetinaNet, SSD, FCOS, ATSS, RTMDet, and other heads that inherit its prediction.

    Args:
        head (nn.Module): The head.
        maps (list[list[Tensor]]): Outputs of the head: logits (N, A * C, H, W), deltas (N, A * 4, H, W) and,
            for some heads, score factors (N, A, H, W), one tensor per level.
        size (list[int]): Height and width of the image in px.
        probe (Probe): See :mod:`.probes`.

    Returns:
        Candidates: At most ``nms_pre`` candidates of each level.
    """
    levels = [
        Level(
            activated(head, scores), by_place(deltas, 4), priors, *(by_place(x, 1)[..., 0] for x in factors)
        )
        for scores, deltas, *factors, priors in zip(*maps, priors_of(head, maps))
    ]
    return best_pairs(head, levels, size, probe)


def gfl_head(
    head: nn.Module, maps: Sequence[Sequence[Tensor]], size: Sequence[int], probe: Probe
) -> Candidates:
    """``GFLHead``: deltas are expectations of distributions, in units of the stride from the anchor centre.

    Arguments and result as in :func:`base_dense_head`.
    """
    levels = []
    for scores, deltas, priors, stride in zip(*maps, priors_of(head, maps), head.prior_generator.strides):
        shares = deltas.permute(0, 2, 3, 1).reshape(deltas.shape[0], -1, 4, head.reg_max + 1).softmax(-1)
        means = shares @ head.integral.project * stride[0]
        levels.append(Level(activated(head, scores), means, head.anchor_center(priors)))
    return best_pairs(head, levels, size, probe)


def rpn_head(
    head: nn.Module, maps: Sequence[Sequence[Tensor]], size: Sequence[int], probe: Probe
) -> Candidates:
    """``RPNHead``: class-agnostic proposals.

    Labels are level indices, because NMS runs separately for each level. Arguments and result as in
    :func:`base_dense_head`.
    """
    config, found, most = head.test_cfg, [], 0.0
    limit = config.get('nms_pre', -1)
    for number, (scores, deltas, priors) in enumerate(zip(*maps, priors_of(head, maps))):
        scores = activated(head, scores).flatten(1)
        scores, index = best(scores, limit if limit > 0 else None, probe)
        boxes = decode(head, Level(scores, by_place(deltas, 4), priors), index, size)
        scores = scores.clamp(min=TINY) * is_large(boxes, config)
        found.append((boxes, scores, torch.full_like(index, number)))
        most += limit if limit > 0 else math.inf
    boxes, scores, labels = (torch.cat(parts, 1) for parts in zip(*found))
    return Candidates(boxes, scores, labels, most)


def yolox_head(
    head: nn.Module, maps: Sequence[Sequence[Tensor]], size: Sequence[int], probe: Probe
) -> Candidates:
    """``YOLOXHead``: the best class of each location, times its objectness; boxes are not clipped.

    Arguments and result as in :func:`base_dense_head`.
    """
    scores, deltas, objectness = (
        torch.cat([by_place(level, channels) for level in levels], 1)
        for levels, channels in zip(maps, (head.cls_out_channels, 4, 1))
    )
    scores, objectness = sigmoid(scores), sigmoid(objectness[..., 0])
    labels = probe.best(scores.transpose(1, 2), scores.argmax(2)[:, None])[:, 0]
    scores = scores.gather(2, labels[..., None])[..., 0] * objectness
    scores = torch.where(scores >= head.test_cfg.score_thr, scores.clamp(min=TINY), 0.0)
    boxes = head._bbox_decode(torch.cat(priors_of(head, maps, with_stride=True)), deltas)
    return Candidates(boxes, scores, labels, math.inf)


def best_pairs(head: nn.Module, levels: Sequence[Level], size: Sequence[int], probe: Probe) -> Candidates:
    """Select the ``nms_pre`` best (prior, class) pairs of each level whose scores exceed ``score_thr``.

    Args:
        head (nn.Module): The head.
        levels (Sequence[Level]): Its predictions.
        size (list[int]): Height and width of the image in px.
        probe (Probe): See :mod:`.probes`.
    """
    config, found, most = head.test_cfg, [], 0.0
    limit, threshold = config.get('nms_pre', -1), config.get('score_thr', 0.0)
    classes = head.cls_out_channels - (not has_sigmoid(head))  # shapes can be symbolic during export
    for level in levels:
        scores, index = best(level.scores.flatten(1), limit if limit > 0 else None, probe)
        valid = scores > threshold
        if limit < 0:  # mmdet uses it as the end of a slice, which drops the last ones
            place = torch.arange(scores.shape[1], device=scores.device)
            valid = valid & (place < valid.sum(1, keepdim=True) + limit)
        place = index // classes
        boxes = decode(head, level, place, size)
        if level.factors is not None:
            scores = scores * sigmoid(level.factors).gather(1, place)
        scores = torch.where(valid & is_large(boxes, config), scores.clamp(min=TINY), 0.0)
        found.append((boxes, scores, index % classes))
        most += limit if limit > 0 else math.inf
    boxes, scores, labels = (torch.cat(parts, 1) for parts in zip(*found))
    return Candidates(boxes, scores, labels, most)


class PlaceCandidates(NamedTuple):
    """Boxes in px of the P best priors of each image, (N, P, 4), and scores of all classes, (N, P, C)."""

    boxes: Tensor
    scores: Tensor


def paa_head(
    head: nn.Module, maps: Sequence[Sequence[Tensor]], size: Sequence[int], probe: Probe
) -> PlaceCandidates:
    """``PAAHead``: the ``nms_pre`` best priors of each level; scores are sqrt(score * IoU).

    Arguments as in :func:`base_dense_head`.
    """
    limit, found = head.test_cfg.get('nms_pre', -1), []
    for scores, deltas, factors, priors in zip(*maps, priors_of(head, maps)):
        scores = (activated(head, scores) * sigmoid(by_place(factors, 1))).sqrt()
        _, place = best(scores.amax(2), limit if limit > 0 else None, probe)
        boxes = decode(head, Level(scores, by_place(deltas, 4), priors), place, size)
        found.append((boxes, scores.gather(1, place[..., None].expand(-1, -1, head.cls_out_channels))))
    return PlaceCandidates(*(torch.cat(parts, 1) for parts in zip(*found)))


def vote(boxes: Tensor, labels: Tensor, places: PlaceCandidates, threshold: float) -> Tensor:
    """Replace each box by the weighted mean of the boxes that overlap it, see ``PAAHead.score_voting``.

    Args:
        boxes (Tensor): Detected boxes, (N, K, 4).
        labels (Tensor): Their classes, (N, K).
        places (PlaceCandidates): The boxes that vote.
        threshold (float): A box votes only if its score for the label exceeds this value.

    Returns:
        Tensor: The boxes after the vote, (N, K, 4).
    """
    scores = torch.where(places.scores > threshold, places.scores, 0.0).transpose(1, 2)
    scores = scores.gather(1, labels[..., None].expand(-1, -1, scores.shape[2]))
    overlap = iou(boxes[:, :, None], places.boxes[:, None])
    weight = torch.where(overlap > 0.01, torch.exp(-((1 - overlap) ** 2) / 0.025) * scores, 0.0)
    total = weight.sum(2, keepdim=True)
    return torch.where(total > 0, weight @ places.boxes / total.clamp(min=TINY), boxes)


def as_voted(labels: Tensor, scores: Tensor, classes: int) -> Tensor:
    """Return mmdet's order of the boxes after the vote: by class, then by descending score.

    Args:
        labels (Tensor): Classes, (N, K).
        scores (Tensor): In descending order, (N, K). Empty slots have a score of 0 and come last.
        classes (int): Number of classes.

    Returns:
        Tensor: Indices, (N, K).
    """
    place = torch.arange(labels.shape[1], device=labels.device)
    key = torch.where(scores > 0, labels, classes) * labels.shape[1] + place
    return key.topk(labels.shape[1], dim=1, largest=False)[1]


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4), batched and with broadcasting."""
    first, last = (
        torch.maximum(boxes[..., :2], others[..., :2]),
        torch.minimum(boxes[..., 2:], others[..., 2:]),
    )
    common = (last - first).clamp(min=0).prod(-1)
    areas = ((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (boxes, others))
    return common / (sum(areas) - common).clamp(min=1e-6)


def priors_of(head: nn.Module, maps: Sequence[Sequence[Tensor]], **kwargs: Any) -> list[Tensor]:
    """Return the anchors (A, 4) or points (A, 2) of each level, in px."""
    sizes = [scores.shape[2:] for scores in maps[0]]
    return head.prior_generator.grid_priors(sizes, device=maps[0][0].device, **kwargs)


def by_place(x: Tensor, channels: int) -> Tensor:
    """Reshape head outputs, (N, A * channels, H, W) -> (N, H * W * A, channels)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels)


@torch.no_grad()
def check_scores(head: nn.Module, features: Sequence[Tensor], tolerance: float) -> None:
    """Check that the scores of a head vary by more than the tolerance of the comparison with PyTorch.

    Otherwise any selection of boxes would pass the comparison.

    Args:
        head (nn.Module): A head supported by :func:`rule_of`.
        features (Sequence[Tensor]): Inputs of the head, computed from images of noise.
        tolerance (float): Relative to the largest score.

    Raises:
        DeploymentError: If all scores are equal within the tolerance.
    """
    scores = torch.cat([activated(head, level).flatten() for level in head(features)[0]])
    least, most = float(scores.min()), float(scores.max())
    if most - least <= tolerance * most:
        raise DeploymentError(
            f'Its {type(head).__name__} gives the same score, {most:.4f}, to all boxes of an image of noise, '
            f'as before any training. So no comparison can tell a right file from a wrong one. Give the '
            f'checkpoint of a trained one.'
        )


def activated(head: nn.Module, logits: Tensor) -> Tensor:
    """Return the scores (N, H * W * A, C) of logits (N, A * (C or C + 1), H, W)."""
    logits = by_place(logits, head.cls_out_channels)
    return sigmoid(logits) if has_sigmoid(head) else logits.softmax(-1)[..., :-1]


def sigmoid(x: Tensor) -> Tensor:
    """Sigmoid with full relative precision for small scores, so that candidates are ranked as in PyTorch.

    The absolute error of ONNX Runtime's operator is about 3e-8, as large as the differences between the best
    scores of a barely trained detector.
    """
    return 1 / (1 + torch.exp(-x))


def has_sigmoid(head: nn.Module) -> bool:
    """Whether a head uses sigmoid scores; softmax scores include a background class (bool)."""
    return getattr(head, 'use_sigmoid_cls', True)


def best(scores: Tensor, limit: int | None, probe: Probe) -> tuple[Tensor, Tensor]:
    """Return the ``limit`` best scores of each image and their indices.

    Args:
        scores (Tensor): (N, B).
        limit (int, optional): Number of scores to return; None sorts all of them.
        probe (Probe): See :mod:`.probes`.

    Returns:
        tuple[Tensor, Tensor]: Scores in descending order and their indices, (N, K).
    """
    count = scores.shape[1]
    values, index = scores.topk(count if limit is None else torch.sym_min(limit, count), dim=1)
    chosen = probe.best(scores, index)
    return (values if chosen is index else scores.gather(1, chosen)), chosen


def decode(head: nn.Module, level: Level, place: Tensor, size: Sequence[int]) -> Tensor:
    """Decode the boxes (N, B, 4) at indices ``place`` (N, B) of a level, in px.

    Boxes are clipped to ``size``, height and width in px, if the coder clips.
    """
    priors = level.priors[place]
    boxes = head.bbox_coder.decode(priors.flatten(0, 1), take(level.deltas, place).reshape(-1, 4))
    return clip(boxes.reshape(*place.shape, 4), size, head.bbox_coder)


def take(boxes: Tensor, index: Tensor) -> Tensor:
    """Gather boxes of each image by index, (N, B, 4), (N, K) -> (N, K, 4)."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))


def clip(boxes: Tensor, size: Sequence[int], coder: Any) -> Tensor:
    """Clip boxes (..., 4) to ``size``, height and width in px, if the coder clips."""
    if not coder.clip_border:
        return boxes
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack((x, y), dim=-1).flatten(-2).reshape(boxes.shape)


def is_large(boxes: Tensor, config: Any) -> Tensor | bool:
    """Whether both sides of boxes (N, B, 4) exceed ``min_bbox_size``: (N, B), or True if it is not set."""
    smallest = config.get('min_bbox_size', -1)
    return True if smallest < 0 else (boxes[..., 2:] - boxes[..., :2] > smallest).all(-1)


BASE = (
    'BaseDenseHead.predict',
    'BaseDenseHead.predict_by_feat',
    'BaseDenseHead._predict_by_feat_single',
    'BaseDenseHead._bbox_post_process',
)
RULES = {
    BASE: base_dense_head,
    (*BASE[:2], 'GFLHead._predict_by_feat_single', BASE[3]): gfl_head,
    (*BASE[:2], 'RPNHead._predict_by_feat_single', 'RPNHead._bbox_post_process'): rpn_head,
    (BASE[0], 'YOLOXHead.predict_by_feat', BASE[2], 'YOLOXHead._bbox_post_process'): yolox_head,
    (
        BASE[0],
        'PAAHead.predict_by_feat',
        'PAAHead._predict_by_feat_single',
        'PAAHead._bbox_post_process',
        'PAAHead.score_voting',
    ): paa_head,
}
HEADS = ('RetinaHead', 'SSDHead', 'FCOSHead', 'ATSSHead', 'RTMDetHead', 'GFLHead', 'PAAHead', 'YOLOXHead')
