"""Selects convolutions that run in Triton: depthwise ones of channels-last maps, on GPUs.

In float32, cuDNN has no kernels for this memory format. In half precision, the Triton kernels, which fuse
activation and shortcut, are faster in inference; in training cuDNN is as fast.
"""

from typing import Optional

import torch
from torch import Tensor

from ..backends import uses_triton
from ..epilogue import apply_epilogue, check_shortcut
from ..tracing import is_traced_or_transformed
from .depthwise_operator import DepthwiseConv, depthwise_conv, depthwise_conv_act

SIDES = (3, 5, 7)
STRIDES = (1, 2)


def can_run(
    x: Tensor, weight: Tensor, bias: Optional[Tensor], stride: int, groups: int, backend: str
) -> bool:
    """Whether :func:`~mmmobilemamba.ops.conv2d` with these arguments runs in Triton (bool)."""
    if not x.is_cuda or x.ndim != 4 or groups == 1 or groups != x.shape[1] or x.stride(1) != 1:
        return False
    side = weight.shape[-1]
    if side not in SIDES or stride not in STRIDES or weight.shape != (groups, 1, side, side):
        return False
    if bias is not None and bias.shape != (groups,):
        return False
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if not uses_triton(backend, *tensors) or (
        is_traced_or_transformed() and not torch.compiler.is_compiling()
    ):
        return False  # modes and transforms need PyTorch's convolution; a compiler can call an operator
    if torch.is_autocast_enabled('cuda'):
        return not learns(*tensors)
    return all(tensor.dtype == x.dtype for tensor in tensors) and (
        x.dtype == torch.float32 or not learns(*tensors)
    )


def learns(*tensors: Tensor) -> bool:
    """Whether a result computed from these tensors needs gradients (bool)."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def conv2d_triton(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    stride: int,
    activation: Optional[str],
    shortcut: Optional[Tensor],
) -> Tensor:
    """Depthwise :func:`~mmmobilemamba.ops.conv2d` in Triton, for arguments that :func:`can_run` accepts.

    Returns:
        Tensor: (N, C, ceil(H / stride), ceil(W / stride)), channels-last.

    Raises:
        ValueError: If the shortcut does not have the shape of the output.
    """
    if torch.is_autocast_enabled('cuda'):  # the kernels round weights to the dtype of the map
        x = x.to(torch.get_autocast_dtype('cuda'))
    tensors = [tensor for tensor in (x, weight, bias, shortcut) if tensor is not None]
    if not learns(*tensors) and (shortcut is None or shortcut.dtype == x.dtype):
        if shortcut is not None:
            check_shortcut(shortcut, (*x.shape[:2], *((side - 1) // stride + 1 for side in x.shape[2:])))
        return depthwise_conv_act(x, weight, bias, stride, activation, shortcut)
    # Only a compiler needs the operator; torch.library adds about 15 us per call.
    run = depthwise_conv if torch.compiler.is_compiling() else DepthwiseConv.apply
    return apply_epilogue(run(x, weight, bias, stride), activation, shortcut)
