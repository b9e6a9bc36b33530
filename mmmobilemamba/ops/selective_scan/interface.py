"""The public function of the bidirectional selective scan, and the choice of its backend."""

import torch
from torch import Tensor

from .chunked import selective_scan_chunked
from .naive import selective_scan_naive

_BACKENDS = {'naive': selective_scan_naive, 'torch': selective_scan_chunked}


def available_backends() -> tuple[str, ...]:
    """Names that ``backend`` accepts here, beside ``'auto'``."""
    return tuple(_BACKENDS)


def select_backend(backend: str = 'auto') -> str:
    """Name of the backend that a call with ``backend`` uses.

    Raises:
        ValueError: If there is no such backend.
    """
    if backend == 'auto':
        return 'torch'
    if backend not in _BACKENDS:
        raise ValueError(
            f"backend '{backend}' is not one of {sorted(_BACKENDS)}; 'auto' chooses the fastest that can run."
        )
    return backend


def selective_scan(
    u: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    backend: str = 'auto',
) -> Tensor:
    r"""Selective scan of one sequence in both directions, with state size 1.

    For the directions k = 0 (first to last) and k = 1 (last to first), with positions t kept in
    the order of the input, so that nothing is flipped:

    .. math::
        \delta_t &= \mathrm{softplus}(dt_{k,t} + dt\_bias_k) \\
        h_t &= \exp(\delta_t A_k) \, h_{t \mp 1} + \delta_t B_{k,t} \, u_t \\
        y_t &= \sum_k C_{k,t} \, h_t + D_k \, u_t

    Source: Mamba, https://arxiv.org/abs/2312.00752, section 3.2 (the selective scan);
    MobileMamba, https://arxiv.org/abs/2411.15941 (both directions, state size 1).

    Args:
        u (Tensor): Input sequence, (N, L, E).
        dt (Tensor): Step sizes before bias and softplus, (N, 2, L, E).
        B (Tensor): Input weights of the state, (N, 2, L).
        C (Tensor): Output weights of the state, (N, 2, L).
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
    """
    run = _BACKENDS[select_backend(backend)]
    _check_shapes(u, dt=dt, B=B, C=C, A=A, D=D, dt_bias=dt_bias)
    dtype = torch.promote_types(u.dtype, torch.float32)
    return run(*(tensor.to(dtype) for tensor in (u, dt, B, C, A, D, dt_bias)))


def _check_shapes(u, **others):
    if u.ndim != 3 or u.shape[1] == 0:
        raise ValueError(f'u must be (N, L, E) with L of at least 1, but has shape {tuple(u.shape)}.')
    batch, length, channels = u.shape
    expected = dict(dt=(batch, 2, length, channels), B=(batch, 2, length), C=(batch, 2, length))
    for name, tensor in others.items():
        shape = expected.get(name, (2, channels))
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f'{name} must have shape {shape} beside u of shape {tuple(u.shape)}, '
                f'but has {tuple(tensor.shape)}.'
            )
