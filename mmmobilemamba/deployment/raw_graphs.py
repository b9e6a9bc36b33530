"""Networks as functions of an image tensor, without the final selection, for mobile and server runtimes.

They return logits, feature maps, or decoded boxes with the scores of all classes.
``tools/deployment/infer.py`` implements the selection (top-k, NMS) in NumPy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .dense_heads import (
    base_dense_head,
    by_place,
    gfl_head,
    has_sigmoid,
    paa_head,
    priors_of,
    rule_of,
    yolox_head,
)
from .errors import DeploymentError
from .graphs import BackboneGraph, SegmentorGraph
from .probes import NO_PROBE, Probe
from .substitutes import substitute
from .suppress import read_suppression

KINDS = {base_dense_head: 'pairs', gfl_head: 'pairs', yolox_head: 'best_class', paa_head: 'places'}


class RawClassifier(nn.Module):
    """A classifier of mmpretrain; returns its logits.

    Args:
        model (nn.Module): mmpretrain's ImageClassifier.
    """

    output_names = ['logits']

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, probe: Probe = NO_PROBE) -> tuple[Tensor]:
        """(N, C, H, W) -> logits (N, classes)."""
        return (self.model.head(self.model.extract_feat(image)),)


class RawSegmentor(SegmentorGraph):
    """A segmentor of mmseg; returns the class or the logits of each pixel, or both.

    Args:
        model (nn.Module): mmseg's EncoderDecoder.
        output_names (Sequence[str]): ``'classes'``, int32 (N, H, W), and ``'logits'``, (N, classes, H, W), in
            the order of the outputs.
    """

    def __init__(self, model, output_names):
        super().__init__(model, with_logits=True)
        self.output_names = list(output_names)

    def forward(self, image: Tensor, probe: Probe = NO_PROBE) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> the outputs in ``output_names``."""
        found = dict(zip(('classes', 'logits'), super().forward(image, probe)))
        return tuple(found[name] for name in self.output_names)


class RawDetector(nn.Module):
    """A single-stage detector for one image size; returns the boxes of all priors with all class scores.

    Args:
        model (nn.Module): mmdet's SingleStageDetector.
        image (Tensor): Normalised images of that size, (N, C, H, W).

    Attributes:
        candidates (dict): Settings of the selection, JSON-serialisable: its ``kind`` (:data:`KINDS`), the
            number of priors of each level, and the settings of ``test_cfg``.

    Raises:
        DeploymentError: If the head or the settings of the NMS are not supported.
    """

    def __init__(self, model, image):
        super().__init__()
        substitute(model)
        self.model = model
        head = model.bbox_head
        self.rule = rule_of(head)
        with torch.no_grad():
            maps = head(model.extract_feat(image))
            priors = priors_of(head, maps, **({'with_stride': True} if self.rule is yolox_head else {}))
        if self.rule is gfl_head:
            priors = [head.anchor_center(level) for level in priors]
        self.output_names = ['boxes', 'scores', *(['factors'] if len(maps) > 2 else [])]
        every = torch.cat([level.clone() for level in priors])  # YOLOX's decoder expects no batch axis
        self.register_buffer('priors', every if self.rule is yolox_head else every[None], False)
        height, width = image.shape[2:]
        self.register_buffer('limit', torch.tensor([width, height, width, height]).float(), False)
        config = head.test_cfg
        suppression = read_suppression(config)
        self.candidates: dict[str, Any] = dict(
            kind=KINDS[self.rule],
            levels=[len(level) for level in priors],
            nms_pre=config.get('nms_pre', -1),
            score_thr=config.get('score_thr', 0.0),
            max_per_img=config.get('max_per_img', -1),
            min_bbox_size=config.get('min_bbox_size', -1),
            votes=bool(getattr(head, 'with_score_voting', False)),
            nms=None if suppression is None else suppression._asdict(),
        )

    def forward(self, image: Tensor, probe: Probe = NO_PROBE) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> boxes (N, B, 4), left, top, right, bottom in px; scores (N, B, C); factors (N, B).

        The B priors are ordered by level, finest first. If the head has score factors, multiply the scores of
        a prior by its factor after selecting the best ``nms_pre``.
        """
        head = self.model.bbox_head
        scores, deltas, *factors = head(self.model.extract_feat(image))
        scores = torch.cat([by_place(level, head.cls_out_channels) for level in scores], 1)
        scores = scores.sigmoid() if has_sigmoid(head) else scores.softmax(-1)[..., :-1]
        boxes = self.decode(deltas)
        if not factors:
            return boxes, scores
        return boxes, scores, torch.cat([by_place(level, 1)[..., 0] for level in factors[0]], 1).sigmoid()

    def decode(self, deltas: list[Tensor]) -> Tensor:
        """Decode the deltas of each level, (N, A * 4, H, W) or distributions, to boxes (N, B, 4) in px."""
        head = self.model.bbox_head
        if self.rule is yolox_head:
            return head._bbox_decode(self.priors, torch.cat([by_place(level, 4) for level in deltas], 1))
        if self.rule is gfl_head:
            strides = head.prior_generator.strides
            by_level = [self.means(level) * stride[0] for level, stride in zip(deltas, strides)]
        else:
            by_level = [by_place(level, 4) for level in deltas]
        offsets = torch.cat(by_level, 1)
        priors = self.priors.expand(offsets.shape[0], -1, -1).flatten(0, 1)
        boxes = head.bbox_coder.decode(priors, offsets.flatten(0, 1)).reshape(offsets.shape)
        if not head.bbox_coder.clip_border:
            return boxes
        return torch.minimum(boxes.clamp(min=0), self.limit)

    def means(self, deltas: Tensor) -> Tensor:
        """Expectations (N, H * W, 4) of GFL's distributions, (N, 4 * (reg_max + 1), H, W), in strides."""
        head = self.model.bbox_head
        shares = by_place(deltas, head.reg_max + 1).softmax(-1)
        return (shares * head.integral.project).sum(-1).reshape(deltas.shape[0], -1, 4)


def make_raw_graph(
    model: nn.Module, task: str, image: Tensor, segmentation: tuple[str, ...] = ('classes',)
) -> nn.Module:
    """Wrap a model as a function of normalised images (nn.Module with ``output_names``).

    Args:
        model (nn.Module): The model from :func:`~.build.load_model`, checked by
            :func:`~.build.check_supported`.
        task (str): One of :data:`~.build.TASKS`.
        image (Tensor): Images of the size to export, (N, C, H, W).
        segmentation (tuple[str, ...]): Outputs of a segmentor, see :class:`RawSegmentor`.

    Raises:
        DeploymentError: If the model is a two-stage detector.
    """
    if task == 'backbone':
        return BackboneGraph(model)
    if task == 'classification':
        return RawClassifier(model)
    if task == 'segmentation':
        return RawSegmentor(model, segmentation)
    if hasattr(model, 'roi_head'):
        raise DeploymentError(
            f'{type(model).__name__} looks at the boxes that it has found a second time, which needs a '
            f'suppression inside and RoIAlign: choose an OUT that ends in .onnx.'
        )
    return RawDetector(model, image)
