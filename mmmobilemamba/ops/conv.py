"""2D convolution with an activation and a shortcut: the public functions, and the forms in PyTorch."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends import WITH_CPP, autocasts, check_backend
from .cpu.conv import conv2d_cpp, find_kernel
from .cpu.library import takes
from .epilogue import apply_epilogue, check_activation
from .shapes import check_kernel, evenly_spaced, side_of
from .tracing import CAN_DETECT, is_traced_or_transformed
from .triton.conv import can_run as can_use_triton
from .triton.conv import conv2d_triton

FEW_IMAGES, FEW_PIXELS = 16, 4  # for PyTorch's pointwise convolution
EIGHT = 8  # channels that tensor cores take at once in half precision


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: int = 1,
    groups: int = 1,
    activation: Optional[str] = None,
    shortcut: Optional[Tensor] = None,
    backend: str = 'auto',
) -> Tensor:
    """``activation(conv(x) + bias) + shortcut``, with the padding that keeps the size at stride 1.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): (O, C / groups, k, k), k odd. In the layout of :func:`~.cpu.conv.lay_out` it is not
            copied.
        bias (Tensor, optional): (O).
        stride (int): Of rows and columns. Defaults to 1.
        groups (int): Defaults to 1.
        activation (str, optional): ``'relu'`` or ``'silu'``.
        shortcut (Tensor, optional): (N, O, ceil(H / stride), ceil(W / stride)).
        backend (str): Of :func:`~mmmobilemamba.ops.selective_scan`. ``'auto'`` and ``'cpp'`` allow C++, which
            is taken where no gradient is needed, on a CPU with AVX2, in channels-last, in float32 and not
            under autocast, to 16 channels or more: for pointwise convolutions, for those of 3 x 3 pixels of
            whole maps (no slices of channels) whose weights are laid out already, and for depthwise ones of
            common sides and strides. ``'auto'`` and ``'triton'`` allow Triton, see
            :func:`depthwise_conv2d`; activation and shortcut are part of its kernel where no gradient is
            needed.

    Returns:
        Tensor: (N, O, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: If the activation or the backend does not exist, the kernel is not square or its side
            even, or the shortcut has another shape.
        RuntimeError: If map, weight and bias do not fit.
    """
    check_backend(backend)
    check_activation(activation)
    side = checked_side(weight)
    if x.is_cuda:
        if can_use_triton(x, weight, bias, stride, groups, backend):
            return conv2d_triton(x, weight, bias, stride, activation, shortcut)
        if wants_padding(x, weight, groups):
            return apply_epilogue(padded_conv(x, weight, bias, stride), activation, shortcut)
    traced = is_traced_or_transformed()  # before sizes are compared, which in a trace would become guards
    if backend in WITH_CPP and not traced and not autocasts():
        kernel = find_kernel(x, weight, stride, groups)
        others = [tensor for tensor in (bias, shortcut) if tensor is not None]
        fits = bias is None or bias.shape == weight.shape[:1]
        if kernel and fits and takes(x, weight, *others):
            return conv2d_cpp(kernel, x, weight, bias, stride, activation, shortcut)
    if x.is_cpu and not traced and groups == 1 and side == 1 and stride == 1 and x.ndim == 4:
        x = pointwise_conv(x, weight, bias)
    else:
        x = F.conv2d(x, weight, bias, stride, side // 2, groups=groups)
    return apply_epilogue(x, activation, shortcut)


def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, stride: int = 1, backend: str = 'auto'
) -> Tensor:
    """Depthwise convolution with the padding that keeps the size at stride 1.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): (C, 1, k, k), k odd.
        bias (Tensor, optional): (C).
        stride (int): Of rows and columns. Defaults to 1.
        backend (str): Of :func:`~mmmobilemamba.ops.selective_scan`. ``'auto'`` and ``'triton'`` allow Triton,
            which is taken where the scan can run in it, for two channels or more in channels-last (slices of
            channels too), for k of 3, 5 or 7, strides of 1 or 2, and float32; float16 and bfloat16 only where
            no gradient is needed. Under autocast it computes in the dtype of autocast, as PyTorch does.
            Everything else is PyTorch's.

    Returns:
        Tensor: (N, C, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: If the backend does not exist, or the kernel is not square or its side even.
        RuntimeError: If map, weight and bias do not fit.
    """
    check_backend(backend)
    groups, side = weight.shape[0], checked_side(weight)
    if can_use_triton(x, weight, bias, stride, groups, backend):
        return conv2d_triton(x, weight, bias, stride, None, None)
    return F.conv2d(x, weight, bias, stride, side // 2, groups=groups)


def checked_side(weight: Tensor) -> int:
    """The side of a kernel, (O, C / groups, k, k).

    Raises:
        ValueError: If it is not square or its side even; not in a trace, which would record the comparison.
    """
    if torch.jit.is_tracing():
        return side_of(weight)
    check_kernel(weight)
    return weight.shape[2]


def wants_padding(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether to add channels of zeros for the tensor cores of a GPU (bool).

    They take channels in multiples of 8; for others, such as those of the stem, cuDNN copies what a
    convolution reads and writes. A compiler makes the padding part of what comes before it.
    """
    is_compiled = CAN_DETECT and torch.compiler.is_compiling()
    if not (x.is_cuda and is_compiled) or groups > 1 or weight.shape[2] == 1:
        return False
    dtype = torch.get_autocast_dtype('cuda') if torch.is_autocast_enabled('cuda') else x.dtype
    is_half = dtype in (torch.float16, torch.bfloat16)
    return is_half and x.stride(1) == 1 and any(channels % EIGHT for channels in weight.shape[:2])


def padded_conv(x: Tensor, weight: Tensor, bias: Optional[Tensor], stride: int) -> Tensor:
    """``F.conv2d`` with channels of zeros up to multiples of 8, which are left out of the result."""
    outputs, inputs, side = weight.shape[:3]
    x = F.pad(x, (0, 0, 0, 0, 0, -inputs % EIGHT))
    padded = F.pad(weight, (0, 0, 0, 0, 0, -inputs % EIGHT, 0, -outputs % EIGHT))
    out = F.conv2d(x, padded, None, stride, side // 2)[:, :outputs]
    return out if bias is None else out + bias.view(1, -1, 1, 1).to(out.dtype)


def pointwise_conv(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """``F.conv2d`` with all pixels as 16 or more images of one row, where that is a view and saves time.

    With fewer images PyTorch leaves a pointwise convolution on a CPU to a matrix product, which is slower,
    most of all in backward.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): (O, C, 1, 1).
        bias (Tensor | None): (O).

    Returns:
        Tensor: (N, O, H, W).
    """
    batch, channels, height, width = x.shape
    pixels = batch * height * width
    images = next((n for n in range(FEW_IMAGES, pixels // FEW_PIXELS + 1) if pixels % n == 0), None)
    if batch >= FEW_IMAGES or images is None or x.stride(1) != 1 or evenly_spaced(x) is None:
        return F.conv2d(x, weight, bias)
    rows = x.permute(0, 2, 3, 1).reshape(images, 1, pixels // images, channels)
    out = F.conv2d(rows.permute(0, 3, 1, 2), weight, bias)
    return out.permute(0, 2, 3, 1).reshape(batch, height, width, -1).permute(0, 3, 1, 2)
