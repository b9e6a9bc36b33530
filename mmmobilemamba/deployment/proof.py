"""Whether a file gives what PyTorch gives, for several inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

TOLERANCE = 1e-4  # relative to the largest value of an output
CLEAR = 1e-3  # a class of a score that is nearer to the best may be taken for it; so may as many pixels
NEAR = TOLERANCE  # scores of boxes that are nearer to each other, relative to the largest, may change places


def test_images(
    shape: tuple[int, int],
    dynamic_sizes: bool,
    raw: bool,
    seed: int = 0,
    extreme: bool = True,
    channels: int = 3,
) -> Iterator[tuple[str, Tensor]]:
    """Images of other batches, sizes and values than the one that a graph was made with; (name, image) pairs.

    Args:
        shape (tuple[int, int]): Height and width that the graph was made for.
        dynamic_sizes (bool): Whether it takes others.
        raw (bool): uint8 images, (N, H, W, 3), instead of normalised ones, (N, 3, H, W).
        seed (int): Of the noise.
        extreme (bool): Values as well that no picture has, unless ``raw``.
        channels (int): Of the images; below, 3 stands for it.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = shape
    sizes = {'noise': (1, height, width), 'a batch of 3': (3, height, width)}
    if dynamic_sizes:
        sizes['another size'] = (1, height + 64, width + 32)
        sizes['odd sides'] = (2, height + 17, width + 31)
    for name, (batch, *sides) in sizes.items():
        image = torch.randn(batch, channels, *sides, generator=generator)
        yield name, to_pixels(image) if raw else image
    for name, value in {'black': -2.5, 'white': 2.5}.items():
        image = torch.full((1, channels, height, width), value)
        yield name, to_pixels(image) if raw else image
    if extreme and not raw:
        yield 'values of 100', 100 * torch.randn(1, channels, height, width, generator=generator)


def to_pixels(image: Tensor) -> Tensor:
    """A normalised image as one that was read, roughly: (N, 3, H, W) -> uint8, (N, H, W, 3)."""
    return (image * 58 + 116).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def largest_error(task: str, expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """How far outputs of PyTorch and of a file are apart, relative to the largest value of each (float).

    Choices, such as classes, count as an error of 1 where they are clear and differ.

    Args:
        task (str): One of :data:`~.build.TASKS`.
        expected, found (list[Tensor]): Outputs, in the same order.
    """
    if [x.shape for x in expected] != [x.shape for x in found]:
        return float('inf')
    if not all(x.isfinite().all() for x in (*expected, *found)):
        return float('inf')
    compare = dict(classification=_classes, detection=_boxes, segmentation=_pixels).get(task, _values)
    return compare(expected, found)


def _values(expected, found):
    errors = ((a - b).abs().max() / b.abs().max().clamp(min=1e-12) for a, b in zip(found, expected))
    return max(float(error) for error in errors)


def _classes(expected, found):
    """Logits, scores, labels; a label may differ from one of the same score."""
    logits, scores, _ = expected
    probabilities = logits.softmax(1)
    there = (probabilities.gather(1, found[2]) - scores).abs().max()
    return max(_values(expected[:2], found[:2]), float(there > CLEAR))


def _pixels(expected, found):
    """Classes, and logits perhaps; where there are none, single pixels on a border may differ."""
    different = (expected[0] != found[0]).double().mean().item()
    values = _values(expected[1:], found[1:]) if len(expected) > 1 else 0.0
    return max(values, float(different > CLEAR))


def _boxes(expected, found):
    """Boxes, scores, labels and masks perhaps, in the same places where scores are clear."""
    scores, others = expected[1], found[1]
    clear = is_clear(scores)
    error = (scores - others).abs().max().item()
    for values, other_values in zip([expected[0], *expected[2:]], [found[0], *found[2:]]):
        if values.shape[:2] == scores.shape and clear.any():
            different = (values - other_values)[clear].abs().max().item()
            error = max(error, different / max(values[clear].abs().max().item(), 1.0))
    return error


def is_clear(scores: Tensor) -> Tensor:
    """Which of some scores, the best first, (N, K), are above 0 and far enough from both neighbours."""
    gaps = torch.nn.functional.pad((scores[:, :-1] - scores[:, 1:]), (1, 1), value=float('inf'))
    return (scores > 0) & (torch.minimum(gaps[:, :-1], gaps[:, 1:]) > NEAR * scores.max())


class Candidates(TorchDispatchMode):
    """Collects what a detector hands to :func:`~.suppress.suppress`, as files of ONNX give with a probe.

    Attributes:
        found (list[Tensor]): Boxes, (N, B, 4), and scores, (N, B), of every call.
    """

    supports_higher_order_operators = True  # such as the loop of the scan in a program of torch.export

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.mmmobilemamba.suppress.default:
            self.found += args[:2]
        return func(*args, **(kwargs or {}))


def candidates_error(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """How far the candidates of a detector are apart, relative to the largest value (float).

    Where no score reaches a detector's threshold, its outputs are nothing, and equal whatever they come from:
    what goes into the suppression says more. Candidates of nearly one score may change places.

    Args:
        expected, found (list[Tensor]): As in :class:`Candidates`.
    """
    if [x.shape for x in expected] != [x.shape for x in found]:
        return float('inf')
    if not all(x.isfinite().all() for x in (*expected, *found)):
        return float('inf')
    error = 0.0
    for boxes, scores, others, other_scores in zip(expected[::2], expected[1::2], found[::2], found[1::2]):
        order, other_order = (x.argsort(dim=1, descending=True, stable=True) for x in (scores, other_scores))
        scores, other_scores = scores.gather(1, order), other_scores.gather(1, other_order)
        error = max(error, _values([scores], [other_scores]))
        clear = is_clear(scores)
        if clear.any():
            boxes, others = (
                x.gather(1, index[..., None].expand(-1, -1, 4))
                for x, index in ((boxes, order), (others, other_order))
            )
            error = max(error, _values([boxes[clear]], [others[clear]]))
    return error
