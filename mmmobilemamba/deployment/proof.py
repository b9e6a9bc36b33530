"""Compares a file with PyTorch on several inputs.

PyTorch replays the file from probe to probe (:mod:`.probes`): it computes the values at a probe from the
file's values at the previous one, compares them, and continues with the file's values. Every part of the
graph is thus compared on identical inputs. Numbers must agree within the tolerance. A selection must be
optimal for the scores it was made from; ties can be resolved in any way. Without the replay, a rounding error
in tied scores, such as those of a saturated sigmoid, would change all results after the selection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from .probes import Probe

TOLERANCE = 1e-4  # relative to the largest value of a tensor
ROWS = 1024  # boxes compared with all others at once, to limit the memory
BEYOND = 'far beyond pixels'  # for this image, finite outputs are enough


def test_images(
    shape: tuple[int, int], about: Mapping[str, Any], seed: int = 0, extreme: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """Yield test images whose batch sizes, sizes and values differ from the image used for the export.

    All but one of them have values of real images, normalised with the network's mean and standard deviation.

    Args:
        shape (tuple[int, int]): Height and width that the graph was exported for.
        about (dict): The metadata, see :func:`~.build.describe`. If ``size`` is None, further sizes are
            included. If ``preprocessed``, images are uint8, (N, H, W, C), or float32 in 0 to 255, (N, C, H,
            W), depending on ``input``; otherwise they are normalised, (N, C, H, W).
        seed (int): Seed of the noise. Defaults to 0.
        extreme (bool): Whether to include values that no image has, unless ``preprocessed``. Defaults to
            True.

    Yields:
        tuple[str, Tensor]: Name and images.
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
    """Convert normalised images (N, C, H, W) to approximate inputs of :class:`~.graphs.Preprocessed`."""
    pixels = (image * 58 + 116).clamp(0, 255).byte()
    return pixels.permute(0, 2, 3, 1).contiguous() if as_read else pixels.float()


def largest_error(
    graph: nn.Module, image: Tensor, outputs: Sequence[Tensor], probed: Sequence[Tensor] = ()
) -> float:
    """Return the largest error of a file, relative to the largest value of each tensor (float).

    It is infinite if a selection is wrong, a shape differs, or a value is not finite where PyTorch's is.

    Args:
        graph (nn.Module): The graph in PyTorch, see :mod:`.graphs`.
        image (Tensor): The input of both.
        outputs, probed (Sequence[Tensor]): The outputs of the file, see :class:`~.probes.Recorded`.
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
    """Whether the outputs of a file have the right shapes and are finite where PyTorch's are (bool).

    Args:
        graph (nn.Module): The graph in PyTorch, see :mod:`.graphs`.
        image (Tensor): The input of both.
        outputs (Sequence[Tensor]): The outputs of the file.
    """
    with torch.no_grad():
        expected = graph(image)
    if [x.shape for x in expected] != [x.shape for x in outputs]:
        return False
    return all(bool(b.isfinite().all() or not a.isfinite().all()) for a, b in zip(expected, outputs))


def difference(expected: Tensor, found: Tensor) -> float:
    """Return the largest difference, relative to the largest finite expected value (float)."""
    if expected.shape != found.shape or bool(found.isnan().any()):
        return float('inf')
    same = expected == found  # includes equal infinities
    if same.all():
        return 0.0
    largest = expected[expected.isfinite()].abs().max().clamp(min=1e-12)
    error = float(((found - expected)[~same].abs() / largest).max())
    return error if error == error else float('inf')


class Mismatch(Exception):
    """The probed values of a file do not correspond to those of PyTorch."""


class Replay(Probe):
    """Compares values with those of a file, and continues with the file's.

    Args:
        found (Sequence[Tensor]): The probed values of the file, in order.

    Attributes:
        error (float): The largest error so far, relative to the largest value of each tensor.
        waiting (list[Tensor]): Values of ``found`` not compared yet.
    """

    def __init__(self, found):
        self.waiting = list(found)
        self.error = 0.0

    def next_like(self, value: Tensor) -> Tensor:
        """Return the file's next value.

        Raises:
            Mismatch: If there is none, or its shape differs from that of ``value``.
        """
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
    """Whether the result of an NMS is valid (bool).

    Among the boxes above the score threshold, those that are left must not overlap a better one that is left,
    and every other box must overlap one. Scores, or an overlap and its threshold, that are equal within
    ``TOLERANCE`` count either way.

    Args:
        boxes (Tensor): (B, 4).
        scores (Tensor): (B,).
        kept (Tensor): Scores after the suppression, 0 for suppressed boxes, (B,).
        iou_threshold (float): Boxes that overlap more than this are suppressed.
        score_threshold (float): Only scores above it count.
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
