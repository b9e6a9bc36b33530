"""The gated layer norm of :mod:`mmmobilemamba.ops.norm_gate` in C++."""

import ctypes
from typing import Optional

from torch import Tensor

from ..shapes import check_gate
from .library import run
from .structs import Gate


def one_stride(z: Tensor) -> bool:
    """Whether the channels of (N, L, E) are contiguous and all steps are equally spaced (bool)."""
    return z.stride(2) == 1 and (z.shape[0] == 1 or z.stride(0) == z.shape[1] * z.stride(1))


def norm_gate_cpp(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, z: Tensor, instruction_set: Optional[str] = None
) -> Tensor:
    """:func:`~mmmobilemamba.ops.norm_gate` in C++, without gradients.

    Args:
        y, weight, bias, eps, z: As in :func:`~mmmobilemamba.ops.norm_gate`, all float32 or all float64, with
            :func:`one_stride` of ``z``.
        instruction_set (str, optional): See :func:`~.library.run`.

    Returns:
        Tensor: (N, L, E), contiguous.

    Raises:
        ValueError: If the shapes do not match.
    """
    check_gate(y, weight, bias, z)
    y, weight, bias = y.contiguous(), weight.contiguous(), bias.contiguous()
    out = y.new_empty(y.shape)
    sizes = y.shape[0] * y.shape[1], y.shape[2], z.stride(1)
    gate = Gate(*sizes, *(x.data_ptr() for x in (y, weight, bias, z)), eps)
    pointers = ctypes.byref(gate), out.data_ptr()
    run('norm_gate', *pointers, dtype=y.dtype, instruction_set=instruction_set)
    return out
