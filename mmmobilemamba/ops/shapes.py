"""Checks of shapes and strides that the kernels for all devices share."""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor


def half_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the sub-bands of a Haar transform, half the size rounded up (int, int)."""
    return (height + 1) // 2, (width + 1) // 2


def check_bands(bands: Tensor, shape: Sequence[int]) -> None:
    """Check that ``bands`` has the shape of the sub-bands of a map of ``shape``, (N, C, H, W).

    Raises:
        ValueError: If it is not (N, 4C, ceil(H / 2), ceil(W / 2)).
    """
    batch, channels, height, width = shape
    expected = (batch, 4 * channels, *half_size(height, width))
    if bands.shape != expected:
        raise ValueError(
            f'bands must have shape {tuple(expected)} beside base of shape {tuple(shape)}, but has '
            f'{tuple(bands.shape)}.'
        )


def check_gate(y: Tensor, weight: Tensor, bias: Tensor, z: Tensor) -> None:
    """Check the shapes of the inputs of :func:`~mmmobilemamba.ops.norm_gate`.

    Raises:
        ValueError: If ``y`` and ``z`` are not of one shape (N, L, E), or ``weight`` and ``bias`` not (E).
    """
    if y.shape != z.shape or weight.shape != y.shape[2:] or bias.shape != y.shape[2:]:
        raise ValueError(
            f'y and z must have one shape (N, L, E), weight and bias (E), but have {tuple(y.shape)}, '
            f'{tuple(z.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}.'
        )


def evenly_spaced(x: Tensor) -> Optional[int]:
    """Distance in elements between consecutive pixels of a map (N, C, H, W), over all images.

    Strides of axes of size 1 are ignored.

    Returns:
        int | None: The distance, None if it is not the same everywhere.
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
    """Kernel size k of a weight (O, C, k, k), as an int even in a trace, where sizes are tensors."""
    return len(weight.unbind(2)) if torch.jit.is_tracing() else weight.shape[2]


def check_kernel(weight: Tensor) -> None:
    """Check that padding a convolution by ``k // 2`` on all sides keeps the size.

    Raises:
        ValueError: If the weight is not (O, C / groups, k, k) with k odd.
    """
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
        raise ValueError(
            f'weight must have the shape (O, C / groups, k, k), k odd, not {tuple(weight.shape)}; for other '
            f'kernels call torch.nn.functional.conv2d, which takes a padding.'
        )
