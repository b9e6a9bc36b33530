"""Measures how much the scans affect the outputs of a network.

Residual branches start at zero. In a barely trained network, an incorrect scan would therefore hardly change
the outputs, and comparing them would not verify the scans.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..models.backbones import MobileMamba
from ..models.layers import SS2D
from .proof import TOLERANCE, difference

LEAST = 10 * TOLERANCE  # required effect of the previous steps, relative to the largest value
FORGETS = 20.0  # value of A_log at which a state decays completely within one step
MOST_ROUNDS = 5  # D is then 1e-5 of its value, so the current step has no direct effect
SILENT = 1e-6  # a branch with smaller weights counts as zero


@torch.no_grad()
def scan_effect(graph: nn.Module, image: Tensor) -> float:
    """Return the change of a backbone's feature maps if its scans only use the current step (float).

    The change is relative to the largest value of a map. It is 1 if there are no scans.

    Args:
        graph (nn.Module): A graph with a deployed backbone.
        image (Tensor): Its input.
    """
    forgetful = copy.deepcopy(graph)
    scans = [module for module in forgetful.modules() if isinstance(module, SS2D)]
    for scan in scans:
        scan.A_log.fill_(FORGETS)
    changes = map(difference, maps_of(graph, image), maps_of(forgetful, image))
    return max(changes) if scans else 1.0


def maps_of(graph: nn.Module, image: Tensor) -> list[Tensor]:
    """Return the feature maps of all backbones in a graph for an input (list[Tensor])."""
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
    """Copy a graph and modify the weights of its backbone until the scans affect its outputs (nn.Module).

    Args:
        graph (nn.Module): A graph with a deployed backbone; not modified.
        image (Tensor): Its input.
        seed (int): Seed of the random weights that replace zeros. Defaults to 0.
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
        for scan in scans:  # raise the share of previous steps in the scan, and of the scan in the output
            scan.D.mul_(0.1)
            getattr(scan.out_proj, 'conv', scan.out_proj).weight.mul_(3)
        if scan_effect(graph, image) >= LEAST:
            break
    return graph
