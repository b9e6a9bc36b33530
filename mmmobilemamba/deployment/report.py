"""Compares outputs and latency of a file in reduced precision with the float32 one."""

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
CLEAR_SCORE = 0.3  # an object that a user would be shown
SAME_SCORE, SAME_PLACE = 0.1, 0.5  # objects match below this score difference and above this IoU
SAME_BOX = 0.9  # above this IoU, two boxes come from the same prior or proposal
BLOCK = 5  # consecutive timed calls, after an untimed one that warms the caches


class Difference(NamedTuple):
    """Difference of outputs from the float32 ones.

    Attributes:
        error (float): Largest error. For logits and feature maps, relative to the largest value. For
            detectors, the absolute error of scores, both before the first NMS and of the remaining objects.
            For segmentors without logits, the fraction of pixels that differ. Infinite if an output is not
            finite or its shape differs.
        same (int): Number of equal decisions, see :data:`CHOICES`.
        count (int): Number of decisions.
        choices (str): Their name, for messages.
    """

    error: float = 0.0
    same: int = 0
    count: int = 0  # type: ignore[assignment]  # hides tuple.count, which is not used
    choices: str = 'choices'

    def __str__(self):
        same = f', {self.agreement:.2%} of {self.count} {self.choices} the same' if self.count else ''
        return f'error {self.error:.1e}{same}'

    def __add__(self, other):
        error = max(self.error, other.error)
        return self._replace(error=error, same=self.same + other.same, count=self.count + other.count)

    @property
    def agreement(self) -> float:
        """Fraction of equal decisions (float); 1 if there are none."""
        return self.same / self.count if self.count else 1.0


class Pair:
    """A float32 model and one converted from it, each in a session of one thread.

    Args:
        task (str): One of :data:`~.build.TASKS`.
        expected, found (onnx.ModelProto): The float32 model, and the converted one.
        library (Path, optional): The library of the operators of :mod:`.custom_ops`. Defaults to None.
    """

    def __init__(self, task, expected, found, library=None):
        self.task = task
        probes = [onnx_file.with_probes(proto).SerializeToString() for proto in (expected, found)]
        self.sessions = [onnx_file.open_session(probe, 1, library) for probe in probes]
        self.count = len(expected.graph.output)

    def difference(self, batches: Iterable[np.ndarray]) -> Difference:
        """Return the :class:`Difference` over batches, (N, 3, H, W) or (N, H, W, 3)."""
        total = Difference(choices=CHOICES.get(self.task, ''))
        for batch in batches:
            expected, found = (
                [torch.from_numpy(value) for value in session.run(None, {'image': batch})]
                for session in self.sessions
            )
            total += self.compare(expected, found)
        return total

    def compare(self, expected: Sequence[Tensor], found: Sequence[Tensor]) -> Difference:
        """Return the :class:`Difference` of one batch, given all outputs of both models."""
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
        # Ties between proposals can be resolved differently, so objects of a second stage are matched by box.
        scores = [values[self.count + 1].flatten(1).sort().values for values in (expected, found)]
        pairs = zip(zip(*expected[:3]), zip(*found[:3]))
        start = Difference(relative(*scores, scale=1.0))
        return sum((objects(*image, *other) for image, other in pairs), start)

    def milliseconds(self, batch: np.ndarray, seconds: float = 1.0) -> list[float]:
        """Return the median latency of both in ms (list of two floats), see :func:`milliseconds`."""
        runs = [partial(session.run, None, {'image': batch}) for session in self.sessions]
        return milliseconds(runs, seconds)


def milliseconds(runs: Sequence[Callable[[], Any]], seconds: float = 1.0) -> list[float]:
    """Return the median durations in ms of functions timed in alternation (list[float]).

    Args:
        runs (Sequence[Callable]): The functions, called without arguments.
        seconds (float): Time to spend on each; at least ten calls are timed. Defaults to 1.
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
    """Return the :class:`Difference` of outputs of :mod:`.raw_graphs`.

    The decisions of a detector are the priors whose best score is at least ``CLEAR_SCORE``.

    Args:
        task (str): One of :data:`~.build.TASKS`.
        expected, found (dict[str, Tensor]): Outputs in float32, and in reduced precision.
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
    """Return the :class:`Difference` of a detector's scores, (N, B, C)."""
    best, labels = expected.max(2)
    clear = best >= CLEAR_SCORE
    same = labels == found.argmax(2)
    same &= (found.gather(2, labels[..., None])[..., 0] - best).abs() < SAME_SCORE
    return Difference(
        relative(expected, found, scale=1.0), int(same[clear].sum()), int(clear.sum()), CHOICES['detection']
    )


def relative(expected: Tensor, found: Tensor, scale: float | None = None) -> float:
    """Return the largest difference relative to the largest expected value (float), or inf if shapes differ.

    Args:
        expected, found (Tensor): The values in float32, and the others, of any shape.
        scale (float, optional): Divisor to use instead of the largest value. Defaults to None.
    """
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
    """Return the :class:`Difference` of the detections in one image: boxes (K, 4), scores and labels (K,).

    The error is that of the scores of boxes found by both models.
    """
    clear = scores >= CLEAR_SCORE
    overlap = box_iou(boxes[clear], other_boxes) * (labels[clear, None] == other_labels)
    apart = (scores[clear, None] - other_scores).abs()
    same = (overlap > SAME_PLACE) & (apart < SAME_SCORE)
    nearest = apart.where(overlap > SAME_BOX, torch.inf).amin(1)
    error = nearest[nearest.isfinite()].amax().item() if nearest.isfinite().any() else 0.0
    return Difference(error, int(same.any(1).sum()), int(clear.sum()))
