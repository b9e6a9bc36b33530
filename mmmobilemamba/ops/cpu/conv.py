"""Convolutions in C++: pointwise, 3 x 3 and depthwise, for channels-last maps, without gradients.

PyTorch runs small batches in slower code. oneDNN reorders the weights at every call, which takes as long as
the convolution on small maps.
"""

import ctypes
from typing import Optional

import torch
from torch import Tensor

from ..epilogue import check_shortcut
from ..shapes import evenly_spaced
from .library import has_vectors, run
from .maps import as_map
from .structs import ACTIVATION_CODES, Conv

DEPTHWISE_SIDES = (3, 5, 7)
STRIDES = (1, 2)
FEWEST_CHANNELS = 16  # output channels: the floats of an AVX-512 vector


def lay_out(weight: Tensor) -> Tensor:
    """Copy weights to the memory layout of the kernels, in which output channels are contiguous.

    The C++ kernels on CPUs and the depthwise Triton kernels on GPUs use this layout. All other weights are
    made contiguous.

    Args:
        weight (Tensor): (O, C / groups, k, k).

    Returns:
        Tensor: The same values and shape.
    """
    has_kernels = (weight.is_cpu and has_vectors()) or (weight.is_cuda and weight.shape[1] == 1)
    if not has_kernels:
        return weight.contiguous()
    return weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def kernel_of(weight: Tensor, stride: int, groups: int) -> Optional[str]:
    """Name of the kernel for a weight (O, C / groups, k, k), stride and groups; None if there is none."""
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[0] < FEWEST_CHANNELS:
        return None
    outputs, inputs, side = weight.shape[:3]
    if groups == 1 and side == 1 and stride == 1:
        return 'pointwise'
    if groups == 1 and side == 3 and stride in STRIDES:
        return 'spatial'
    fits = side in DEPTHWISE_SIDES and stride in STRIDES
    return 'depthwise' if groups == outputs and inputs == 1 and fits else None


def find_kernel(x: Tensor, weight: Tensor, stride: int, groups: int) -> Optional[str]:
    """Name of the kernel that can run a convolution here; None if there is none.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): (O, C / groups, k, k).
        stride (int): Stride of rows and columns.
        groups (int): Number of groups.

    Returns:
        str | None: One of ``'pointwise'``, ``'spatial'`` and ``'depthwise'``.
    """
    kernel = kernel_of(weight, stride, groups)
    if kernel is None or not x.is_cpu or x.dtype != torch.float32 or not has_vectors():
        return None
    if x.ndim != 4 or x.shape[1] != weight.shape[1] * groups or x.stride(1) != 1 or x.numel() == 0:
        return None
    if kernel == 'spatial':  # reordering its weight at each call takes longer than the kernel saves
        suits = weight.permute(2, 3, 1, 0).is_contiguous() and evenly_spaced(x) == x.shape[1]
    else:
        suits = kernel == 'depthwise' or evenly_spaced(x) is not None
    return kernel if suits else None


class PreparedConv:
    """Cached arguments of a kernel, reusable for all maps of one shape, dtype and strides.

    Args:
        kernel (str): Result of :func:`find_kernel` for these tensors.
        x, weight, bias, stride, activation: As in :func:`~mmmobilemamba.ops.conv2d`. References to ``weight``
            and ``bias``, or to copies with the needed layout, are kept.
    """

    def __init__(self, kernel, x, weight, bias, stride, activation):
        batch, _, height, width = x.shape
        channels, _, side, _ = weight.shape
        rows, columns = -(-height // stride), -(-width // stride)
        self.kernel = kernel
        self.size = (batch, channels, rows, columns)
        self.strides = (rows * columns * channels, 1, columns * channels, channels)
        self.weight = weight.permute(2, 3, 1, 0).contiguous()
        self.bias = bias if bias is None else bias.contiguous()
        source = as_map(x, evenly_spaced(x))
        pointers = self.weight.data_ptr(), None if bias is None else self.bias.data_ptr()
        self.conv = Conv(source, channels, side, stride, ACTIVATION_CODES[activation], *pointers)

    def __call__(self, x, shortcut=None, instruction_set=None):
        """Run the convolution.

        Args:
            x (Tensor): (N, C, H, W), with the shape, strides and dtype of the map given to the constructor;
                this is not checked.
            shortcut (Tensor, optional): (N, O, H', W'), the shape of the output.
            instruction_set (str, optional): See :func:`~.library.run`.

        Returns:
            Tensor: (N, O, H', W'), channels-last.

        Raises:
            ValueError: If the shortcut does not have the shape of the output.
            MemoryError: If the kernel cannot allocate memory.
        """
        conv = Conv.from_buffer_copy(self.conv)  # a copy per call, as several threads may call at once
        conv.map.data = x.data_ptr()
        if shortcut is not None:
            check_shortcut(shortcut, self.size)
            if shortcut.stride() != self.strides:
                shortcut = shortcut.permute(0, 2, 3, 1).contiguous()
            conv.shortcut = shortcut.data_ptr()
        out = x.new_empty_strided(self.size, self.strides)
        run(self.kernel, ctypes.byref(conv), out.data_ptr(), dtype=x.dtype, instruction_set=instruction_set)
        return out


def conv2d_cpp(
    kernel: str,
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    stride: int,
    activation: Optional[str],
    shortcut: Optional[Tensor],
    instruction_set: Optional[str] = None,
) -> Tensor:
    """:func:`~mmmobilemamba.ops.conv2d` in C++, without gradients.

    Args:
        kernel (str): Result of :func:`find_kernel` for these tensors.
        x, weight, bias, stride, activation, shortcut: As in :func:`~mmmobilemamba.ops.conv2d`.
        instruction_set (str, optional): See :func:`~.library.run`.

    Returns:
        Tensor: (N, O, ceil(H / stride), ceil(W / stride)), channels-last.

    Raises:
        ValueError: If the shortcut does not have the shape of the output.
        MemoryError: If the kernel cannot allocate memory.
    """
    return PreparedConv(kernel, x, weight, bias, stride, activation)(x, shortcut, instruction_set)
