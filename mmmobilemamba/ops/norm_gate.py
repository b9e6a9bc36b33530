"""Layer norm of the scan's output, multiplied by the SiLU of a gate: the last step of SS2D.

Source: MobileMamba, https://arxiv.org/abs/2411.15941, after VMamba, https://arxiv.org/abs/2401.10166.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends import AS_OPERATOR, WITH_CPP, check_backend, uses_triton
from .cpu.library import can_run
from .cpu.norm_gate import norm_gate_cpp, one_stride
from .shapes import check_gate
from .triton.operators import register_norm_gate

MOST_CHANNELS = 4096  # the Triton kernel keeps whole rows in registers


def norm_gate(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, z: Tensor, backend: str = 'auto'
) -> Tensor:
    """``layer_norm(y) * silu(z)``.

    Args:
        y (Tensor): (N, L, E). The norm is computed in this dtype; after a scan it is float32 or float64.
        weight (Tensor): Weight of the norm, (E).
        bias (Tensor): Bias of the norm, (E).
        eps (float): Added to the variance.
        z (Tensor): The gate, (N, L, E).
        backend (str): As in :func:`~mmmobilemamba.ops.selective_scan`. ``'auto'`` and ``'cpp'`` allow the C++
            kernel. It runs on a CPU, in float32 or float64, if no gradient is needed. ``'auto'`` and
            ``'triton'`` allow the Triton kernel. It runs on GPUs where the Triton scan can run, for up to
            4096 channels and inputs of which none is float64; it computes in float32, rounds once and has no
            second derivative. All other calls run in PyTorch. Defaults to ``'auto'``.

    Returns:
        Tensor: (N, L, E), in the dtype of ``z``.

    Raises:
        ValueError: If the shapes do not match or the backend does not exist.
        RuntimeError: In double backward, if the Triton kernel ran.
    """
    check_backend(backend)
    if backend in WITH_CPP and can_run(y, weight, bias, z) and one_stride(z):
        return norm_gate_cpp(y, weight, bias, eps, z)
    if uses_triton(backend, y, weight, bias, z) and z.shape[2] <= MOST_CHANNELS:
        return torch.ops.mmmobilemamba.norm_gate(y, weight, bias, eps, z)
    if not torch.jit.is_tracing():  # tracing would record the comparison
        check_gate(y, weight, bias, z)
    return norm_gate_torch(y, weight, bias, eps, z)


def norm_gate_torch(y: Tensor, weight: Tensor, bias: Tensor, eps: float, z: Tensor) -> Tensor:
    """:func:`norm_gate` in PyTorch, without checks of the shapes."""
    y = F.layer_norm(y, weight.shape, weight.to(y.dtype), bias.to(y.dtype), eps)
    return y.to(z.dtype) * F.silu(z)


LIBRARY = register_norm_gate(norm_gate_torch) if AS_OPERATOR else None
