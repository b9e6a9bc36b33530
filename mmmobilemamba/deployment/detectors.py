"""mmdet's detectors as functions of an image tensor, with non-maximum suppression inside.

They return the results of mmdet's ``predict`` for a batch, in fixed shapes: the ``max_per_img`` best boxes of
each image. Unused slots have a score of 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn

from .dense_heads import (
    TINY,
    Candidates,
    as_voted,
    best,
    clip,
    paa_head,
    rpn_head,
    rule_of,
    take,
    vote,
    yolox_head,
)
from .probes import NO_PROBE, Probe
from .suppress import Suppression, read_suppression, suppress


class DenseDetector(nn.Module):
    """A single-stage detector such as RetinaNet, SSDLite, FCOS, RTMDet and YOLOX.

    Args:
        model (nn.Module): mmdet's SingleStageDetector.

    Raises:
        DeploymentError: If its head or the settings of its NMS are not supported.
    """

    output_names = ['boxes', 'scores', 'labels']

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.rule = rule_of(model.bbox_head)
        self.suppression = read_suppression(model.bbox_head.test_cfg)

    def forward(self, image: Tensor, probe: Probe = NO_PROBE) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C, H, W) -> boxes (N, K, 4), left, top, right, bottom in px; scores and labels (N, K)."""
        head = self.model.bbox_head
        logits, *others = head(self.model.extract_feat(image))
        # With objectness, RTMDet's logits are the inverse of a sigmoid.
        exact = not getattr(head, 'with_objectness', False)
        logits = probe.numbers(*logits) if exact else probe.saturated(*logits)
        maps = [logits, *(probe.numbers(*levels) for levels in others)]
        found = self.rule(head, maps, image.shape[2:], probe)
        limit = head.test_cfg.get('max_per_img', -1)
        if self.rule is paa_head:
            threshold = head.test_cfg.score_thr
            scores = torch.where(found.scores > threshold, found.scores.clamp(min=TINY), 0.0)
            clipped = head.bbox_coder.clip_border
            boxes, scores, labels = by_class(
                found.boxes[:, :, None], scores, limit, self.suppression, clipped, probe
            )
            if head.with_score_voting:
                order = as_voted(labels, scores, head.cls_out_channels)
                boxes = take(vote(boxes, labels, found, threshold), order)
                scores, labels = scores.gather(1, order), labels.gather(1, order)
            return boxes, scores, labels
        if self.rule is yolox_head:  # ignores max_per_img
            limit = -1
        return left_over(found, limit, self.suppression, probe)


class TwoStageDetector(nn.Module):
    """A two-stage detector: Faster R-CNN, or Mask R-CNN with its masks.

    Args:
        model (nn.Module): mmdet's TwoStageDetector.

    Raises:
        DeploymentError: If the settings of its NMS are not supported.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model
        masks = ['masks'] if model.roi_head.with_mask else []
        self.output_names = ['boxes', 'scores', 'labels', *masks]
        self.rpn_suppression = read_suppression(model.rpn_head.test_cfg, 'test_cfg.rpn')
        self.suppression = read_suppression(model.roi_head.test_cfg, 'test_cfg.rcnn')

    def forward(self, image: Tensor, probe: Probe = NO_PROBE) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> boxes in px (N, K, 4), scores and labels (N, K), masks in boxes (N, K, h, w)."""
        maps = probe.numbers(*self.model.extract_feat(image))
        proposals, known = self.propose(maps, image.shape[2:], probe)
        boxes, scores, labels = self.detect(maps, proposals, known, image.shape[2:], probe)
        if not self.model.roi_head.with_mask:
            return boxes, scores, labels
        return boxes, scores, labels, self.masks(maps, boxes, labels, probe)

    def propose(self, maps: Sequence[Tensor], size: Sequence[int], probe: Probe) -> tuple[Tensor, Tensor]:
        """Return proposals in px (N, P, 4), and which of the P slots are in use (N, P)."""
        head = self.model.rpn_head
        outputs = [probe.numbers(*levels) for levels in head(maps)]
        found = rpn_head(head, outputs, size, probe)
        boxes, scores, _ = left_over(found, head.test_cfg.max_per_img, self.rpn_suppression, probe)
        (boxes,) = probe.numbers(boxes)
        return boxes, scores > 0

    def detect(
        self, maps: Sequence[Tensor], proposals: Tensor, known: Tensor, size: Sequence[int], probe: Probe
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Classify and refine proposals: boxes in px (N, K, 4), scores and labels (N, K)."""
        head, config = self.model.roi_head.bbox_head, self.model.roi_head.test_cfg
        batch, count = known.shape
        logits, deltas = head(extract(self.model.roi_head.bbox_roi_extractor, maps, proposals))
        logits, deltas = probe.numbers(logits, deltas)
        scores = logits.softmax(-1)[:, :-1].reshape(batch, count, head.num_classes)
        valid = (scores > config.score_thr) & known[..., None]
        scores = torch.where(valid, scores.clamp(min=TINY), 0.0)
        boxes = head.bbox_coder.decode(proposals.reshape(-1, 4), deltas).reshape(batch, count, -1, 4)
        boxes = clip(boxes, size, head.bbox_coder)
        clipped = head.bbox_coder.clip_border
        return by_class(boxes, scores, config.max_per_img, self.suppression, clipped, probe)

    def masks(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor, probe: Probe) -> Tensor:
        """Return the mask probabilities (N, K, h, w) for the class of each box."""
        roi_head = self.model.roi_head
        extractor = (
            roi_head.bbox_roi_extractor if roi_head.share_roi_extractor else roi_head.mask_roi_extractor
        )
        (boxes,) = probe.numbers(boxes)
        (logits,) = probe.numbers(roi_head.mask_head(extract(extractor, maps, boxes)))
        if logits.shape[1] > 1:
            index = labels.reshape(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
            logits = logits.gather(1, index)
        return logits.sigmoid().reshape(*labels.shape, *logits.shape[2:])


def left_over(
    found: Candidates, limit: int, settings: Suppression | None, probe: Probe, classes: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply NMS and return the remaining candidates, best first.

    Args:
        found (Candidates): Candidates of all classes.
        limit (int): Maximum number per image; no limit if not positive.
        settings (Suppression, optional): Settings of the NMS. If None, boxes are only sorted.
        probe (Probe): See :mod:`.probes`.
        classes (int): If positive, the candidates of each box are ordered by class, 0, 1, ..., and NMS runs
            per class. This is equivalent if all boxes lie within the image, and cheaper.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Boxes in px (N, K, 4), scores and labels (N, K).
    """
    boxes, scores, labels, _ = found
    if settings is not None:
        limit = min((number for number in (limit, settings.max_num) if number > 0), default=-1)
        moved = apart(found, settings)
        moved, scores = probe.numbers(moved, scores)
        batch, kept = scores.shape[0], scores
        if classes:
            moved, kept = (
                x.unflatten(1, (-1, classes)).transpose(1, 2).flatten(0, 1) for x in (moved, scores)
            )
        thresholds = settings.iou_threshold, settings.score_threshold
        kept = probe.kept(moved, kept, suppress(moved, kept, *thresholds), thresholds)
        scores = kept.reshape(batch, classes, -1).transpose(1, 2).flatten(1) if classes else kept
    scores, index = best(scores, limit if limit > 0 else None, probe)
    return take(boxes, index), scores, labels.gather(1, index)


def apart(found: Candidates, settings: Suppression) -> Tensor:
    """Shift the boxes (N, B, 4) so that boxes of different classes do not overlap.

    Bit-identical to mmcv's ``batched_nms``. Inverted boxes, which have no area in mmcv, are collapsed here
    because ONNX's NonMaxSuppression would assign them one.
    """
    boxes, scores, labels, most = found
    valid = scores > 0
    lowest = boxes.amin((1, 2))
    highest = torch.where(valid[..., None], boxes, lowest[:, None, None]).amax((1, 2))
    step = torch.zeros_like(highest) if settings.class_agnostic else highest + 1
    if most >= settings.split_thr:
        step = torch.where(valid.sum(1) >= settings.split_thr, highest - lowest + 1, step)
    if most >= settings.split_thr or not settings.class_agnostic:
        boxes = boxes + (labels.to(boxes.dtype) * step[:, None])[..., None]
    first, last = boxes[..., :2], boxes[..., 2:] + settings.offset
    return torch.cat((first, torch.maximum(first, last)), -1)


def by_class(
    boxes: Tensor,
    scores: Tensor,
    limit: int,
    settings: Suppression | None,
    clipped: bool,
    probe: Probe,
) -> tuple[Tensor, Tensor, Tensor]:
    """mmdet's ``multiclass_nms``.

    Args:
        boxes (Tensor): In px, (N, P, C, 4), or (N, P, 1, 4) if they are class-agnostic.
        scores (Tensor): (N, P, C).
        limit (int): Maximum number per image; no limit if not positive.
        settings (Suppression, optional): Settings of the NMS. If None, boxes are only sorted.
        clipped (bool): Whether all boxes are within the image.
        probe (Probe): See :mod:`.probes`.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Boxes in px (N, K, 4), scores and labels (N, K).
    """
    batch, _, classes = scores.shape
    labels = torch.arange(classes, device=scores.device).expand(scores.shape).flatten(1)
    boxes = boxes.expand(-1, -1, classes, -1).reshape(batch, -1, 4)
    alone = clipped and settings is not None and not settings.class_agnostic
    found = Candidates(boxes, scores.flatten(1), labels, most=0 if alone else math.inf)
    return left_over(found, limit, settings, probe, classes if alone else 0)


def extract(extractor: nn.Module, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """mmdet's SingleRoIExtractor: features (N * K, C, side, side) of boxes (N, K, 4) in px."""
    batch, count, _ = boxes.shape
    image = torch.arange(batch, device=boxes.device, dtype=boxes.dtype)[:, None, None].expand(-1, count, 1)
    rois = torch.cat([image, boxes], 2).reshape(-1, 5)
    strides = extractor.featmap_strides
    level = level_of(rois, extractor.finest_scale, len(strides)).view(-1, 1, 1, 1)
    layer = extractor.roi_layers[0]
    out = 0
    for index, (x, stride) in enumerate(zip(maps, strides)):
        settings = (layer.output_size, 1 / stride, layer.sampling_ratio, layer.aligned)
        out = out + torchvision.ops.roi_align(x, rois, *settings) * (level == index)
    return out


def level_of(rois: Tensor, finest_scale: float, levels: int) -> Tensor:
    """``SingleRoIExtractor.map_roi_levels``, (K, 5) -> (K,), with comparisons instead of a logarithm.

    Runtimes round logarithms differently, and a box of the size of the image can lie exactly on the boundary
    between two levels.
    """
    scale = torch.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])) / finest_scale + 1e-6
    return sum((scale >= 2**level).long() for level in range(1, levels)) + torch.zeros_like(scale).long()
