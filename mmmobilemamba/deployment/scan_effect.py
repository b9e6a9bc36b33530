"""Whether the scans of a network show in what it gives, without which a comparison proves nothing of them.

Residual branches start at zero, and with few weights moved a scan that is computed wrongly changes next to
nothing.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..models.backbones import MobileMamba
from ..models.layers import SS2D
from .proof import TOLERANCE, difference

LEAST = 10 * TOLERANCE  # what forgetting all steps before must change, of the largest value
FORGETS = 20.0  # a logarithm of decays of which nothing is left after a step
MOST_ROUNDS = 5  # after which nothing of the present step is left in a scan
SILENT = 1e-6  # weights below are those of a branch that is zero


@torch.no_grad()
def scan_effect(graph: nn.Module, image: Tensor) -> float:
    """How much a backbone's maps change if its scans forget all steps but the present (float).

    The change is relative to the largest value of a map; 1 if there is no scan that could be wrong.

    Args:
        graph (nn.Module): With a deployed backbone.
        image (Tensor): What it takes.
    """
    forgetful = copy.deepcopy(graph)
    scans = [module for module in forgetful.modules() if isinstance(module, SS2D)]
    for scan in scans:
        scan.A_log.fill_(FORGETS)
    changes = map(difference, maps_of(graph, image), maps_of(forgetful, image))
    return max(changes) if scans else 1.0


def maps_of(graph: nn.Module, image: Tensor) -> list[Tensor]:
    """What the backbones in a graph give for an image."""
    maps: list[Tensor] = []
    backbones = [module for module in graph.modules() if isinstance(module, MobileMamba)]
    hooks = [module.register_forward_hook(lambda *given: maps.extend(given[-1])) for module in backbones]
    try:
        graph(image)
    finally:
        for hook in hooks:
            hook.remove()
    return maps


@torch.no_grad()
def awakened(graph: nn.Module, image: Tensor, seed: int = 0) -> nn.Module:
    """A copy with weights of the backbone for which the scans show (nn.Module).

    Args:
        graph (nn.Module): With a deployed backbone.
        image (Tensor): What it takes.
        seed (int): Of the weights that take the place of zeros.
    """
    graph = copy.deepcopy(graph)
    generator = torch.Generator().manual_seed(seed)
    backbones = [module for module in graph.modules() if isinstance(module, MobileMamba)]
    for parameter in (each for backbone in backbones for each in backbone.parameters()):
        if parameter.ndim > 1 and parameter.abs().max() < SILENT:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * parameter[0].numel() ** -0.5)
    scans = [module for module in graph.modules() if isinstance(module, SS2D)]
    for _ in range(MOST_ROUNDS):
        for scan in scans:  # of which more comes from the steps before, and more gets through
            scan.D.mul_(0.1)
            getattr(scan.out_proj, 'conv', scan.out_proj).weight.mul_(3)
        if scan_effect(graph, image) >= LEAST:
            break
    return graph
