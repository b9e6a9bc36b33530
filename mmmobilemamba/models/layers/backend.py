"""Sets the backend of the layers of this package."""

from torch import nn

from mmmobilemamba.ops import check_backend

from .conv import Conv2d
from .ss2d import SS2D, GatedLayerNorm
from .wte_mamba import BandConv, FoldedWTEMamba, WTEMamba

WITH_BACKEND = (SS2D, GatedLayerNorm, Conv2d, BandConv, WTEMamba, FoldedWTEMamba)


def set_backend(network: nn.Module, name: str) -> None:
    """Set the backend of all layers of this package in a network, in place.

    Args:
        network (nn.Module): Any network. Other layers do not change, even if they have an attribute
            ``backend``.
        name (str): One of ``mmmobilemamba.ops.BACKENDS``, or ``'auto'`` for the fastest that can run.

    Raises:
        ValueError: If the backend does not exist.
    """
    check_backend(name)
    for module in network.modules():
        if isinstance(module, WITH_BACKEND):
            module.backend = name
