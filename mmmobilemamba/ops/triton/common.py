"""Helpers that the launchers of all kernels share; nothing here needs Triton."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Optional

import torch
from torch import Tensor

from ..shapes import check_bands, half_size

MOST_ALIGNED = 16  # elements, the largest alignment that is considered


def on_device(x: Tensor) -> AbstractContextManager:
    """Context manager that makes Triton launch on the device of ``x``, which need not be the current one."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def alignment(shape: Sequence[int], strides: Sequence[int], axis: int) -> int:
    """Largest power of two up to 16 that divides the strides of all axes except ``axis`` (int).

    Axes of size 1 are ignored. Triton specialises kernels for integers divisible by 16, but for no smaller
    power of two. Kernels therefore get the strides divided by the alignment, and the alignment as a
    compile-time constant: this many elements can be loaded at once.

    Args:
        shape (Sequence[int]): Shape of the tensor.
        strides (Sequence[int]): Its strides in elements.
        axis (int): The axis of contiguous elements.
    """
    others = (s for i, (size, s) in enumerate(zip(shape, strides)) if i != axis and size > 1)
    return math.gcd(MOST_ALIGNED, *others)


def empty_bands(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Uninitialised sub-bands of a map: (N, C, H, W) -> (N, 4C, ceil(H / 2), ceil(W / 2)), same format."""
    batch, channels, height, width = x.shape
    return _empty_map(x, (batch, 4 * channels, *half_size(height, width)), dtype)


def empty_inverse(bands: Tensor, base: Optional[Tensor], size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Uninitialised output of the inverse transform, in the memory format of ``base``, or else of ``bands``.

    Args:
        bands (Tensor): (N, 4C, ceil(H / 2), ceil(W / 2)).
        base (Tensor | None): (N, C, H, W).
        size (Sequence[int]): H and W, used only without ``base``.
        dtype (torch.dtype): Dtype of the output.

    Returns:
        Tensor: (N, C, H, W).

    Raises:
        ValueError: If the shapes do not match.
    """
    shape = (bands.shape[0], bands.shape[1] // 4, *size) if base is None else base.shape
    check_bands(bands, shape)
    return _empty_map(bands if base is None else base, shape, dtype)


def _empty_map(like, shape, dtype):
    batch, channels, height, width = shape
    if like.stride(1) == 1:
        return like.new_empty(batch, height, width, channels, dtype=dtype).permute(0, 3, 1, 2)
    return like.new_empty(shape, dtype=dtype)


def has_contiguous_steps(z: Tensor) -> bool:
    """Whether the steps of (N, L, E) are contiguous in memory, as in a channels-first map (bool)."""
    return z.stride(1) == 1 and z.stride(2) != 1


def empty_gate(z: Tensor) -> Tensor:
    """Uninitialised tensor like ``z``, (N, L, E), with contiguous steps if ``z`` has them, else channels."""
    batch, length, channels = z.shape
    if has_contiguous_steps(z):
        return z.new_empty(batch, channels, length).transpose(1, 2)
    return z.new_empty(z.shape)
