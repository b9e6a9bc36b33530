"""Points on the way through a graph where a file is compared with PyTorch, see :mod:`.proof`.

Outputs alone prove little: scores saturate, and of equal ones another may be chosen. Graphs hand what choices
are made of, and the choices, to a probe, which is one of these.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Probe:
    """Lets everything pass, as in the file that is written."""

    def numbers(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Values of any shape, on which everything behind this point depends."""
        return values

    def saturated(self, *logits: Tensor) -> tuple[Tensor, ...]:
        """Logits as the inverse of a sigmoid, of which not the large ones but their sigmoids are exact."""
        return self.numbers(*logits)

    def best(self, scores: Tensor, index: Tensor) -> Tensor:
        """The places (N, K, ...) of the K best of some scores (N, B, ...), the best first."""
        return index

    def kept(self, boxes: Tensor, scores: Tensor, kept: Tensor, settings: tuple[float, float]) -> Tensor:
        """What :func:`~.suppress.suppress` makes of its arguments, (N, B)."""
        return kept


NO_PROBE = Probe()


class Recorder(Probe):
    """Keeps everything that passes.

    Attributes:
        found (list[Tensor]): In this order.
    """

    def __init__(self):
        self.found = []

    def numbers(self, *values: Tensor) -> tuple[Tensor, ...]:
        self.found += values
        return values

    def best(self, scores: Tensor, index: Tensor) -> Tensor:
        self.found.append(index)
        return index

    def kept(self, boxes: Tensor, scores: Tensor, kept: Tensor, settings: tuple[float, float]) -> Tensor:
        self.found.append(kept)
        return kept


class Recorded(nn.Module):
    """A graph that gives, behind its outputs, what a :class:`Recorder` finds in it.

    Args:
        network (nn.Module): One of :mod:`.graphs` or :mod:`.detectors`, with its preprocessing or without.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """An image -> outputs and probed values."""
        recorder = Recorder()
        return (*self.network(image, recorder), *recorder.found)


def has_probes(graph: nn.Module, image: Tensor) -> bool:
    """Whether a graph has anything to compare besides its outputs."""
    recorder = Recorder()
    with torch.no_grad():
        graph(image, recorder)
    return bool(recorder.found)
