"""The gate of :mod:`mmmobilemamba.ops.norm_gate` in C++."""

import ctypes
from typing import Optional

from torch import Tensor

from ..shapes import check_gate
from .library import run
from .structs import Gate


def one_stride(z: Tensor) -> bool:
    """Whether one stride leads through the pixels of all images, and their channels are contiguous."""
    return z.stride(2) == 1 and (z.shape[0] == 1 or z.stride(0) == z.shape[1] * z.stride(1))


def norm_gate_cpp(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, z: Tensor, instruction_set: Optional[str] = None
) -> Tensor:
    """:func:`~mmmobilemamba.ops.norm_gate` in C++, without gradients, where :func:`one_stride`."""
    check_gate(y, weight, bias, z)
    y, weight, bias = y.contiguous(), weight.contiguous(), bias.contiguous()
    out = y.new_empty(y.shape)
    sizes = y.shape[0] * y.shape[1], y.shape[2], z.stride(1)
    gate = Gate(*sizes, *(x.data_ptr() for x in (y, weight, bias, z)), eps)
    pointers = ctypes.byref(gate), out.data_ptr()
    run('norm_gate', *pointers, dtype=y.dtype, instruction_set=instruction_set)
    return out
