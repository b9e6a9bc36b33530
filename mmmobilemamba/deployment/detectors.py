"""Detectors of mmdet as functions of an image alone, with the suppression of overlapping boxes inside.

They give what mmdet's ``predict`` gives, but for a whole batch and in shapes that do not depend on what is
found: the ``max_per_img`` best boxes of each image, with a score of 0 where there are fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torchvision
from mmengine.config import ConfigDict
from torch import Tensor, nn

from .suppress import suppress

MAX_CANDIDATES = 4000  # boxes of an image, of all classes, that a second stage hands to the suppression


class DenseDetector(nn.Module):
    """A detector of one stage with anchors, such as RetinaNet and SSDLite."""

    output_names = ['boxes', 'scores', 'labels']

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> boxes (N, K, 4), left, top, right, bottom in px; scores and labels (N, K)."""
        head = self.model.bbox_head
        config = self.model.test_cfg
        scores, deltas = head(self.model.extract_feat(image))
        boxes, scores, labels = zip(*candidates(head, scores, deltas, config.get('nms_pre', -1)))
        boxes = clip(torch.cat(boxes, 1), image.shape[2:])
        scores = drop_small(boxes, torch.cat(scores, 1), config)
        return best(boxes, scores, torch.cat(labels, 1), config, config.get('score_thr', 0.0))


class TwoStageDetector(nn.Module):
    """A detector that looks at proposals a second time: Faster R-CNN, and Mask R-CNN with its masks."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        masks = ['masks'] if model.roi_head.with_mask else []
        self.output_names = ['boxes', 'scores', 'labels', *masks]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> boxes (N, K, 4), scores, labels (N, K), masks in the boxes (N, K, h, w)."""
        maps = self.model.extract_feat(image)
        proposals, known = self.propose(maps, image.shape[2:])
        boxes, scores, labels = self.detect(maps, proposals, known, image.shape[2:])
        if not self.model.roi_head.with_mask:
            return boxes, scores, labels
        return boxes, scores, labels, self.masks(maps, boxes, labels)

    def propose(self, maps: Sequence[Tensor], size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Proposals (N, P, 4), and whether there are so many (N, P)."""
        head, config = self.model.rpn_head, self.model.test_cfg.rpn
        all_scores, all_deltas = head(maps)
        levels = list(candidates(head, all_scores, all_deltas, config.nms_pre))
        boxes = clip(torch.cat([boxes for boxes, _, _ in levels], 1), size)
        scores = torch.cat([scores for _, scores, _ in levels], 1)
        level = torch.cat([torch.full_like(labels, i) for i, (_, _, labels) in enumerate(levels)], 1)
        boxes, scores, _ = best(boxes, drop_small(boxes, scores, config), level, config, 0.0)
        return boxes, scores > 0

    def detect(
        self, maps: Sequence[Tensor], proposals: Tensor, known: Tensor, size: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, K, 4), scores and labels (N, K), of proposals."""
        head, config = self.model.roi_head.bbox_head, self.model.test_cfg.rcnn
        batch, count = known.shape
        scores, deltas = head(extract(self.model.roi_head.bbox_roi_extractor, maps, proposals))
        scores = scores.softmax(-1)[:, :-1].reshape(batch, count, -1) * known[..., None]
        classes = head.num_classes
        boxes = head.bbox_coder.decode(proposals.reshape(-1, 4), deltas)
        boxes = boxes.reshape(batch, count, -1, 4).expand(-1, -1, classes, -1).reshape(batch, -1, 4)
        scores, index = scores.flatten(1).topk(torch.sym_min(MAX_CANDIDATES, count * classes), dim=1)
        return best(clip(take(boxes, index), size), scores, index % classes, config, config.score_thr)

    def masks(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Masks (N, K, h, w), of the classes of the boxes."""
        roi_head = self.model.roi_head
        extractor = (
            roi_head.bbox_roi_extractor if roi_head.share_roi_extractor else roi_head.mask_roi_extractor
        )
        logits = roi_head.mask_head(extract(extractor, maps, boxes))
        if logits.shape[1] > 1:
            index = labels.reshape(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
            logits = logits.gather(1, index)
        return logits.sigmoid().reshape(*labels.shape, *logits.shape[2:])


def candidates(
    head: nn.Module, all_scores: Sequence[Tensor], all_deltas: Sequence[Tensor], limit: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The best pairs of a box and a class of each level: boxes (N, B, 4), scores and labels (N, B).

    Args:
        head (nn.Module): mmdet's AnchorHead.
        all_scores, all_deltas (list[Tensor]): What it gives, (N, A * C, H, W) a level.
        limit (int): The most pairs of a level; without limit if negative.
    """
    sizes = [scores.shape[2:] for scores in all_scores]
    all_priors = head.prior_generator.grid_priors(sizes, device=all_scores[0].device)
    for scores, deltas, priors in zip(all_scores, all_deltas, all_priors):
        batch = scores.shape[0]
        scores = scores.permute(0, 2, 3, 1).reshape(batch, -1, head.cls_out_channels)
        scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[..., :-1]
        classes = head.cls_out_channels if head.use_sigmoid_cls else head.cls_out_channels - 1
        deltas = deltas.permute(0, 2, 3, 1).reshape(batch, -1, 4)
        pairs = scores.shape[1] * classes
        scores, index = scores.flatten(1).topk(torch.sym_min(limit, pairs) if limit > 0 else pairs, dim=1)
        anchor = index // classes
        boxes = head.bbox_coder.decode(priors[anchor].reshape(-1, 4), take(deltas, anchor).reshape(-1, 4))
        yield boxes.reshape(batch, -1, 4), scores, index % classes


def take(boxes: Tensor, index: Tensor) -> Tensor:
    """Some boxes of each image: (N, B, 4), (N, K) -> (N, K, 4)."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))


def clip(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes within an image of ``size``, height and width in px."""
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack((x, y), dim=-1).flatten(-2).reshape(boxes.shape)


def drop_small(boxes: Tensor, scores: Tensor, config: ConfigDict) -> Tensor:
    """Scores (N, B), zero where a side of the box, (N, B, 4), is not above ``min_bbox_size``."""
    smallest = config.get('min_bbox_size', -1)
    if smallest < 0:
        return scores
    return scores * (boxes[..., 2:] - boxes[..., :2] > smallest).all(-1)


def best(
    boxes: Tensor, scores: Tensor, labels: Tensor, config: ConfigDict, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What is left of boxes (N, B, 4), scores and labels (N, B), the best first, at most ``max_per_img``."""
    # Boxes of different labels are moved apart, so that none suppresses another.
    apart = labels.to(boxes.dtype) * (boxes.max() + 1)
    scores = suppress(boxes + apart[..., None], scores, config.nms.iou_threshold, threshold)
    scores, index = scores.topk(torch.sym_min(config.max_per_img, scores.shape[1]), dim=1)
    return take(boxes, index), scores, labels.gather(1, index)


def extract(extractor: nn.Module, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """What mmdet's SingleRoIExtractor gives for boxes (N, K, 4): (N * K, C, side, side)."""
    batch, count, _ = boxes.shape
    image = torch.arange(batch, device=boxes.device, dtype=boxes.dtype)[:, None, None].expand(-1, count, 1)
    rois = torch.cat([image, boxes], 2).reshape(-1, 5)
    strides = extractor.featmap_strides
    level = extractor.map_roi_levels(rois, len(strides)).view(-1, 1, 1, 1)
    layer = extractor.roi_layers[0]
    out = 0
    for index, (x, stride) in enumerate(zip(maps, strides)):
        settings = (layer.output_size, 1 / stride, layer.sampling_ratio, layer.aligned)
        out = out + torchvision.ops.roi_align(x, rois, *settings) * (level == index)
    return out
