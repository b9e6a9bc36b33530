"""Whole networks as functions of an image alone: backbones, classifiers and segmentors.

What OpenMMLab's models do around their layers, samples in and samples out, no graph can hold. These modules
have the same layers and give tensors. Detectors are in :mod:`.detectors`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .substitutes import substitute


class Preprocessed(nn.Module):
    """A network that takes images as they are read.

    Args:
        network (nn.Module): Of a normalised image, (N, C, H, W).
        mean (Sequence[float]): Of the C channels, in 0 to 255, in the order of the network.
        std (Sequence[float]): Likewise.
        swaps (bool): Whether the network's order is that of the image, RGB, turned round.
    """

    def __init__(self, network, mean, std, swaps):
        super().__init__()
        self.network = network
        self.swaps = swaps
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), False)
        self.register_buffer('scale', 1 / torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), False)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """uint8, (N, H, W, C), of three channels RGB -> what the network gives."""
        x = image.permute(0, 3, 1, 2).float()
        if self.swaps:
            x = x.flip(1)
        return self.network((x - self.mean) * self.scale)


class BackboneGraph(nn.Module):
    """A backbone: maps, finest first."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.output_names = [f'stage{index}' for index in backbone.out_indices]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> a map (N, C, H', W') of each wanted stage."""
        return self.backbone(image)


class ClassifierGraph(nn.Module):
    """A classifier of mmpretrain: logits, and the best classes with their probabilities.

    Args:
        model (nn.Module): mmpretrain's ImageClassifier.
        topk (int): How many of the best; all, if there are fewer.
    """

    output_names = ['logits', 'scores', 'labels']

    def __init__(self, model, topk=5):
        super().__init__()
        self.model = model
        self.topk = min(topk, model.head.num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> logits (N, classes), probabilities (N, topk), classes (N, topk)."""
        logits = self.model.head(self.model.extract_feat(image))
        scores, labels = logits.softmax(1).topk(self.topk, dim=1)
        return logits, scores, labels


class SegmentorGraph(nn.Module):
    """A segmentor of mmseg, over the whole image: the class of each pixel.

    Args:
        model (nn.Module): mmseg's EncoderDecoder, with more than one class.
        with_logits (bool): Give the logits, too. Defaults to False.
    """

    def __init__(self, model, with_logits=False):
        super().__init__()
        self.model = model
        substitute(model)
        self.with_logits = with_logits
        self.output_names = ['classes', 'logits'] if with_logits else ['classes']

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> classes, int32, (N, H, W), and logits (N, classes, H, W)."""
        head = self.model.decode_head
        logits = head(self.model.extract_feat(image))
        logits = F.interpolate(logits, image.shape[2:], mode='bilinear', align_corners=head.align_corners)
        classes = logits.argmax(1).int()
        return (classes, logits) if self.with_logits else (classes,)
