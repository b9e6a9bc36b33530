"""Points inside a graph at which a file is compared with PyTorch, see :mod:`.proof`.

Comparing outputs proves little: scores saturate, and ties can be resolved differently. Graphs therefore pass
the inputs and the results of each selection through a probe.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Probe:
    """Returns all values unchanged; used for the exported file."""

    def numbers(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Values of any shape that the rest of the graph depends on."""
        return values

    def saturated(self, *logits: Tensor) -> tuple[Tensor, ...]:
        """Logits computed as the inverse of a sigmoid: large ones are inexact, their sigmoids are not."""
        return self.numbers(*logits)

    def best(self, scores: Tensor, index: Tensor) -> Tensor:
        """Indices (N, K, ...) of the K best scores of (N, B, ...), best first."""
        return index

    def kept(self, boxes: Tensor, scores: Tensor, kept: Tensor, settings: tuple[float, float]) -> Tensor:
        """Result (N, B) of :func:`~.suppress.suppress` for these arguments; ``settings`` are thresholds."""
        return kept


NO_PROBE = Probe()


class Recorder(Probe):
    """Records all values.

    Attributes:
        found (list[Tensor]): The values, in the order of the calls.
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
    """A graph that returns the values of a :class:`Recorder` after its outputs.

    Args:
        network (nn.Module): A graph of :mod:`.graphs` or :mod:`.detectors`, with or without preprocessing.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Images -> outputs, followed by the recorded values."""
        recorder = Recorder()
        return (*self.network(image, recorder), *recorder.found)


def has_probes(graph: nn.Module, image: Tensor) -> bool:
    """Whether a graph passes any value through a probe (bool)."""
    recorder = Recorder()
    with torch.no_grad():
        graph(image, recorder)
    return bool(recorder.found)
