"""2D convolution with an activation and a shortcut: the public functions and the PyTorch fallbacks."""

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

FEW_IMAGES, FEW_PIXELS = 16, 4  # least images, and pixels of each, in pointwise_conv
EIGHT = 8  # in half precision, tensor cores need multiples of 8 channels


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
    """``activation(conv(x) + bias) + shortcut`` with padding ``k // 2``.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): (O, C / groups, k, k), k odd. Weights in the layout of :func:`~.cpu.conv.lay_out` are
            used without a copy.
        bias (Tensor, optional): (O). Defaults to None.
        stride (int): Stride of rows and columns. Defaults to 1.
        groups (int): Number of groups. Defaults to 1.
        activation (str, optional): ``'relu'`` or ``'silu'``. Defaults to None.
        shortcut (Tensor, optional): (N, O, ceil(H / stride), ceil(W / stride)). Defaults to None.
        backend (str): As in :func:`~mmmobilemamba.ops.selective_scan`. ``'auto'`` and ``'cpp'`` allow the C++
            kernels. They run for channels-last maps on a CPU with AVX2, in float32 without autocast, with 16
            or more output channels, if no gradient is needed: for pointwise convolutions of stride 1; for
            3 x 3 convolutions of stride 1 or 2 on whole maps (no channel slices), with weights in the layout
            of ``lay_out``; and for depthwise ones with k of 3, 5 or 7 and stride 1 or 2. ``'auto'`` and
            ``'triton'`` allow the Triton kernels, see :func:`depthwise_conv2d`; they include activation and
            shortcut if no gradient is needed. All other calls run in PyTorch. Defaults to ``'auto'``.

    Returns:
        Tensor: (N, O, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: If the activation or the backend does not exist, k is even, the kernel is not square, or
            the shortcut does not have the shape of the output.
        RuntimeError: If the shapes of ``x``, ``weight`` and ``bias`` do not match.
    """
    check_backend(backend)
    check_activation(activation)
    side = checked_side(weight)
    if x.is_cuda:
        if can_use_triton(x, weight, bias, stride, groups, backend):
            return conv2d_triton(x, weight, bias, stride, activation, shortcut)
        if wants_padding(x, weight, groups):
            return apply_epilogue(padded_conv(x, weight, bias, stride), activation, shortcut)
    traced = is_traced_or_transformed()  # checked first: tracing turns comparisons of sizes into guards
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
    """Depthwise convolution with padding ``k // 2``.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): (C, 1, k, k), k odd.
        bias (Tensor, optional): (C). Defaults to None.
        stride (int): Stride of rows and columns. Defaults to 1.
        backend (str): As in :func:`~mmmobilemamba.ops.selective_scan`. ``'auto'`` and ``'triton'`` allow the
            Triton kernels. They run on GPUs where the Triton scan can run, for channels-last maps (channel
            slices included) of two or more channels, k of 3, 5 or 7, stride 1 or 2, and float32; in float16
            and bfloat16 only if no gradient is needed. Under autocast they compute in the autocast dtype, as
            PyTorch does. All other calls run in PyTorch. Defaults to ``'auto'``.

    Returns:
        Tensor: (N, C, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: If the backend does not exist, k is even, or the kernel is not square.
        RuntimeError: If the shapes of ``x``, ``weight`` and ``bias`` do not match.
    """
    check_backend(backend)
    groups, side = weight.shape[0], checked_side(weight)
    if can_use_triton(x, weight, bias, stride, groups, backend):
        return conv2d_triton(x, weight, bias, stride, None, None)
    return F.conv2d(x, weight, bias, stride, side // 2, groups=groups)


def checked_side(weight: Tensor) -> int:
    """Kernel size k of a weight (O, C / groups, k, k), checked (int).

    Raises:
        ValueError: If k is even or the kernel is not square. Skipped while tracing, which would record the
            comparison.
    """
    if torch.jit.is_tracing():
        return side_of(weight)
    check_kernel(weight)
    return weight.shape[2]


def wants_padding(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether to zero-pad the channels for the tensor cores of a GPU (bool).

    Tensor cores need multiples of 8 channels; for other widths, such as those of the stem, cuDNN copies the
    input and the output. ``torch.compile`` fuses the padding into the operation before it.
    """
    is_compiled = CAN_DETECT and torch.compiler.is_compiling()
    if not (x.is_cuda and is_compiled) or groups > 1 or weight.shape[2] == 1:
        return False
    dtype = torch.get_autocast_dtype('cuda') if torch.is_autocast_enabled('cuda') else x.dtype
    is_half = dtype in (torch.float16, torch.bfloat16)
    return is_half and x.stride(1) == 1 and any(channels % EIGHT for channels in weight.shape[:2])


def padded_conv(x: Tensor, weight: Tensor, bias: Optional[Tensor], stride: int) -> Tensor:
    """``F.conv2d`` with channels zero-padded to multiples of 8; the output is cropped to O channels."""
    outputs, inputs, side = weight.shape[:3]
    x = F.pad(x, (0, 0, 0, 0, 0, -inputs % EIGHT))
    padded = F.pad(weight, (0, 0, 0, 0, 0, -inputs % EIGHT, 0, -outputs % EIGHT))
    out = F.conv2d(x, padded, None, stride, side // 2)[:, :outputs]
    return out if bias is None else out + bias.view(1, -1, 1, 1).to(out.dtype)


def pointwise_conv(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """Pointwise ``F.conv2d`` for CPUs that views the pixels of a small batch as 16 or more one-row images.

    For smaller batches PyTorch runs a pointwise convolution on a CPU as a matrix product, which is slower,
    especially in backward. Maps that cannot be viewed this way go to ``F.conv2d`` as they are.

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
