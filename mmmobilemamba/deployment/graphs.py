"""Backbones, classifiers and segmentors as functions of an image tensor.

OpenMMLab's models take and return data samples, which cannot be exported. These modules use the same layers
and return tensors. Detectors are in :mod:`.detectors`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dense_heads import best
from .probes import NO_PROBE, Probe
from .substitutes import substitute


class Preprocessed(nn.Module):
    """A network with normalisation inside.

    Args:
        network (nn.Module): A network of normalised images, (N, C, H, W).
        mean (Sequence[float]): Mean of each channel, in 0 to 255, in the network's channel order.
        std (Sequence[float]): Standard deviation of each channel, in the same order.
        swaps (bool): Whether to reverse the channels, from RGB to the BGR of the network.
        as_read (bool): Whether images are uint8, (N, H, W, C), instead of float32, (N, C, H, W), in 0 to 255.
    """

    def __init__(self, network, mean, std, swaps, as_read):
        super().__init__()
        self.network, self.swaps, self.as_read = network, swaps, as_read
        mean, std = (torch.tensor(x, dtype=torch.float64).view(1, -1, 1, 1) for x in (mean, std))
        self.register_buffer('scale', (1 / std).float(), False)
        self.register_buffer('shift', (-mean / std).float(), False)

    def forward(self, image: Tensor, probe: Probe = NO_PROBE) -> tuple[Tensor, ...]:
        """Images, RGB if of three channels -> outputs of the network."""
        # Contiguous: otherwise the exported graph would be specialised to channels-last strides.
        x = image.float().permute(0, 3, 1, 2).contiguous() if self.as_read else image
        if self.swaps:  # no flip: some runtimes lack it
            x = torch.cat(x.split(1, dim=1)[::-1], dim=1)
        return self.network(x * self.scale + self.shift, probe)


class BackboneGraph(nn.Module):
    """A backbone; returns feature maps, finest first.

    Args:
        backbone (MobileMamba): The backbone, deployed.
    """

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.output_names = [f'stage{index}' for index in backbone.out_indices]

    def forward(self, image: Tensor, probe: Probe = NO_PROBE) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> a map (N, C', H', W') of each stage in ``out_indices``."""
        return self.backbone(image)


class ClassifierGraph(nn.Module):
    """A classifier of mmpretrain; returns logits, and the best classes with their probabilities.

    Args:
        model (nn.Module): mmpretrain's ImageClassifier.
        topk (int): Number of best classes; limited to the number of classes. Defaults to 5.
    """

    output_names = ['logits', 'scores', 'labels']

    def __init__(self, model, topk=5):
        super().__init__()
        self.model = model
        self.topk = min(topk, model.head.num_classes)

    def forward(self, image: Tensor, probe: Probe = NO_PROBE) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C, H, W) -> logits (N, classes), probabilities (N, topk), classes (N, topk)."""
        logits = self.model.head(self.model.extract_feat(image))
        (given,) = probe.numbers(logits)
        scores = given.softmax(1)
        scores, labels = best(scores, self.topk, probe)
        return logits, scores, labels


class SegmentorGraph(nn.Module):
    """A segmentor of mmseg; returns the class of each pixel, by whole-image or sliding-window inference.

    Args:
        model (nn.Module): mmseg's EncoderDecoder. For a model of two classes with a single output, the logits
            of both classes are returned; the logit of class 0 is that of the threshold.
        with_logits (bool): Whether to return the logits as well. Defaults to False.
    """

    def __init__(self, model, with_logits=False):
        super().__init__()
        self.model = model
        substitute(model)
        self.with_logits = with_logits
        self.output_names = ['classes', 'logits'] if with_logits else ['classes']
        self.slides = model.test_cfg.get('mode', 'whole') == 'slide'

    def forward(self, image: Tensor, probe: Probe = NO_PROBE) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> classes, int32, (N, H, W), and logits (N, classes, H, W)."""
        logits = self.slide(image) if self.slides else self.logits(image)
        if logits.shape[1] == 1:
            threshold = torch.tensor(self.last_head.threshold, dtype=torch.float64).logit().to(logits)
            logits = torch.cat((threshold.expand_as(logits), logits), 1)
        (given,) = probe.numbers(logits)
        classes = probe.best(given, given.argmax(1, keepdim=True))[:, 0].int()
        return (classes, logits) if self.with_logits else (classes,)

    @property
    def last_head(self) -> nn.Module:
        """The decode head of the predictions: the last one of a cascade (nn.Module)."""
        head = self.model.decode_head
        return head[-1] if isinstance(head, nn.ModuleList) else head

    def logits(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, outputs, H, W)."""
        x = self.model.extract_feat(image)
        if isinstance(self.model.decode_head, nn.ModuleList):
            first, *others = self.model.decode_head
            logits = first(x)
            for head in others:
                logits = head(x, logits)
        else:
            logits = self.model.decode_head(x)
        if isinstance(logits, tuple):  # further elements are only for the loss
            logits = logits[0]
        align_corners = self.last_head.align_corners
        return F.interpolate(logits, image.shape[2:], mode='bilinear', align_corners=align_corners)

    def slide(self, image: Tensor) -> Tensor:
        """Average the logits of sliding windows, (N, C, H, W) -> (N, outputs, H, W).

        See mmseg's ``slide_inference``. All windows are computed in one batch; the image size must be static.
        """
        config, (height, width) = self.model.test_cfg, image.shape[2:]
        rows, columns = (
            starts(side, crop, stride)
            for side, crop, stride in zip((height, width), config.crop_size, config.stride)
        )
        sides = min(config.crop_size[0], height), min(config.crop_size[1], width)
        places = [(top, left) for top in rows for left in columns]
        crops = [image[:, :, top : top + sides[0], left : left + sides[1]] for top, left in places]
        logits = self.logits(torch.cat(crops)).chunk(len(crops))
        total, count = 0, torch.zeros(1, 1, height, width, device=image.device)
        for part, (top, left) in zip(logits, places):
            total = total + F.pad(part, (left, width - left - sides[1], top, height - top - sides[0]))
            count[:, :, top : top + sides[0], left : left + sides[1]] += 1
        return total / count


def starts(side: int, crop: int, stride: int) -> list[int]:
    """Return the start positions of sliding windows along one side of an image, in px (list[int]).

    The last window ends at the border of the image.

    Args:
        side (int): Length of the side.
        crop (int): Length of a window.
        stride (int): Distance between windows.
    """
    number = max(side - crop + stride - 1, 0) // stride + 1
    return [max(min(index * stride + crop, side) - crop, 0) for index in range(number)]


def graph_of(graph: nn.Module) -> nn.Module:
    """Unwrap a graph from :class:`Preprocessed` and :class:`~.probes.Recorded`."""
    while hasattr(graph, 'network'):
        graph = graph.network
    return graph
