"""Exports programs of ``torch.export`` for converters to other formats."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...utils.garbage import frozen_heap
from ...utils.quiet import quietly
from ..errors import refusing


def to_program(form: nn.Module, image: Tensor, exact_resize: bool = False) -> torch.export.ExportedProgram:
    """Export a portable network with ``torch.export``, without in-place operations.

    Args:
        form (nn.Module): A network from :func:`~..portable.portable`.
        image (Tensor): Its input.
        exact_resize (bool): Whether to use :class:`ExactResize`. Defaults to False.

    Raises:
        DeploymentError: If PyTorch cannot export the network.
    """
    torch.compiler.reset()  # see onnx_file.to_program
    network = WithExactResize(form) if exact_resize else form
    with refusing(), quietly(), frozen_heap(), torch.no_grad():
        program = torch.export.export(network, (image,), strict=False)
        return program.run_decompositions({})


class WithExactResize(nn.Module):
    """Runs a network with the resizes of :class:`ExactResize`.

    Args:
        network (nn.Module): Any network.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Any:
        """Images -> outputs of the network."""
        with ExactResize():
            return self.network(image)


class ExactResize(TorchFunctionMode):
    """Computes nearest resizes by non-integer factors as products with constant matrices.

    Runtimes differ in the choice of the nearest pixel; LiteRT differs from PyTorch when resizing from 4 to 7.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not F.interpolate:
            return function(*args, **(kwargs or {}))
        return self.resize(*args, **(kwargs or {}))

    def resize(
        self, x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = 'nearest', **kwargs: Any
    ) -> Tensor:
        """Replacement of ``F.interpolate``, with the same arguments."""
        if mode != 'nearest' or size is None or x.ndim != 4:
            return F.interpolate(x, size, scale_factor, mode, **kwargs)
        height, width = (size, size) if isinstance(size, int) else map(int, size)
        if height % x.shape[2] == 0 and width % x.shape[3] == 0:
            return F.interpolate(x, (height, width), None, mode, **kwargs)
        x = x @ nearest(x.shape[3], width).to(x)
        return (x.transpose(2, 3) @ nearest(x.shape[2], height).to(x)).transpose(2, 3)


def nearest(size: int, wanted: int) -> Tensor:
    """Return the matrix (size, wanted) of zeros and ones that resizes ``size`` pixels to ``wanted``.

    Computed in NumPy: PyTorch operators would become part of the exported graph.
    """
    places = np.floor(np.arange(wanted, dtype=np.float32) * (np.float32(size) / np.float32(wanted)))
    return torch.tensor((np.arange(size)[:, None] == places.clip(max=size - 1)).astype(np.float32).tolist())
