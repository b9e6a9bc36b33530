"""The public function of the bidirectional selective scan, and the choice of its backend."""

from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from ..cpu import can_run
from ..cpu import why_not as why_not_cpp
from . import cpp, exported
from .chunked import selective_scan_chunked
from .naive import selective_scan_naive
from .operator import AS_OPERATOR, SelectiveScan, output_dtype, selective_scan_operator

# The fastest first: 'auto' takes the first that can run.
_BACKENDS = {
    'cpp': selective_scan_operator,
    'triton': selective_scan_operator,
    'torch': selective_scan_chunked,
    'naive': selective_scan_naive,
    'export': exported.selective_scan_exported,  # for graphs that leave PyTorch
}
BACKENDS = tuple(_BACKENDS)
WITH_CPP = ('auto', 'cpp')  # what allows kernels in C++ where they can run
WITH_TRITON = ('auto', 'triton')  # and in Triton
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Choice(NamedTuple):
    """Which backend a call uses, and why not a faster one."""

    backend: str
    passed_over: dict  # names of the faster ones, with the reasons


def available_backends(device='cpu', dtype=torch.float32) -> tuple[str, ...]:
    """Names that ``backend`` accepts for such tensors, beside ``'auto'``; the fastest first."""
    return tuple(name for name in BACKENDS if _why_not(name, torch.device(device), dtype) is None)


def check_backend(backend):
    """Make sure that there is such a backend, here or elsewhere.

    Raises:
        ValueError: If there is none.
    """
    if backend != 'auto' and backend not in BACKENDS:
        raise ValueError(
            f"backend '{backend}' is not one of {sorted(BACKENDS)}; 'auto' chooses the fastest that can run."
        )


def select_backend(backend: str = 'auto', device='cpu', dtype=torch.float32) -> Choice:
    """The backend that a call with ``backend`` uses for tensors on ``device`` whose ``u`` is of ``dtype``.

    Other parts of a network follow this choice. Where ``'cpp'`` is chosen, Haar transforms, gates, and
    convolutions in float32 run in C++ as far as no gradient is needed; where ``'triton'`` is chosen, Haar
    transforms and gates run in Triton. Elsewhere they are PyTorch's.

    Raises:
        ValueError: If there is no such backend.
        RuntimeError: If it cannot run here; the message says why.
    """
    check_backend(backend)
    passed_over = {}
    for name in BACKENDS if backend == 'auto' else (backend,):
        reason = _why_not(name, torch.device(device), dtype)
        if reason is None:
            return Choice(name, passed_over)
        passed_over[name] = reason
    raise RuntimeError(f"backend '{backend}' cannot run: {reason}. backend='auto' chooses one that can.")


def _why_not(name, device, dtype):
    """Why a backend cannot run (str), or None."""
    if name in ('cpp', 'triton') and torch.jit.is_tracing():
        return 'a traced graph has to work where this package is not'
    made_for = dict(cpp='cpu', triton='cuda').get(name, device.type)
    if made_for != device.type:
        return f'it is for {made_for}, and the tensors are on {device.type}'
    if name == 'cpp':
        return why_not_cpp()
    if name == 'triton' and find_spec('triton') is None:
        return 'Triton is not installed; PyTorch for CUDA brings it on Linux (pip install triton)'
    if name == 'triton' and not AS_OPERATOR:
        return 'it needs Triton 3.0, which PyTorch 2.4 and newer bring'
    if name == 'triton' and dtype == torch.float64:
        return 'it computes in float32, and u is float64'
    return exported.why_not() if name == 'export' else None


@torch.compiler.assume_constant_result  # a compiled graph has the choice, not the way to it
def _resolve(backend, device_type, dtype):
    return select_backend(backend, device_type, dtype).backend


def uses_triton(backend: str, *tensors: Tensor) -> bool:
    """Whether what surrounds the scan runs in Triton for these tensors; False where it cannot."""
    if backend not in WITH_TRITON:
        return False
    for x in tensors:
        if not x.is_cuda or x.dtype not in TRITON_DTYPES:
            return False
    return _resolve('auto', 'cuda', tensors[0].dtype) == 'triton'


def selective_scan(
    u: Tensor,
    rows: Tensor,
    dt_weight: Tensor,
    A: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    backend: str = 'auto',
) -> Tensor:
    r"""Selective scan of one sequence in both directions, with state size 1.

    For the directions k = 0 (first to last) and k = 1 (last to first), with positions t kept in
    the order of the input, so that nothing is flipped:

    .. math::
        \delta_t &= \mathrm{softplus}(dt\_weight_k \, step_{k,t} + dt\_bias_k) \\
        h_t &= \exp(\delta_t A_k) \, h_{t \mp 1} + \delta_t B_{k,t} \, u_t \\
        y_t &= \sum_k C_{k,t} \, h_t + D_k \, u_t

    Source: Mamba, https://arxiv.org/abs/2312.00752, section 3.2 (the selective scan);
    MobileMamba, https://arxiv.org/abs/2411.15941 (both directions, state size 1).

    Args:
        u (Tensor): Input sequence, (N, L, E).
        rows (Tensor): What is projected from the input for each direction, (N, L, 2, R + 2): R numbers of
            the step size, the input weight B and the output weight C of the state.
        dt_weight (Tensor): Widens the step size to all channels, (2, E, R).
        A (Tensor): Decay rates, negative, (2, E).
        D (Tensor): Weights of the direct path, (2, E).
        dt_bias (Tensor): Bias of the step sizes, (2, E).
        backend (str): ``'auto'`` or one of :func:`available_backends`. Defaults to ``'auto'``.

    Returns:
        Tensor: The sum of both directions' outputs, (N, L, E). It is float32 (float64 if ``u``
        is), as is all arithmetic inside, whatever the type of the inputs: the state of a long
        scan overflows float16 and drowns in the rounding of bfloat16.

    Raises:
        ValueError: If a shape does not fit, L is 0 or the backend does not exist.
        RuntimeError: If the backend cannot run here.
    """
    _check_shapes(u, rows=rows, dt_weight=dt_weight, A=A, D=D, dt_bias=dt_bias)
    inputs = (u, rows, dt_weight, A, D, dt_bias)
    if backend in WITH_CPP and can_run(*inputs, differentiable=True):
        differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
        return SelectiveScan.apply(*inputs) if differentiated else cpp.forward(*inputs)
    run = _BACKENDS[_resolve(backend, u.device.type, u.dtype)]
    if run is selective_scan_operator:
        return run(*inputs)
    dtype = output_dtype(u)
    return run(*(tensor.to(dtype) for tensor in inputs))


def _check_shapes(u, rows, dt_weight, **others):
    if u.ndim != 3 or u.shape[1] == 0:
        raise ValueError(f'u must be (N, L, E) with L of at least 1, but has shape {tuple(u.shape)}.')
    batch, length, channels = u.shape
    rank = dt_weight.shape[-1]
    expected = dict(rows=(batch, length, 2, rank + 2), dt_weight=(2, channels, rank))
    for name, tensor in dict(rows=rows, dt_weight=dt_weight, **others).items():
        shape = expected.get(name, (2, channels))
        if tensor.shape != shape:
            raise ValueError(
                f'{name} must have shape {shape} beside u of shape {tuple(u.shape)} and R of {rank}, '
                f'but has {tuple(tensor.shape)}.'
            )
