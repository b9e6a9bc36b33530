"""What a file of lower precision loses against the one in float32, and how fast both are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from . import onnx_file

CHOICES = dict(classification='best classes', detection='objects', segmentation='pixels')
CLEAR_SCORE = 0.3  # of an object that a user would be shown
SAME_SCORE, SAME_PLACE = 0.1, 0.5  # an object is the same one if the score is as near, and the IoU above
SAME_BOX = 0.9  # IoU from which two boxes come from the same place of the maps, or the same proposal
BLOCK = 5  # calls in a row, after one that is not counted and brings the data back into the caches


class Difference(NamedTuple):
    """How far outputs are from those in float32.

    Attributes:
        error (float): Largest difference: of logits and maps relative to the largest value; of a detector's
            scores, as they are, before the first suppression and of the objects that are left; of a segmentor
            without logits the share of pixels that differ. Infinite if an output is not finite, or its shape
            another.
        same (int): How many choices are the same, see :data:`CHOICES`.
        count (int): Of how many.
        choices (str): What they are.
    """

    error: float = 0.0
    same: int = 0
    count: int = 0  # type: ignore[assignment]  # a tuple's method of that name is not used
    choices: str = 'choices'

    def __str__(self):
        same = f', {self.agreement:.2%} of {self.count} {self.choices} the same' if self.count else ''
        return f'error {self.error:.1e}{same}'

    def __add__(self, other):
        error = max(self.error, other.error)
        return self._replace(error=error, same=self.same + other.same, count=self.count + other.count)

    @property
    def agreement(self) -> float:
        """Share of the choices that are the same (float); 1 if there was none to make."""
        return self.same / self.count if self.count else 1.0


class Pair:
    """A file in float32 and one made from it, which run side by side on one thread.

    Args:
        task (str): One of :data:`~.build.TASKS`.
        expected, found (onnx.ModelProto): The file in float32, and the other.
    """

    def __init__(self, task, expected, found):
        self.task = task
        probes = [onnx_file.with_probes(proto).SerializeToString() for proto in (expected, found)]
        self.sessions = [onnx_file.open_session(probe, threads=1) for probe in probes]
        self.count = len(expected.graph.output)

    def difference(self, batches: Iterable[np.ndarray]) -> Difference:
        """The :class:`Difference` over some batches, (N, 3, H, W) or (N, H, W, 3)."""
        total = Difference(choices=CHOICES.get(self.task, ''))
        for batch in batches:
            expected, found = (
                [torch.from_numpy(value) for value in session.run(None, {'image': batch})]
                for session in self.sessions
            )
            total += self.compare(expected, found)
        return total

    def compare(self, expected: Sequence[Tensor], found: Sequence[Tensor]) -> Difference:
        """The :class:`Difference` of one batch, from all outputs (list[Tensor])."""
        if not all(value.isfinite().all() for value in (*expected, *found)):
            return Difference(float('inf'))
        if self.task == 'backbone':
            return Difference(max(map(relative, expected, found)))
        if self.task == 'classification':
            same = expected[0].argmax(1) == found[0].argmax(1)
            return Difference(relative(expected[0], found[0]), int(same.sum()), same.numel())
        if self.task == 'segmentation':
            same = expected[0] == found[0]
            error = relative(expected[1], found[1]) if len(found) > 1 else 1 - same.double().mean().item()
            return Difference(error, int(same.sum()), same.numel())
        # A second stage may get another of two proposals that tie: its objects are compared box by box.
        scores = [values[self.count + 1].flatten(1).sort().values for values in (expected, found)]
        pairs = zip(zip(*expected[:3]), zip(*found[:3]))
        start = Difference(relative(*scores, scale=1.0))
        return sum((objects(*image, *other) for image, other in pairs), start)

    def milliseconds(self, batch: np.ndarray, seconds: float = 1.0) -> list[float]:
        """Median times of both (two float), see :func:`milliseconds`."""
        runs = [partial(session.run, None, {'image': batch}) for session in self.sessions]
        return milliseconds(runs, seconds)


def milliseconds(runs: Sequence[Callable[[], Any]], seconds: float = 1.0) -> list[float]:
    """Median times (list[float]) of calls that take turns.

    Args:
        runs (Sequence[Callable]): What is called, without arguments.
        seconds (float): To spend on each; at least ten calls are timed.
    """
    durations: list[list[float]] = [[] for _ in runs]
    start = time.perf_counter()
    while len(durations[0]) < 2 * BLOCK or time.perf_counter() - start < len(runs) * seconds:
        for run, taken in zip(runs, durations):
            run()
            for _ in range(BLOCK):
                before = time.perf_counter()
                run()
                taken.append(time.perf_counter() - before)
    return [1e3 * statistics.median(taken) for taken in durations]


def raw_difference(task: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Difference:
    """The :class:`Difference` of outputs that nothing is chosen of yet, see :mod:`.raw_graphs`.

    Args:
        task (str): One of :data:`~.build.TASKS`.
        expected, found (dict[str, Tensor]): In float32, and the others. The choices of a detector are the
            places whose best score is clear.
    """
    choices = CHOICES.get(task, '')
    if not all(value.isfinite().all() for value in (*expected.values(), *found.values())):
        return Difference(float('inf'), choices=choices)
    if task == 'detection':
        scores = [
            x['scores'] * x['factors'][..., None] if 'factors' in x else x['scores']
            for x in (expected, found)
        ]
        return raw_objects(*scores)
    errors = [relative(expected[name], found[name]) for name in expected if name != 'classes']
    if task == 'backbone':
        return Difference(max(errors), choices=choices)
    before, after = (x['classes'] if 'classes' in x else x['logits'].argmax(1) for x in (expected, found))
    same = before == after
    error = max(errors) if errors else 1 - same.double().mean().item()
    return Difference(error, int(same.sum()), same.numel(), choices)


def raw_objects(expected: Tensor, found: Tensor) -> Difference:
    """The :class:`Difference` in the scores (N, B, C) of a detector's places."""
    best, labels = expected.max(2)
    clear = best >= CLEAR_SCORE
    same = labels == found.argmax(2)
    same &= (found.gather(2, labels[..., None])[..., 0] - best).abs() < SAME_SCORE
    return Difference(
        relative(expected, found, scale=1.0), int(same[clear].sum()), int(clear.sum()), CHOICES['detection']
    )


def relative(expected: Tensor, found: Tensor, scale: float | None = None) -> float:
    """Largest difference over the largest value, or over a ``scale`` (float); infinite if shapes differ."""
    if expected.shape != found.shape:
        return float('inf')
    largest = scale or expected.abs().max().clamp(min=1e-12)
    return float((expected - found).abs().max() / largest)


def objects(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    other_boxes: Tensor,
    other_scores: Tensor,
    other_labels: Tensor,
) -> Difference:
    """The :class:`Difference` in what a detector finds in an image: boxes (K, 4), scores and labels (K,).

    The error is that of the scores of boxes which are in both.
    """
    clear = scores >= CLEAR_SCORE
    overlap = box_iou(boxes[clear], other_boxes) * (labels[clear, None] == other_labels)
    apart = (scores[clear, None] - other_scores).abs()
    same = (overlap > SAME_PLACE) & (apart < SAME_SCORE)
    nearest = apart.where(overlap > SAME_BOX, torch.inf).amin(1)
    error = nearest[nearest.isfinite()].amax().item() if nearest.isfinite().any() else 0.0
    return Difference(error, int(same.any(1).sum()), int(clear.sum()))
