"""What computes the layers of this package."""

from torch import nn

from mmmobilemamba.ops import check_backend

from .conv import Conv2d
from .ss2d import SS2D, GatedLayerNorm
from .wte_mamba import BandConv, FoldedWTEMamba, WTEMamba

WITH_BACKEND = (SS2D, GatedLayerNorm, Conv2d, BandConv, WTEMamba, FoldedWTEMamba)


def set_backend(network: nn.Module, name: str) -> None:
    """Choose what computes the layers of this package in a network, in place.

    Args:
        network (nn.Module): Any; other layers stay as they are, whatever their attributes are called.
        name (str): One of ``mmmobilemamba.ops.BACKENDS``, or ``'auto'``, the fastest that can run.

    Raises:
        ValueError: If there is no such backend.
    """
    check_backend(name)
    for module in network.modules():
        if isinstance(module, WITH_BACKEND):
            module.backend = name
