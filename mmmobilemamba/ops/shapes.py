"""Shapes and strides of feature maps, which the forms for all devices share."""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor


def half_size(height: int, width: int) -> tuple[int, int]:
    """Lines and columns (int, int) of the bands of a Haar transform."""
    return (height + 1) // 2, (width + 1) // 2


def check_bands(bands: Tensor, shape: Sequence[int]) -> None:
    """Make sure that bands are those of a map of ``shape``, (N, C, H, W).

    Raises:
        ValueError: If they are not.
    """
    batch, channels, height, width = shape
    expected = (batch, 4 * channels, *half_size(height, width))
    if bands.shape != expected:
        raise ValueError(
            f'bands must have shape {tuple(expected)} beside base of shape {tuple(shape)}, but has '
            f'{tuple(bands.shape)}.'
        )


def check_gate(y: Tensor, weight: Tensor, bias: Tensor, z: Tensor) -> None:
    """Make sure that the shapes of a gate's inputs fit.

    Raises:
        ValueError: If they do not.
    """
    if y.shape != z.shape or weight.shape != y.shape[2:] or bias.shape != y.shape[2:]:
        raise ValueError(
            f'y and z must have one shape (N, L, E), weight and bias (E), but have {tuple(y.shape)}, '
            f'{tuple(z.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}.'
        )


def evenly_spaced(x: Tensor) -> Optional[int]:
    """The one stride (int) that leads through the pixels of all images of (N, C, H, W), or None.

    The strides of sides of 1 say nothing.
    """
    if x.is_contiguous(memory_format=torch.channels_last):
        return x.shape[1]
    spacing, steps = None, 1
    for axis in (3, 2, 0):
        if x.shape[axis] > 1:
            spacing = x.stride(axis) // steps if spacing is None else spacing
            if x.stride(axis) != spacing * steps:
                return None
        steps *= x.shape[axis]
    return x.shape[1] if spacing is None else spacing


def side_of(weight: Tensor) -> int:
    """The side k of a kernel (O, C, k, k), a number in a trace, too, where sizes are tensors."""
    return len(weight.unbind(2)) if torch.jit.is_tracing() else weight.shape[2]


def check_kernel(weight: Tensor) -> None:
    """Make sure that a kernel has the padding that keeps the size, on all sides.

    Raises:
        ValueError: If it is not square, or its side is even.
    """
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
        raise ValueError(
            f'weight must have the shape (O, C / groups, k, k), k odd, not {tuple(weight.shape)}; for other '
            f'kernels call torch.nn.functional.conv2d, which takes a padding.'
        )
