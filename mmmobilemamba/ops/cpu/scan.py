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
        u, x_dbl, dt_weight, A, D, dt_bias (Tensor): As in :func:`~mmmobilemamba.ops.selective_scan`, of any
            floating dtype.
        instruction_set (str, optional): See :func:`~.library.run`.

    Returns:
        Tensor: (N, L, E), float64 if ``u`` is, else float32.

    Raises:
        MemoryError: If the kernel cannot allocate memory.
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
    """Gradients of all six inputs.

    Sums over images and channels are split independently of the number of threads, so the result does not
    depend on it.

    Args:
        grad_y (Tensor): Gradient of the output, (N, L, E).
        u, x_dbl, dt_weight, A, D, dt_bias (Tensor): As in :func:`forward`.
        instruction_set (str, optional): See :func:`~.library.run`.

    Returns:
        tuple[Tensor]: Gradients in the order and shapes of the inputs, float64 if ``u`` is, else float32.

    Raises:
        MemoryError: If the kernel cannot allocate memory.
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
    """Cast to one dtype, float32 or float64, and make contiguous; ``u`` needs only contiguous channels."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    u = u.to(dtype)
    if u.stride(2) != 1:
        u = u.contiguous()
    # The checks are faster than calls of `to` and `contiguous` that change nothing.
    fits = [x if x.dtype == dtype and x.is_contiguous() else x.to(dtype).contiguous() for x in others]
    return u, *fits


def _problem(u, *others):
    batch, length, channels = u.shape
    rank = others[1].shape[2]
    strides = u.stride()[:2]
    return ScanTensors(batch, length, channels, rank, *strides, *(x.data_ptr() for x in (u, *others)))
