"""Disables branches of a network's mixers, to measure the contribution of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.layers import SS2D, FoldedMKDeConv, FoldedWTEMamba, MKDeConv, WTEMamba
from .errors import AnalysisError

BRANCHES = ('scan', 'wavelet', 'local')


@contextmanager
def without(network: nn.Module, *branches: str) -> Iterator[None]:
    """Context in which some branches of a network's mixers return zeros.

    Everything else, including shortcuts, is unchanged. The network can be in training or deployed form, but
    not compiled or prepared, because the context uses forward hooks.

    Args:
        network (nn.Module): A network that contains a MobileMamba.
        branches (str): Any of ``BRANCHES``: the state-space branch of WTE-Mamba, its convolution of the
            sub-bands, and the convolution of the local channels.

    Raises:
        AnalysisError: If a branch does not exist, or the backend does not support hooks.

    Example:
        >>> backbone = MobileMamba('t2').eval()
        >>> with without(backbone, 'scan', 'local'):
        ...     maps = backbone(torch.rand(1, 3, 192, 192))
    """
    unknown = [name for name in branches if name not in BRANCHES]
    if unknown:
        raise AnalysisError(f'There is no branch {unknown[0]!r}; the branches are {", ".join(BRANCHES)}.')
    with ExitStack() as stack:
        for name in branches:
            modules = branch_modules(network, name)
            if not modules:
                raise AnalysisError(f'The network has no branch {name!r}: there is no MobileMamba in it.')
            for module in modules:
                stack.callback(module.register_forward_hook(_give_zeros).remove)
        yield


def branch_modules(network: nn.Module, branch: str) -> list[nn.Module]:
    """Return the modules that compute a branch, in order (list[nn.Module]).

    Args:
        network (nn.Module): A network that contains a MobileMamba.
        branch (str): One of ``BRANCHES``.

    Raises:
        AnalysisError: If the network has the backend ``'export'``, whose wavelet branch is a single
            operation.
    """
    modules = list(network.modules())
    if branch == 'scan':
        return [module for module in modules if isinstance(module, SS2D)]
    if branch == 'local':
        return [module for module in modules if isinstance(module, (MKDeConv, FoldedMKDeConv))]
    parents = [module for module in modules if isinstance(module, (WTEMamba, FoldedWTEMamba))]
    if any(parent.backend == 'export' for parent in parents):
        raise AnalysisError(
            "The network has the backend 'export', whose wavelet branch is one piece: call "
            "set_backend(network, 'auto') first."
        )
    return [parent.wavelet_conv for parent in parents]


def open_residuals(network: nn.Module) -> int:
    """Set the weights of zero-initialised batch norms to one, in place.

    A new MobileMamba, like a ResNet with ``zero_init_residual``, has such batch norms at the end of its
    residual branches. Without training, these branches contribute nothing.

    Returns:
        int: Number of batch norms changed.
    """
    closed = [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.affine and not module.weight.any()
    ]
    for module in closed:
        nn.init.ones_(module.weight)
    return len(closed)


def _give_zeros(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return torch.zeros_like(output)
