"""The boxes that dense heads of mmdet find, before overlapping ones are suppressed.

Each way in which heads of mmdet 3 predict has a function here, by the name of mmdet's class.
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

# What of a head makes boxes of its maps. A head that has another of its own cannot be exported.
METHODS = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process', 'score_voting')
CODERS = ('DeltaXYWHBBoxCoder', 'DistancePointBBoxCoder', 'TBLRBBoxCoder')
TINY = torch.finfo(torch.float32).tiny  # the score of a candidate that has 0, which means none


class Candidates(NamedTuple):
    """Pairs of a box and a class of each image that may be found.

    Attributes:
        boxes (Tensor): Left, top, right and bottom, in px, (N, B, 4).
        scores (Tensor): 0 where there is no candidate, (N, B).
        labels (Tensor): (N, B).
        most (float): The most of them that an image of any size may have.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    most: float


class Level(NamedTuple):
    """What a head says of the A places of a level: scores (N, A, C), deltas (N, A, 4), priors (A, 2 or 4)."""

    scores: Tensor
    deltas: Tensor
    priors: Tensor
    factors: Tensor | None = None  # of the scores, (N, A)


def rule_of(head: nn.Module) -> Callable[..., Any]:
    """The function of this module that predicts as a dense head does.

    Raises:
        DeploymentError: If there is none, or the head has a setting that it does not know.
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
    """Whether a part of a head is of one of these classes of mmdet, and of none that is made from them."""
    return type(part).__name__ in names and type(part).__module__.startswith('mmdet.')


def base_dense_head(
    head: nn.Module, maps: Sequence[Sequence[Tensor]], size: Sequence[int], probe: Probe
) -> Candidates:
    """``BaseDenseHead``: RetinaNet, SSD, FCOS, ATSS, RTMDet, and others that predict as these do.

    Args:
        head (nn.Module): The head.
        maps (list[list[Tensor]]): What it gives: scores, deltas and score factors perhaps, each by level.
        size (list[int]): Height and width of the image.
        probe (Probe): See :mod:`.probes`.
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
    """``GFLHead``: deltas are the means of distributions, in strides from the middle of the anchor."""
    levels = []
    for scores, deltas, priors, stride in zip(*maps, priors_of(head, maps), head.prior_generator.strides):
        shares = deltas.permute(0, 2, 3, 1).reshape(deltas.shape[0], -1, 4, head.reg_max + 1).softmax(-1)
        means = shares @ head.integral.project * stride[0]
        levels.append(Level(activated(head, scores), means, head.anchor_center(priors)))
    return best_pairs(head, levels, size, probe)


def rpn_head(
    head: nn.Module, maps: Sequence[Sequence[Tensor]], size: Sequence[int], probe: Probe
) -> Candidates:
    """``RPNHead``: proposals, of one class; the labels are the levels, of which none suppresses another's."""
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
    """``YOLOXHead``: the best class of each place, times its objectness; boxes may leave the image."""
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
    """The ``nms_pre`` best pairs of a place and a class of each level, above ``score_thr``."""
    config, found, most = head.test_cfg, [], 0.0
    limit, threshold = config.get('nms_pre', -1), config.get('score_thr', 0.0)
    classes = head.cls_out_channels - (not has_sigmoid(head))  # a shape may be no number while it is exported
    for level in levels:
        scores, index = best(level.scores.flatten(1), limit if limit > 0 else None, probe)
        valid = scores > threshold
        if limit < 0:  # which mmdet takes as the end of a slice, so that the last ones are left out
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
    """Boxes of the P best places of each image, (N, P, 4), with scores of every class, (N, P, C)."""

    boxes: Tensor
    scores: Tensor


def paa_head(
    head: nn.Module, maps: Sequence[Sequence[Tensor]], size: Sequence[int], probe: Probe
) -> PlaceCandidates:
    """``PAAHead``: the ``nms_pre`` best places of each level, with roots of score times IoU as scores."""
    limit, found = head.test_cfg.get('nms_pre', -1), []
    for scores, deltas, factors, priors in zip(*maps, priors_of(head, maps)):
        scores = (activated(head, scores) * sigmoid(by_place(factors, 1))).sqrt()
        _, place = best(scores.amax(2), limit if limit > 0 else None, probe)
        boxes = decode(head, Level(scores, by_place(deltas, 4), priors), place, size)
        found.append((boxes, scores.gather(1, place[..., None].expand(-1, -1, head.cls_out_channels))))
    return PlaceCandidates(*(torch.cat(parts, 1) for parts in zip(*found)))


def vote(boxes: Tensor, labels: Tensor, places: PlaceCandidates, threshold: float) -> Tensor:
    """Boxes (N, K, 4) as the mean of all boxes that overlap, by ``PAAHead.score_voting``.

    Those of a score for the label, (N, K), not above the threshold have no vote.
    """
    scores = torch.where(places.scores > threshold, places.scores, 0.0).transpose(1, 2)
    scores = scores.gather(1, labels[..., None].expand(-1, -1, scores.shape[2]))
    overlap = iou(boxes[:, :, None], places.boxes[:, None])
    weight = torch.where(overlap > 0.01, torch.exp(-((1 - overlap) ** 2) / 0.025) * scores, 0.0)
    total = weight.sum(2, keepdim=True)
    return torch.where(total > 0, weight @ places.boxes / total.clamp(min=TINY), boxes)


def as_voted(labels: Tensor, scores: Tensor, classes: int) -> Tensor:
    """The order (N, K) that mmdet gives boxes after the vote: by class, and within a class the best first.

    Places of no box, with a score of 0, stay behind all.
    """
    place = torch.arange(labels.shape[1], device=labels.device)
    key = torch.where(scores > 0, labels, classes) * labels.shape[1] + place
    return key.topk(labels.shape[1], dim=1, largest=False)[1]


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4), without a loop over the images."""
    first, last = (
        torch.maximum(boxes[..., :2], others[..., :2]),
        torch.minimum(boxes[..., 2:], others[..., 2:]),
    )
    common = (last - first).clamp(min=0).prod(-1)
    areas = ((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (boxes, others))
    return common / (sum(areas) - common).clamp(min=1e-6)


def priors_of(head: nn.Module, maps: Sequence[Sequence[Tensor]], **kwargs: Any) -> list[Tensor]:
    """Anchors or points of each level, (A, 4) or (A, 2)."""
    sizes = [scores.shape[2:] for scores in maps[0]]
    return head.prior_generator.grid_priors(sizes, device=maps[0][0].device, **kwargs)


def by_place(x: Tensor, channels: int) -> Tensor:
    """(N, A * channels, H, W) -> (N, H * W * A, channels)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels)


@torch.no_grad()
def check_scores(head: nn.Module, features: Sequence[Tensor], tolerance: float) -> None:
    """Make sure that the scores of a head differ by more than a file may differ from PyTorch.

    If they do not, any choice of boxes passes a comparison, and which one is made is chance.

    Args:
        head (nn.Module): One that :func:`rule_of` knows, or an RPN's.
        features (Sequence[Tensor]): What it takes, for images of noise.
        tolerance (float): Relative to the largest score.

    Raises:
        DeploymentError: If they are the same everywhere.
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
    """Scores (N, H * W * A, C) of logits (N, A * (C or C + 1), H, W)."""
    logits = by_place(logits, head.cls_out_channels)
    return sigmoid(logits) if has_sigmoid(head) else logits.softmax(-1)[..., :-1]


def sigmoid(x: Tensor) -> Tensor:
    """As PyTorch computes it, to the last digits of small scores, by which candidates are ordered.

    ONNX Runtime's operator is exact to 3e-8, by which the best scores of a detector differ that has hardly
    been trained.
    """
    return 1 / (1 + torch.exp(-x))


def has_sigmoid(head: nn.Module) -> bool:
    """Whether scores are sigmoids; those of a softmax have a class more, the background."""
    return getattr(head, 'use_sigmoid_cls', True)


def best(scores: Tensor, limit: int | None, probe: Probe) -> tuple[Tensor, Tensor]:
    """The ``limit`` best scores of each image, (N, B) -> (N, K), and their places."""
    count = scores.shape[1]
    values, index = scores.topk(count if limit is None else torch.sym_min(limit, count), dim=1)
    chosen = probe.best(scores, index)
    return (values if chosen is index else scores.gather(1, chosen)), chosen


def decode(head: nn.Module, level: Level, place: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes (N, B, 4) at places (N, B) of a level, within an image of ``size`` if the coder clips them."""
    priors = level.priors[place]
    boxes = head.bbox_coder.decode(priors.flatten(0, 1), take(level.deltas, place).reshape(-1, 4))
    return clip(boxes.reshape(*place.shape, 4), size, head.bbox_coder)


def take(boxes: Tensor, index: Tensor) -> Tensor:
    """Some boxes of each image: (N, B, 4), (N, K) -> (N, K, 4)."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))


def clip(boxes: Tensor, size: Sequence[int], coder: Any) -> Tensor:
    """Boxes within an image of ``size``, height and width in px, unless the coder lets them go beyond."""
    if not coder.clip_border:
        return boxes
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack((x, y), dim=-1).flatten(-2).reshape(boxes.shape)


def is_large(boxes: Tensor, config: Any) -> Tensor | bool:
    """Whether both sides of boxes, (N, B, 4), are above ``min_bbox_size`` if there is one."""
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
