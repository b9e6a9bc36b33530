"""The bidirectional selective scan in C++: forward and backward of csrc/scan.h."""

import ctypes
from typing import Optional

import torch
from torch import Tensor

from .library import run
from .structs import ScanGradients, ScanTensors


def forward(
    u: Tensor,
    x_dbl: Tensor,
    dt_weight: Tensor,
    A: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    instruction_set: Optional[str] = None,
) -> Tensor:
    """Equal to :func:`~..selective_scan.naive.selective_scan_naive`, without gradients.

    Args:
        instruction_set (str, optional): One of ``INSTRUCTION_SETS`` up to the best of this machine, for
            tests. Defaults to the best.
    """
    tensors = _contiguous(u, x_dbl, dt_weight, A, D, dt_bias)
    y = tensors[0].new_empty(u.shape)  # on the CPU, whatever the default device is
    problem = _problem(*tensors)
    run('scan_forward', ctypes.byref(problem), y.data_ptr(), dtype=y.dtype, instruction_set=instruction_set)
    return y


def backward(
    grad_y: Tensor,
    u: Tensor,
    x_dbl: Tensor,
    dt_weight: Tensor,
    A: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    instruction_set: Optional[str] = None,
) -> tuple[Tensor, ...]:
    """Gradients of all six inputs, in float32 or float64.

    Sums over images and channels are over parts that do not depend on the number of threads, so
    that the result does not, either.
    """
    tensors = _contiguous(u, x_dbl, dt_weight, A, D, dt_bias)
    u = tensors[0]
    if grad_y.dtype != u.dtype or not grad_y.is_contiguous():
        grad_y = grad_y.to(u.dtype).contiguous()
    grads = tuple(x.new_empty(x.shape) for x in tensors)
    gradients = ScanGradients(*(x.data_ptr() for x in (grad_y, *grads)))
    problem = _problem(*tensors)
    pointers = ctypes.byref(problem), ctypes.byref(gradients)
    run('scan_backward', *pointers, dtype=u.dtype, instruction_set=instruction_set)
    return grads


def _contiguous(u, *others):
    """In one type, float32 or float64; of ``u`` only the channels need be contiguous."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    u = u.to(dtype)
    if u.stride(2) != 1:
        u = u.contiguous()
    # Asking is faster than calling what has nothing to do.
    fits = [x if x.dtype == dtype and x.is_contiguous() else x.to(dtype).contiguous() for x in others]
    return u, *fits


def _problem(u, *others):
    batch, length, channels = u.shape
    rank = others[1].shape[2]
    strides = u.stride()[:2]
    return ScanTensors(batch, length, channels, rank, *strides, *(x.data_ptr() for x in (u, *others)))
