"""A network without some branches of its mixers, to see what each adds."""

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
    """Where branches of the mixers of a network give zeros; the rest, shortcuts too, stays.

    The network is in the form for training or the deployed one, and neither compiled nor prepared, as it
    works through hooks.

    Args:
        network (nn.Module): Has a MobileMamba inside.
        branches (str): Some of ``BRANCHES``: the state-space branch of WTE-Mamba, its convolution of the
            sub-bands, and the convolution of the local channels.

    Raises:
        AnalysisError: If there is no branch of a name, or its backend is one that takes no hooks.

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
    """The modules of a network that compute a branch, one of ``BRANCHES``, in order.

    Raises:
        AnalysisError: If the sub-bands are filtered in one piece, for export.
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
    """Give batch norms whose weight is zero the weight one, in place.

    A new MobileMamba, like a ResNet with ``zero_init_residual``, has such at the end of its residual
    branches, which then add nothing until they are trained.

    Returns:
        int: How many there were.
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
