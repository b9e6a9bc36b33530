"""The scan as a custom operator of PyTorch, ``torch.ops.mmmobilemamba.selective_scan``.

The operator is opaque to ``torch.compile`` and ``torch.export``, and saves only its inputs for backward. Its
kernels are in C++ for CPUs and in Triton for GPUs.
"""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..backends import AS_OPERATOR
from ..cpu import scan as cpu_scan
from ..cpu.library import can_run

INPUTS = 'Tensor u, Tensor x_dbl, Tensor dt_weight, Tensor A, Tensor D, Tensor dt_bias'


def output_dtype(u: Tensor) -> torch.dtype:
    """Dtype of the output: float64 if ``u`` is, else float32, as 16-bit types cannot represent the state."""
    return torch.promote_types(u.dtype, torch.float32)


def kernels_for(tensor: Tensor) -> ModuleType:
    """Module with ``forward`` and ``backward`` for a tensor's device; Triton is imported at first use."""
    return importlib.import_module('mmmobilemamba.ops.triton.scan') if tensor.is_cuda else cpu_scan


class SelectiveScan(torch.autograd.Function):
    """The scan without the overhead of ``torch.library``, about 40 us per call; also for older PyTorch."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return kernels_for(inputs[0]).forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, ...]:
        inputs = ctx.saved_tensors
        if AS_OPERATOR and not can_run(grad_y, differentiable=True):  # such as batched gradients
            return _backward(ctx, grad_y, inputs)
        run = SelectiveScanBackward.apply if torch.is_grad_enabled() else _run_backward
        return restore_dtypes(run(grad_y, *inputs), inputs)


class SelectiveScanBackward(torch.autograd.Function):
    """The gradients; raises on double backward."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        return _run_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        return _refuse(ctx, *grads)


def restore_dtypes(grads: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Cast gradients to the dtypes of the inputs (tuple[Tensor])."""
    return tuple(grad if grad.dtype == x.dtype else grad.to(x.dtype) for grad, x in zip(grads, inputs))


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad_y, inputs=None):
    inputs = ctx.saved_tensors if inputs is None else inputs  # saved_tensors may be accessed only once
    grads = torch.ops.mmmobilemamba.selective_scan_backward(grad_y, *inputs)
    return restore_dtypes(grads, inputs)


def _refuse(ctx, *grads):
    raise RuntimeError("This scan has no second derivative; that of backend='torch' has one.")


def _fake(u, x_dbl, dt_weight, A, D, dt_bias):
    return u.new_empty(u.shape, dtype=output_dtype(u))


def _fake_backward(grad_y, *inputs):
    dtype = output_dtype(inputs[0])
    return tuple(x.new_empty(x.shape, dtype=dtype) for x in inputs)


def _run_forward(*inputs):
    return kernels_for(inputs[0]).forward(*inputs)


def _run_backward(grad_y, *inputs):
    return kernels_for(grad_y).backward(grad_y, *inputs)


def register() -> torch.library.Library:
    """Define the operator and its gradient. They exist as long as the returned library is referenced."""
    library = torch.library.Library('mmmobilemamba', 'DEF')
    library.define(f'selective_scan({INPUTS}) -> Tensor')
    outputs = ', '.join(['Tensor'] * 6)
    library.define(f'selective_scan_backward(Tensor grad_y, {INPUTS}) -> ({outputs})')
    for device in ('CPU', 'CUDA'):
        library.impl('selective_scan', _run_forward, device)
        library.impl('selective_scan_backward', _run_backward, device)
    torch.library.register_fake('mmmobilemamba::selective_scan', _fake, lib=library)
    torch.library.register_fake('mmmobilemamba::selective_scan_backward', _fake_backward, lib=library)
    torch.library.register_autograd(
        'mmmobilemamba::selective_scan', _backward, setup_context=_setup_context, lib=library
    )
    torch.library.register_autograd('mmmobilemamba::selective_scan_backward', _refuse, lib=library)
    return library


LIBRARY = register() if AS_OPERATOR else None


def selective_scan_operator(*inputs: Tensor) -> Tensor:
    """Equal to :func:`~.naive.selective_scan_naive`, by the kernel of the device.

    Args:
        *inputs (Tensor): As in :func:`~.naive.selective_scan_naive`.

    Returns:
        Tensor: (N, L, E), float64 if ``u`` is, else float32.
    """
    if AS_OPERATOR:
        return torch.ops.mmmobilemamba.selective_scan(*inputs)
    return SelectiveScan.apply(*inputs)
