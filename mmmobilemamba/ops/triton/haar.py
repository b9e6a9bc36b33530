"""The Haar transform of :mod:`mmmobilemamba.ops.haar` in Triton, for GPUs.

A program processes a tile of the half-size map. The rows of a tile are contiguous in memory: a few channels
of one pixel in channels-last maps, a few pixels of one line in channels-first maps. Sums are accumulated in
float32 and rounded once.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..shapes import half_size
from .common import alignment, empty_bands, empty_inverse, on_device

TILE = 1024  # elements of each sub-band in a tile
WARPS = 4
VECTOR = 16  # bytes of channels in a row of a channels-last tile: one load of a thread
LINE = 16  # most pixels in a row of a channels-first tile

# The alignment is passed as a constant, so specialising these would only compile more kernels.
UNSPECIALIZED = ['rows', 'H', 'W']
UNSPECIALIZED += [f'{x}_{axis}' for x in ('map', 'band', 'base') for axis in ('batch', 'line', 'far')]


@triton.jit
def _locate(rows, H, W, C: tl.constexpr, G: tl.constexpr, V: tl.constexpr, LAST: tl.constexpr):
    """Mask of the rows of a tile, and their image, channels, line and first column in the sub-bands.

    Channels are (G, V) if they are contiguous (``LAST``); all others are (G, 1).
    """
    row = tl.program_id(0) * G + tl.arange(0, G)[:, None]
    is_there = row < rows
    lines, columns = (H + 1) // 2, (W + 1) // 2
    if LAST:
        c = row % (C // V) * V + tl.arange(0, V)[None, :]
        row = row // (C // V)
        j = row % columns
        row = row // columns
        i = row % lines
        n = row // lines
    else:
        segments = (columns + V - 1) // V
        j = row % segments * V
        row = row // segments
        i = row % lines
        row = row // lines
        c = row % C
        n = row // C
    return is_there, n.to(tl.int64), c, i, j


@triton.jit
def _line_at(x, n, c, i, batch, line, near, far, ALIGNED: tl.constexpr, LAST: tl.constexpr):
    """Pointers to the starts of lines. All strides but the contiguous ``near`` are divided by ``ALIGNED``."""
    return x + (n * batch + i * line) * ALIGNED + c * (near if LAST else far * ALIGNED)


@triton.jit
def _columns(j, is_there, W, V: tl.constexpr, LAST: tl.constexpr, WHOLE: tl.constexpr):
    """Columns from ``j`` on, (G, V), or only ``j`` if channels are contiguous (``LAST``); and their mask."""
    if LAST:
        return j, is_there
    else:
        j += tl.arange(0, V)[None, :]
        return j, is_there if WHOLE else is_there & (j < W)


@triton.jit
def _load_pair(
    line, j, is_there, W, step, G: tl.constexpr, V: tl.constexpr, LAST: tl.constexpr, WHOLE: tl.constexpr
):
    """Left and right pixels of the pairs of columns from ``j`` on, (G, V) each; 0 beyond the last column."""
    if LAST:
        left = tl.load(line + 2 * j * step, is_there, 0.0).to(tl.float32)
        right = tl.load(line + (2 * j + 1) * step, is_there & (2 * j + 1 < W), 0.0).to(tl.float32)
        return left, right
    else:
        column, is_there = _columns(2 * j, is_there, W, 2 * V, LAST, WHOLE)
        pixels = tl.load(line + column * step, is_there, 0.0).to(tl.float32)
        return tl.split(tl.reshape(pixels, [G, V, 2]))


@triton.jit
def _store_pair(
    line, left, right, j, is_there, W, step, G: tl.constexpr, V: tl.constexpr, LAST: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    dtype = line.dtype.element_ty
    if LAST:
        tl.store(line + 2 * j * step, left.to(dtype), is_there)
        tl.store(line + (2 * j + 1) * step, right.to(dtype), is_there & (2 * j + 1 < W))
    else:
        column, is_there = _columns(2 * j, is_there, W, 2 * V, LAST, WHOLE)
        pixels = tl.reshape(tl.join(left, right), [G, 2 * V])
        tl.store(line + column * step, pixels.to(dtype), is_there)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _haar_dwt(
    x, bands, rows, H, W, map_batch, map_line, map_near, map_far, band_batch, band_line, band_near, band_far,
    C: tl.constexpr, G: tl.constexpr, V: tl.constexpr, LAST: tl.constexpr, WHOLE: tl.constexpr,
    MAP_ALIGNED: tl.constexpr, BAND_ALIGNED: tl.constexpr,
):  # fmt: skip
    is_there, n, c, i, j = _locate(rows, H, W, C, G, V, LAST)
    step = map_far * MAP_ALIGNED if LAST else map_near
    top = _line_at(x, n, c, 2 * i, map_batch, map_line, map_near, map_far, MAP_ALIGNED, LAST)
    bottom = _line_at(x, n, c, 2 * i + 1, map_batch, map_line, map_near, map_far, MAP_ALIGNED, LAST)
    top_left, top_right = _load_pair(top, j, is_there, W, step, G, V, LAST, WHOLE)
    is_bottom = is_there & (2 * i + 1 < H)
    bottom_left, bottom_right = _load_pair(bottom, j, is_bottom, W, step, G, V, LAST, WHOLE)
    left, right = top_left + bottom_left, top_right + bottom_right
    left_step, right_step = top_left - bottom_left, top_right - bottom_right

    dtype = bands.dtype.element_ty
    line = _line_at(bands, n, c, i, band_batch, band_line, band_near, band_far, BAND_ALIGNED, LAST)
    j, is_there = _columns(j, is_there, (W + 1) // 2, V, LAST, WHOLE)
    line += j * (band_far * BAND_ALIGNED if LAST else band_near)
    band = C * (band_near if LAST else band_far * BAND_ALIGNED)
    tl.store(line, (left + right).to(dtype), is_there)
    tl.store(line + band, (left_step + right_step).to(dtype), is_there)
    tl.store(line + 2 * band, (left - right).to(dtype), is_there)
    tl.store(line + 3 * band, (left_step - right_step).to(dtype), is_there)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _haar_idwt(
    out, bands, base, rows, H, W, map_batch, map_line, map_near, map_far,
    band_batch, band_line, band_near, band_far, base_batch, base_line, base_near, base_far,
    C: tl.constexpr, G: tl.constexpr, V: tl.constexpr, LAST: tl.constexpr, WHOLE: tl.constexpr,
    MAP_ALIGNED: tl.constexpr, BAND_ALIGNED: tl.constexpr, BASE_ALIGNED: tl.constexpr,
    HAS_BASE: tl.constexpr,
):  # fmt: skip
    is_there, n, c, i, j = _locate(rows, H, W, C, G, V, LAST)
    line = _line_at(bands, n, c, i, band_batch, band_line, band_near, band_far, BAND_ALIGNED, LAST)
    column, has_band = _columns(j, is_there, (W + 1) // 2, V, LAST, WHOLE)
    line += column * (band_far * BAND_ALIGNED if LAST else band_near)
    band = C * (band_near if LAST else band_far * BAND_ALIGNED)
    average = tl.load(line, has_band, 0.0).to(tl.float32)
    lines = tl.load(line + band, has_band, 0.0).to(tl.float32)
    columns = tl.load(line + 2 * band, has_band, 0.0).to(tl.float32)
    diagonal = tl.load(line + 3 * band, has_band, 0.0).to(tl.float32)
    top, bottom = average + lines, average - lines
    top_step, bottom_step = columns + diagonal, columns - diagonal
    top_left, top_right = top + top_step, top - top_step
    bottom_left, bottom_right = bottom + bottom_step, bottom - bottom_step

    is_bottom = is_there & (2 * i + 1 < H)
    if HAS_BASE:
        step = base_far * BASE_ALIGNED if LAST else base_near
        line = _line_at(base, n, c, 2 * i, base_batch, base_line, base_near, base_far, BASE_ALIGNED, LAST)
        left, right = _load_pair(line, j, is_there, W, step, G, V, LAST, WHOLE)
        top_left, top_right = left + top_left, right + top_right
        line = _line_at(base, n, c, 2 * i + 1, base_batch, base_line, base_near, base_far, BASE_ALIGNED, LAST)
        left, right = _load_pair(line, j, is_bottom, W, step, G, V, LAST, WHOLE)
        bottom_left, bottom_right = left + bottom_left, right + bottom_right
    step = map_far * MAP_ALIGNED if LAST else map_near
    line = _line_at(out, n, c, 2 * i, map_batch, map_line, map_near, map_far, MAP_ALIGNED, LAST)
    _store_pair(line, top_left, top_right, j, is_there, W, step, G, V, LAST, WHOLE)
    line = _line_at(out, n, c, 2 * i + 1, map_batch, map_line, map_near, map_far, MAP_ALIGNED, LAST)
    _store_pair(line, bottom_left, bottom_right, j, is_bottom, W, step, G, V, LAST, WHOLE)


@lru_cache(maxsize=1024)
def _tile(shape, last, itemsize):
    """Grid, sizes and constants of the kernels for maps of ``shape`` (N, C, H, W); ``itemsize`` in bytes."""
    batch, channels, height, width = shape
    lines, columns = half_size(height, width)
    if last:
        # A power of two that divides the channels, so no mask is needed.
        neighbours = min(channels & -channels, VECTOR // itemsize)
        rows = batch * lines * columns * (channels // neighbours)
        whole = True
    else:
        neighbours = min(triton.next_power_of_2(columns), LINE)
        rows = batch * channels * lines * triton.cdiv(columns, neighbours)
        whole = width % (2 * neighbours) == 0
    group = max(TILE // neighbours, 1)
    constants = dict(C=channels, G=group, V=neighbours, LAST=last, WHOLE=whole, num_warps=WARPS)
    return (triton.cdiv(rows, group),), (rows, height, width), constants


@lru_cache(maxsize=1024)
def _strides(shape, strides, last):
    """Strides of images, lines, the contiguous axis and the remaining axis, and the alignment.

    All strides except that of the contiguous axis are divided by the alignment.
    """
    near, far = (1, 3) if last else (3, 1)
    aligned = alignment(shape, strides, near)
    return strides[0] // aligned, strides[2] // aligned, strides[near], strides[far] // aligned, aligned


def haar_dwt(x: Tensor, dtype: Optional[torch.dtype] = None) -> Tensor:
    """Equal to :func:`mmmobilemamba.ops.haar_dwt`, without gradients, in the memory format of ``x``.

    Args:
        x (Tensor): (N, C, H, W), float32, bfloat16 or float16, of any strides.
        dtype (torch.dtype, optional): Dtype of the output. Defaults to that of ``x``.

    Returns:
        Tensor: (N, 4C, ceil(H / 2), ceil(W / 2)).
    """
    bands, last = empty_bands(x, dtype or x.dtype), x.stride(1) == 1
    if bands.numel() == 0:
        return bands
    grid, sizes, constants = _tile(x.shape, last, min(x.element_size(), bands.element_size()))
    *map_strides, map_aligned = _strides(x.shape, x.stride(), last)
    *band_strides, band_aligned = _strides(bands.shape, bands.stride(), last)
    strides = (*map_strides, *band_strides)
    with on_device(x):
        _haar_dwt[grid](
            x, bands, *sizes, *strides, MAP_ALIGNED=map_aligned, BAND_ALIGNED=band_aligned, **constants
        )
    return bands


def haar_idwt(
    bands: Tensor,
    base: Optional[Tensor],
    size: Optional[Sequence[int]] = None,
    dtype: Optional[torch.dtype] = None,
) -> Tensor:
    """Equal to :func:`mmmobilemamba.ops.haar_idwt`, without gradients, in the memory format of ``base``.

    Args:
        bands (Tensor): (N, 4C, ceil(H / 2), ceil(W / 2)), float32, bfloat16 or float16, of any strides.
        base (Tensor | None): (N, C, H, W), of the same dtypes and of any strides. None adds nothing and
            returns a map in the memory format of ``bands``.
        size (tuple[int, int], optional): H and W of the output. Required without ``base``.
        dtype (torch.dtype, optional): Dtype of the output, required without ``base``. Defaults to the
            promoted dtype of both inputs.

    Returns:
        Tensor: (N, C, H, W).

    Raises:
        ValueError: If the shapes do not match.
    """
    size = base.shape[2:] if size is None else size
    dtype = dtype or torch.promote_types(bands.dtype, base.dtype)
    out = empty_inverse(bands, base, size, dtype)
    if out.numel() == 0:
        return out
    shape, last = out.shape, out.stride(1) == 1
    itemsize = min(x.element_size() for x in (out, bands, base) if x is not None)
    grid, sizes, constants = _tile(shape, last, itemsize)
    *map_strides, map_aligned = _strides(shape, out.stride(), last)
    *band_strides, band_aligned = _strides(bands.shape, bands.stride(), last)
    base_layout = (0, 0, 0, 0, 1) if base is None else _strides(shape, base.stride(), last)
    *base_strides, base_aligned = base_layout
    strides = (*map_strides, *band_strides, *base_strides)
    aligned = dict(MAP_ALIGNED=map_aligned, BAND_ALIGNED=band_aligned, BASE_ALIGNED=base_aligned)
    with on_device(bands):
        _haar_idwt[grid](
            out, bands, base, *sizes, *strides, **aligned, HAS_BASE=base is not None, **constants
        )
    return out
