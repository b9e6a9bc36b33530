"""The public function of the bidirectional selective scan."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..backends import KERNELS, WITH_CPP, resolve
from ..cpu import scan as cpu_scan
from ..cpu.library import can_run
from ..export.scan import selective_scan_export
from ..tracing import is_transformed
from .chunked import selective_scan_chunked
from .naive import selective_scan_naive
from .operator import SelectiveScan, output_dtype, selective_scan_operator


def _function(name: str) -> Callable[..., Any]:
    """The function of one of ``BACKENDS``."""
    if name == 'naive' or is_transformed():  # the others do not support transforms
        return selective_scan_naive
    if name in KERNELS:
        return selective_scan_operator
    # Outside torch.compile and torch.export, the loop of the form for export would have to be compiled first.
    # A trace of the chunked form would be valid for one size only.
    is_export = torch.compiler.is_compiling() if name == 'export' else False
    return selective_scan_export if is_export or torch.jit.is_tracing() else selective_scan_chunked


def selective_scan(
    u: Tensor,
    x_dbl: Tensor,
    dt_weight: Tensor,
    A: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    backend: str = 'auto',
) -> Tensor:
    r"""Selective scan of one sequence in both directions, with state size 1.

    Direction k = 0 runs from first to last, k = 1 from last to first. Position t is the same element of
    the input in both, so nothing is flipped:

    .. math::
        \delta_t &= \mathrm{softplus}(dt\_weight_k \, step_{k,t} + dt\_bias_k) \\
        h_t &= \exp(\delta_t A_k) \, h_{t \mp 1} + \delta_t B_{k,t} \, u_t \\
        y_t &= \sum_k C_{k,t} \, h_t + D_k \, u_t

    Source: Mamba, https://arxiv.org/abs/2312.00752, section 3.2 (the selective scan);
    MobileMamba, https://arxiv.org/abs/2411.15941 (both directions, state size 1).

    Args:
        u (Tensor): Input sequence, (N, L, E).
        x_dbl (Tensor): Projections of the input for each direction, (N, L, 2, R + 2): R elements of the step
            size, then the input weight B and the output weight C of the state. Named as in VMamba.
        dt_weight (Tensor): Projects the step sizes to all channels, (2, E, R).
        A (Tensor): Decay rates, negative, (2, E).
        D (Tensor): Weights of the direct path, (2, E).
        dt_bias (Tensor): Bias of the step sizes, (2, E).
        backend (str): ``'auto'`` or one of :func:`~mmmobilemamba.ops.available_backends`. Defaults to
            ``'auto'``.

    Returns:
        Tensor: The sum of the outputs of both directions, (N, L, E). It is float64 if ``u`` is and
        float32 otherwise, like all arithmetic inside: the state of a long scan overflows float16, and
        bfloat16 is too coarse for it.

    Raises:
        ValueError: If the shapes do not match, L is 0 or the backend does not exist.
        RuntimeError: If the backend cannot run here; in double backward, if a C++ or Triton kernel ran.
    """
    if not torch.jit.is_tracing():  # tracing would record the comparisons
        _check_shapes(u, x_dbl=x_dbl, dt_weight=dt_weight, A=A, D=D, dt_bias=dt_bias)
    inputs = (u, x_dbl, dt_weight, A, D, dt_bias)
    if backend in WITH_CPP and can_run(*inputs, differentiable=True):
        differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
        return SelectiveScan.apply(*inputs) if differentiated else cpu_scan.forward(*inputs)
    run = _function(resolve(backend, u.device.type, u.dtype))
    if run is selective_scan_operator:
        return run(*inputs)
    dtype = output_dtype(u)
    return run(*(tensor.to(dtype) for tensor in inputs))


def _check_shapes(u, x_dbl, dt_weight, **others):
    if u.ndim != 3 or u.shape[1] == 0:
        raise ValueError(f'u must be (N, L, E) with L of at least 1, but has shape {tuple(u.shape)}.')
    batch, length, channels = u.shape
    rank = dt_weight.shape[-1]
    expected = dict(x_dbl=(batch, length, 2, rank + 2), dt_weight=(2, channels, rank))
    for name, tensor in dict(x_dbl=x_dbl, dt_weight=dt_weight, **others).items():
        shape = expected.get(name, (2, channels))
        if tensor.shape != shape:
            raise ValueError(
                f'{name} must have shape {shape} beside u of shape {tuple(u.shape)} and R of {rank}, '
                f'but has {tuple(tensor.shape)}.'
            )
