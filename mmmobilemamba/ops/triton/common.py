"""What the launchers of all kernels share; nothing here needs Triton."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Optional

import torch
from torch import Tensor

from ..shapes import check_bands, half_size

MOST_ALIGNED = 16  # elements that an alignment tells about, at most


def on_device(x: Tensor) -> AbstractContextManager:
    """A context in which Triton launches on the device of a tensor, which need not be the current one."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def alignment(shape: Sequence[int], strides: Sequence[int], axis: int) -> int:
    """The power of two that divides the strides of all axes but one; sides of 1 do not count.

    Triton knows whether 16 divides an integer, and no smaller power of two. Kernels therefore take strides
    divided by this number, which they know when they are compiled: as many elements can be loaded at once.
    """
    others = (s for i, (size, s) in enumerate(zip(shape, strides)) if i != axis and size > 1)
    return math.gcd(MOST_ALIGNED, *others)


def empty_bands(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Bands of a map, in its memory format."""
    batch, channels, height, width = x.shape
    return _empty_map(x, (batch, 4 * channels, *half_size(height, width)), dtype)


def empty_inverse(bands: Tensor, base: Optional[Tensor], size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A map of ``size`` (H, W) in the memory format of ``base``; if that is None, in that of ``bands``.

    Raises:
        ValueError: If the shapes do not fit each other.
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
    """Whether the steps of (N, L, E) are neighbours in memory, as in a channels-first map (bool)."""
    return z.stride(1) == 1 and z.stride(2) != 1


def empty_gate(z: Tensor) -> Tensor:
    """A tensor like ``z``, (N, L, E), whose steps are neighbours if those of ``z`` are, else the channels."""
    batch, length, channels = z.shape
    if has_contiguous_steps(z):
        return z.new_empty(batch, channels, length).transpose(1, 2)
    return z.new_empty(z.shape)
