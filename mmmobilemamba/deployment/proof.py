"""Whether a file gives what PyTorch gives, for several inputs.

PyTorch follows the file from probe to probe (:mod:`.probes`): from what the file has at one of them, it
computes what should be at the next, and goes on with what the file has there. So every part is compared with
the same input. Numbers must agree. A choice must be one of the best by the scores that it was made of; which
of equal ones was taken does not matter. Otherwise one rounding error would change all that is behind it where
scores are equal, as those of a saturated sigmoid are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from .probes import Probe

TOLERANCE = 1e-4  # relative to the largest value of a tensor
ROWS = 1024  # boxes that are compared with all others at once
BEYOND = 'far beyond pixels'  # an image for which it is enough that a file gives numbers


def test_images(
    shape: tuple[int, int], about: Mapping[str, Any], seed: int = 0, extreme: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """Images of other batches, sizes and values than the one that a graph was made with; (name, image) pairs.

    All but one can come from a picture, with the mean and standard deviation of the network.

    Args:
        shape (tuple[int, int]): Height and width that the graph was made for.
        about (dict): See :func:`~.build.describe`. Further sizes if its ``size`` is None, and uint8 images,
            (N, H, W, C), instead of normalised ones, (N, C, H, W), if it is ``preprocessed``; float32 of 0 to
            255, (N, C, H, W), if its ``input`` says so.
        seed (int): Of the noise.
        extreme (bool): Values as well that no picture has, unless ``preprocessed``.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = shape
    mean, std = (torch.tensor(about[key], dtype=torch.float32).view(1, -1, 1, 1) for key in ('mean', 'std'))

    def image_of(pixels):
        if not raw:
            return (pixels - mean) / std
        return pixels.byte().permute(0, 2, 3, 1).contiguous() if as_read else pixels.floor()

    raw, channels = about['preprocessed'], mean.numel()
    as_read = about.get('input', {}).get('layout', 'NHWC') == 'NHWC'
    sizes = {'noise': (1, height, width), 'a batch of 3': (3, height, width)}
    if about['size'] is None:
        sizes['another size'] = (1, height + 64, width + 32)
        sizes['odd sides'] = (2, height + 17, width + 31)
    for name, (batch, *sides) in sizes.items():
        noise = torch.randn(batch, channels, *sides, generator=generator)
        yield name, image_of((noise * 58 + 116).clamp(0, 255))
    for name, value in {'black': 0.0, 'white': 255.0}.items():
        yield name, image_of(torch.full((1, channels, height, width), value))
    if extreme and not raw:
        yield BEYOND, image_of(5800 * torch.randn(1, channels, height, width, generator=generator))


def to_pixels(image: Tensor, as_read: bool = True) -> Tensor:
    """A normalised image (N, C, H, W) as one for :class:`~.graphs.Preprocessed`, roughly."""
    pixels = (image * 58 + 116).clamp(0, 255).byte()
    return pixels.permute(0, 2, 3, 1).contiguous() if as_read else pixels.float()


def largest_error(
    graph: nn.Module, image: Tensor, outputs: Sequence[Tensor], probed: Sequence[Tensor] = ()
) -> float:
    """How far a file is from PyTorch, relative to the largest value of each tensor (float).

    Infinite where a choice is wrong, a shape another, or a value no number, unless it is none in PyTorch.

    Args:
        graph (nn.Module): Such as those of :mod:`.graphs`, in PyTorch.
        image (Tensor): What both are given.
        outputs, probed (list[Tensor]): What the file gives, see :class:`~.probes.Recorded`.
    """
    replay = Replay(probed)
    try:
        with torch.no_grad():
            expected = graph(image, replay)
    except Mismatch:
        return float('inf')
    if replay.waiting or len(expected) != len(outputs):
        return float('inf')
    return max([replay.error, *map(difference, expected, outputs)])


def is_finite(graph: nn.Module, image: Tensor, outputs: Sequence[Tensor]) -> bool:
    """Whether a file gives outputs of the right shapes, and numbers where PyTorch gives them."""
    with torch.no_grad():
        expected = graph(image)
    if [x.shape for x in expected] != [x.shape for x in outputs]:
        return False
    return all(bool(b.isfinite().all() or not a.isfinite().all()) for a, b in zip(expected, outputs))


def difference(expected: Tensor, found: Tensor) -> float:
    """Largest difference, relative to the largest value (float)."""
    if expected.shape != found.shape or bool(found.isnan().any()):
        return float('inf')
    same = expected == found  # infinite values, too
    if same.all():
        return 0.0
    largest = expected[expected.isfinite()].abs().max().clamp(min=1e-12)
    error = float(((found - expected)[~same].abs() / largest).max())
    return error if error == error else float('inf')


class Mismatch(Exception):
    """A file has another probe than PyTorch."""


class Replay(Probe):
    """Compares what passes with what a file had there, and goes on with the latter.

    Args:
        found (list[Tensor]): Of the file, in order.

    Attributes:
        error (float): The largest so far.
        waiting (list[Tensor]): Those of ``found`` that have not had their turn.
    """

    def __init__(self, found):
        self.waiting = list(found)
        self.error = 0.0

    def next_like(self, value: Tensor) -> Tensor:
        """What the file has at this probe, if it can be."""
        if not self.waiting or self.waiting[0].shape != value.shape:
            raise Mismatch
        return self.waiting.pop(0)

    def numbers(self, *values: Tensor) -> tuple[Tensor, ...]:
        found = tuple(map(self.next_like, values))
        self.error = max([self.error, *map(difference, values, found)])
        return found

    def saturated(self, *logits: Tensor) -> tuple[Tensor, ...]:
        found = tuple(map(self.next_like, logits))
        self.error = max([self.error, *(difference(a.sigmoid(), b.sigmoid()) for a, b in zip(logits, found))])
        return found

    def best(self, scores: Tensor, index: Tensor) -> Tensor:
        found = self.next_like(index)
        best = scores.topk(index.shape[1], dim=1).values
        if bool((found < 0).any() or (found >= scores.shape[1]).any()):
            raise Mismatch
        repeated = bool((found.sort(1).values.diff(dim=1) == 0).any())
        self.error = max(self.error, float('inf') if repeated else 0.0)
        if best.numel():
            difference_of_scores = (scores.gather(1, found) - best).abs().max() / scores.abs().max().clamp(
                1e-12
            )
            self.error = max(self.error, float(difference_of_scores))
        return found

    def kept(self, boxes: Tensor, scores: Tensor, kept: Tensor, settings: tuple[float, float]) -> Tensor:
        found = self.next_like(kept)
        right = all(is_greedy(*image, *settings) for image in zip(boxes, scores, found))
        self.error = max(self.error, 0.0 if right else float('inf'))
        return found


def is_greedy(
    boxes: Tensor, scores: Tensor, kept: Tensor, iou_threshold: float, score_threshold: float
) -> bool:
    """Whether a suppression of boxes (B, 4) with scores (B,) left the right ones, with their scores (B,).

    Of those above the threshold it leaves the ones that overlap no better one that is left: the others each
    overlap such a one. What is equal to rounding, scores or overlap and threshold, may be taken either way.
    """
    left = kept > 0
    if not torch.equal(kept, torch.where(left, scores, 0)) or bool(
        (left & (scores <= score_threshold)).any()
    ):
        return False
    candidates = torch.nonzero(scores > score_threshold).flatten()
    survivors = torch.nonzero(left).flatten()
    for part in candidates.split(ROWS):
        overlap = box_iou(boxes[part], boxes[survivors])
        others = part[:, None] != survivors
        better = scores[survivors] >= scores[part, None] - TOLERANCE * scores.max()
        above = (overlap > iou_threshold - TOLERANCE) & others & better
        if not (left[part] | above.any(1)).all():
            return False
        if (left[part, None] & others & (overlap > iou_threshold + TOLERANCE)).any():
            return False
    return True
