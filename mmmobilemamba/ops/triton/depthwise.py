"""Depthwise 2D convolution of channels-last maps in Triton, for GPUs: forward and both gradients.

A program has a tile of pixels (images, rows and columns) and a block of channels. Pixels around the tile are
loaded once for each tap of the kernel; the L1 cache holds them. Sums are float32 and rounded once. For the
gradient of the weight, each program sums over its share of the tiles, and a second kernel adds up the shares
in a fixed order: there are no atomics, and results are repeatable to the bit.

The spacing of pixels in memory is known at compile time: it tells Triton how many channels a thread can load
at once. The sizes of a map are not, so that maps of other sizes need no other kernel.
"""

from collections.abc import Sequence
from typing import NamedTuple, Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..shapes import evenly_spaced
from .common import on_device
from .depthwise_operator import empty_channels_last


class Tile(NamedTuple):
    """What a program has."""

    pixels: int  # at most, a power of two
    channels: tuple  # sizes of a block of channels, powers of two: the first that wastes least
    num_warps: int = 4
    unrolls: bool = False  # all rows of taps instead of one at a time, which takes more registers


# By the side of the kernel; 3 stands for all others.
FORWARD = {3: Tile(64, (64, 32))}
GRAD_INPUT = {3: Tile(64, (64, 32))}
GRAD_WEIGHT = {3: Tile(32, (32,))}
COLUMNS = 8  # of a tile, at most
PROGRAMS = 512  # up to which tiles are made smaller
FEWEST_PIXELS = 16  # of a tile that is made smaller for more programs
SHARES = 1024  # programs of the gradient of the weight, about
MOST_SHARES = 64  # of one block of channels
SUM_CHANNELS = 32  # of a program that adds up shares


@triton.jit
def _locate(number, row_tiles, column_tiles, TN: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr):
    """Of a tile: its first image, and of each pixel, (P, 1): image from there on, row and column."""
    pixel = tl.arange(0, TN * TH * TW)[:, None]
    column = number % column_tiles * TW + pixel % TW
    number = number // column_tiles
    row = number % row_tiles * TH + pixel // TW % TH
    return number // row_tiles * TN, pixel // (TW * TH), row, column


@triton.jit
def _channels(block, C: tl.constexpr, CB: tl.constexpr):
    """Channels of a block and which of them there are, (1, CB)."""
    c = block * CB + tl.arange(0, CB)[None, :]
    return c, tl.full([1, CB], True, tl.int1) if C % CB == 0 else c < C


@triton.jit
def _between(i, size):
    return (i >= 0) & (i < size)


@triton.jit(do_not_specialize=['N', 'H', 'W', 'OH', 'OW'])
def _depthwise_forward(
    x, weight, bias, shortcut, out, N, H, W, OH, OW, row_tiles, column_tiles, C: tl.constexpr,
    SPACING: tl.constexpr, SHORTCUT_SPACING: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr,
    UNROLL: tl.constexpr, ACTIVATION: tl.constexpr, TN: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr,
    CB: tl.constexpr,
):  # fmt: skip
    blocks: tl.constexpr = (C + CB - 1) // CB
    c, is_channel = _channels(tl.program_id(0) % blocks, C, CB)
    first, image, row, column = _locate(tl.program_id(0) // blocks, row_tiles, column_tiles, TN, TH, TW)
    is_image = first + image < N
    top, left = row * STRIDE - K // 2, column * STRIDE - K // 2
    corner = x + first.to(tl.int64) * (H * W) * SPACING + (((image * H + top) * W + left) * SPACING + c)
    total = tl.zeros([TN * TH * TW, CB], tl.float32)
    for begin in range(0, K, UNROLL):
        for step in tl.static_range(UNROLL):
            i = begin + step
            line = corner + i * W * SPACING
            is_line = is_image & _between(top + i, H)
            for j in tl.static_range(K):
                is_there = is_line & _between(left + j, W) & is_channel
                value = tl.load(line + j * SPACING, is_there, 0.0).to(tl.float32)
                total += value * tl.load(weight + (i * K + j) * C + c, is_channel, 0.0).to(tl.float32)
    if bias is not None:
        total += tl.load(bias + c, is_channel, 0.0).to(tl.float32)
    if ACTIVATION == 'relu':
        total = tl.where(total < 0.0, 0.0, total)  # keeps NaN
    if ACTIVATION == 'silu':
        total = total / (1.0 + tl.exp(-total))
    is_there = is_image & (row < OH) & (column < OW) & is_channel
    pixel = (image * OH + row) * OW + column
    first_pixel = first.to(tl.int64) * (OH * OW)
    if shortcut is not None:
        place = shortcut + first_pixel * SHORTCUT_SPACING + (pixel * SHORTCUT_SPACING + c)
        total += tl.load(place, is_there, 0.0).to(tl.float32)
    tl.store(out + first_pixel * C + (pixel * C + c), total.to(out.dtype.element_ty), is_there)


@triton.jit
def _gather(
    center, weight, is_image, row, column, is_channel, OH, OW, C: tl.constexpr, SPACING: tl.constexpr,
    K: tl.constexpr, STRIDE: tl.constexpr, Y: tl.constexpr, X: tl.constexpr, P: tl.constexpr,
    CB: tl.constexpr,
):  # fmt: skip
    """Gradient of pixel (Y, X) of the input, counted from the one at the center of the kernel, (P, CB).

    Of the taps in a row or column, every ``STRIDE``-th has taken it to a pixel of the output.
    """
    i: tl.constexpr = (Y + K // 2) % STRIDE
    j: tl.constexpr = (X + K // 2) % STRIDE
    down: tl.constexpr = (Y + K // 2) // STRIDE
    right: tl.constexpr = (X + K // 2) // STRIDE
    total = tl.zeros([P, CB], tl.float32)
    for m in range((K - i + STRIDE - 1) // STRIDE):
        line = center + (down - m) * OW * SPACING
        is_line = is_image & _between(row + (down - m), OH) & is_channel
        taps = weight + (i + m * STRIDE) * K * C
        for n in tl.static_range((K - j + STRIDE - 1) // STRIDE):
            is_there = is_line & _between(column + (right - n), OW)
            value = tl.load(line + (right - n) * SPACING, is_there, 0.0).to(tl.float32)
            total += value * tl.load(taps + (j + n * STRIDE) * C, is_channel, 0.0).to(tl.float32)
    return total


@triton.jit(do_not_specialize=['N', 'H', 'W', 'OH', 'OW'])
def _depthwise_grad_input(
    grad, weight, out, N, H, W, OH, OW, row_tiles, column_tiles, C: tl.constexpr, SPACING: tl.constexpr,
    K: tl.constexpr, STRIDE: tl.constexpr, TN: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr,
    CB: tl.constexpr,
):  # fmt: skip
    """Its tile is one of ``grad``, of which each pixel has ``STRIDE`` x ``STRIDE`` pixels of the input."""
    blocks: tl.constexpr = (C + CB - 1) // CB
    c, is_channel = _channels(tl.program_id(0) % blocks, C, CB)
    first, image, row, column = _locate(tl.program_id(0) // blocks, row_tiles, column_tiles, TN, TH, TW)
    is_image = first + image < N
    grad += first.to(tl.int64) * (OH * OW) * SPACING
    out += first.to(tl.int64) * (H * W) * C
    center = grad + (((image * OH + row) * OW + column) * SPACING + c)
    for y in tl.static_range(STRIDE):
        for x in tl.static_range(STRIDE):
            total = _gather(
                center, weight + c, is_image, row, column, is_channel, OH, OW, C, SPACING, K, STRIDE, y, x,
                TN * TH * TW, CB,
            )  # fmt: skip
            own_row, own_column = row * STRIDE + y, column * STRIDE + x
            is_there = is_image & (own_row < H) & (own_column < W) & is_channel
            place = out + (((image * H + own_row) * W + own_column) * C + c)
            tl.store(place, total.to(out.dtype.element_ty), is_there)


@triton.jit
def _add_tap(
    total, grad, corner, is_there, top, left, H, W, SPACING: tl.constexpr, K: tl.constexpr,
    TAP: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Add what the pixels of a tile give to one tap, (P, CB), if there is such a tap."""
    if TAP < TAPS:
        i: tl.constexpr = TAP // K
        j: tl.constexpr = TAP % K
        is_there = is_there & _between(top + i, H) & _between(left + j, W)
        value = tl.load(corner + i * W * SPACING + j * SPACING, is_there, 0.0).to(tl.float32)
        return total + grad * value
    else:
        return total


@triton.jit
def _store_tap(shares, total, is_channel, C: tl.constexpr, TAP: tl.constexpr, TAPS: tl.constexpr):
    if TAP < TAPS:
        tl.store(shares + TAP * C, tl.sum(total, 0)[None, :], is_channel)


@triton.jit(do_not_specialize=['N', 'H', 'W', 'OH', 'OW', 'tiles', 'share'])
def _depthwise_grad_weight(
    grad, x, shares, N, H, W, OH, OW, row_tiles, column_tiles, tiles, share, C: tl.constexpr,
    GRAD_SPACING: tl.constexpr, SPACING: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr,
    ROWS: tl.constexpr, TN: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """Sums over ``share`` tiles for ``ROWS`` rows of taps: nine taps at most, which registers can hold."""
    TAPS: tl.constexpr = ROWS * K
    GROUPS: tl.constexpr = K // ROWS
    group = tl.program_id(0) % GROUPS
    c, is_channel = _channels(tl.program_id(0) // GROUPS, C, CB)
    a = tl.zeros([TN * TH * TW, CB], tl.float32)
    b, d, e, f, g, h, k, m = a, a, a, a, a, a, a, a
    begin = tl.program_id(1) * share
    for number in range(begin, tl.minimum(begin + share, tiles)):
        first, image, row, column = _locate(number, row_tiles, column_tiles, TN, TH, TW)
        is_there = (first + image < N) & (row < OH) & (column < OW) & is_channel
        pixel = ((image * OH + row) * OW + column) * GRAD_SPACING + c
        value = tl.load(grad + first.to(tl.int64) * (OH * OW) * GRAD_SPACING + pixel, is_there, 0.0)
        value = value.to(tl.float32)
        top, left = row * STRIDE + (group * ROWS - K // 2), column * STRIDE - K // 2
        at = x + first.to(tl.int64) * (H * W) * SPACING + (((image * H + top) * W + left) * SPACING + c)
        a = _add_tap(a, value, at, is_there, top, left, H, W, SPACING, K, 0, TAPS)
        b = _add_tap(b, value, at, is_there, top, left, H, W, SPACING, K, 1, TAPS)
        d = _add_tap(d, value, at, is_there, top, left, H, W, SPACING, K, 2, TAPS)
        e = _add_tap(e, value, at, is_there, top, left, H, W, SPACING, K, 3, TAPS)
        f = _add_tap(f, value, at, is_there, top, left, H, W, SPACING, K, 4, TAPS)
        g = _add_tap(g, value, at, is_there, top, left, H, W, SPACING, K, 5, TAPS)
        h = _add_tap(h, value, at, is_there, top, left, H, W, SPACING, K, 6, TAPS)
        k = _add_tap(k, value, at, is_there, top, left, H, W, SPACING, K, 7, TAPS)
        m = _add_tap(m, value, at, is_there, top, left, H, W, SPACING, K, 8, TAPS)
    shares += (tl.program_id(1) * K * K + group * TAPS) * C + c
    _store_tap(shares, a, is_channel, C, 0, TAPS)
    _store_tap(shares, b, is_channel, C, 1, TAPS)
    _store_tap(shares, d, is_channel, C, 2, TAPS)
    _store_tap(shares, e, is_channel, C, 3, TAPS)
    _store_tap(shares, f, is_channel, C, 4, TAPS)
    _store_tap(shares, g, is_channel, C, 5, TAPS)
    _store_tap(shares, h, is_channel, C, 6, TAPS)
    _store_tap(shares, k, is_channel, C, 7, TAPS)
    _store_tap(shares, m, is_channel, C, 8, TAPS)


@triton.jit
def _depthwise_sum_shares(
    shares, out, count, C: tl.constexpr, TAPS: tl.constexpr, S: tl.constexpr, CB: tl.constexpr
):
    """(count, TAPS, C) -> (C, TAPS)."""
    c, is_channel = _channels(tl.program_id(0), C, CB)
    share, tap = tl.arange(0, S)[:, None], tl.program_id(1)
    values = tl.load(shares + (share * TAPS + tap) * C + c, (share < count) & is_channel, 0.0)
    tl.store(out + c * TAPS + tap, tl.sum(values, 0)[None, :], is_channel)


def _side(size, most):
    """Side of a tile along ``size`` pixels: ``most``, or half of it where fewer are then beyond the end."""
    most = min(most, triton.next_power_of_2(size))
    return min(most, max(most // 2, 1), key=lambda side: triton.cdiv(size, side) * side)


class _Launch:
    """Tiles for maps (N, C, H, W) of pixels of the output.

    Args:
        tile (Tile): What a program has.
        channels (int): C.
        size (tuple[int, int, int]): N, H and W.
        fewest (int): Pixels of a tile down to which it is made smaller, for ``PROGRAMS`` programs.
    """

    def __init__(self, tile, channels, size, fewest):
        block = min(tile.channels, key=lambda block: triton.cdiv(channels, block) * block)
        pixels, self.blocks = tile.pixels, triton.cdiv(channels, block)
        self._cut(pixels, size)
        while pixels > fewest and self.blocks * self.tiles < PROGRAMS:
            pixels //= 2
            self._cut(pixels, size)
        sides = dict(zip(('TN', 'TH', 'TW'), self.sides))
        self.constants = dict(C=channels, CB=block, num_warps=tile.num_warps, **sides)

    def _cut(self, pixels, size):
        images, rows, columns = size
        width = _side(columns, min(COLUMNS, pixels))
        height = _side(rows, pixels // width)
        depth = min(pixels // (width * height), triton.next_power_of_2(images))
        self.sides = depth, height, width
        self.row_tiles, self.column_tiles = triton.cdiv(rows, height), triton.cdiv(columns, width)
        self.tiles = triton.cdiv(images, depth) * self.row_tiles * self.column_tiles


def _spaced(x):
    """A map (N, C, H, W) with contiguous channels and evenly spaced pixels, and their spacing."""
    spacing = evenly_spaced(x) if x.stride(1) == 1 else None
    if spacing is None:
        return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), x.shape[1]
    return x, spacing


def _by_tap(weight, dtype):
    """Weights (C, 1, k, k) as (k * k, C), contiguous."""
    weight = weight.flatten(1).t()
    return weight.to(dtype, memory_format=torch.contiguous_format).contiguous()


def _tile_for(tiles, side):
    return tiles.get(side, tiles[3])


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: int = 1,
    activation: Optional[str] = None,
    shortcut: Optional[Tensor] = None,
) -> Tensor:
    """``activation(conv(x) + bias) + shortcut``, with the padding that keeps the size at stride 1.

    Args:
        x (Tensor): (N, C, H, W), float32, float16 or bfloat16. Maps that are not channels-last, nor slices of
            the channels of such maps, are copied.
        weight (Tensor): (C, 1, k, k), k odd; rounded to the dtype of ``x``.
        bias (Tensor, optional): (C).
        stride (int): Of rows and columns. Defaults to 1.
        activation (str, optional): ``'relu'`` or ``'silu'``.
        shortcut (Tensor, optional): (N, C, ceil(H / stride), ceil(W / stride)).

    Returns:
        Tensor: (N, C, ceil(H / stride), ceil(W / stride)), channels-last, in the dtype of ``x``.
    """
    batch, channels, height, width = x.shape
    rows, columns = triton.cdiv(height, stride), triton.cdiv(width, stride)
    side = weight.shape[2]
    out = empty_channels_last(x, batch, channels, rows, columns)
    if out.numel() == 0:
        return out
    x, spacing = _spaced(x)
    shortcut, shortcut_spacing = (None, 0) if shortcut is None else _spaced(shortcut)
    bias = bias if bias is None else bias.contiguous()
    shape = _tile_for(FORWARD, side)
    tile = _Launch(shape, channels, (batch, rows, columns), FEWEST_PIXELS)
    sizes = (batch, height, width, rows, columns, tile.row_tiles, tile.column_tiles)
    constants = dict(SPACING=spacing, SHORTCUT_SPACING=shortcut_spacing, ACTIVATION=activation)
    constants['UNROLL'] = side if shape.unrolls else 1
    with on_device(x):
        tensors = (x, _by_tap(weight, x.dtype), bias, shortcut, out)
        _depthwise_forward[(tile.blocks * tile.tiles,)](
            *tensors, *sizes, K=side, STRIDE=stride, **constants, **tile.constants
        )
    return out


def grad_input(grad: Tensor, weight: Tensor, size: Sequence[int], stride: int = 1) -> Tensor:
    """Gradient of the input of :func:`forward` without activation.

    Args:
        grad (Tensor): Gradient of the output, (N, C, ceil(H / stride), ceil(W / stride)), float32, float16 or
            bfloat16. Its memory format is as that of ``x`` in :func:`forward`.
        weight (Tensor): (C, 1, k, k), k odd; rounded to the dtype of ``grad``.
        size (tuple[int, int]): H and W.
        stride (int): Of rows and columns. Defaults to 1.

    Returns:
        Tensor: (N, C, H, W), channels-last, in the dtype of ``grad``.
    """
    batch, channels, rows, columns = grad.shape
    side = weight.shape[2]
    out = empty_channels_last(grad, batch, channels, *size)
    if out.numel() == 0:
        return out
    grad, spacing = _spaced(grad)
    tile = _Launch(_tile_for(GRAD_INPUT, side), channels, (batch, rows, columns), FEWEST_PIXELS)
    sizes = (batch, *size, rows, columns, tile.row_tiles, tile.column_tiles)
    with on_device(grad):
        tensors = (grad, _by_tap(weight, grad.dtype), out)
        _depthwise_grad_input[(tile.blocks * tile.tiles,)](
            *tensors, *sizes, SPACING=spacing, K=side, STRIDE=stride, **tile.constants
        )
    return out


def grad_weight(grad: Tensor, x: Tensor, kernel_size: int, stride: int = 1) -> Tensor:
    """Gradient of the weight of :func:`forward` without activation; repeatable to the bit.

    Args:
        grad (Tensor): Gradient of the output, (N, C, ceil(H / stride), ceil(W / stride)), float32, float16 or
            bfloat16. Its memory format is as that of ``x``.
        x (Tensor): (N, C, H, W), as in :func:`forward`.
        kernel_size (int): k: 3, 5, 7 or 9.
        stride (int): Of rows and columns. Defaults to 1.

    Returns:
        Tensor: (C, 1, k, k), float32.
    """
    batch, channels, height, width = x.shape
    rows, columns = grad.shape[2:]
    taps, rows_of_taps = kernel_size**2, 3 if kernel_size == 3 else 1
    if x.numel() == 0:
        return x.new_zeros((channels, 1, kernel_size, kernel_size), dtype=torch.float32)
    out = x.new_empty((channels, 1, kernel_size, kernel_size), dtype=torch.float32)
    grad, grad_spacing = _spaced(grad)
    x, spacing = _spaced(x)
    shape = _tile_for(GRAD_WEIGHT, kernel_size)
    tile = _Launch(shape, channels, (batch, rows, columns), shape.pixels)
    groups = tile.blocks * (kernel_size // rows_of_taps)
    share = triton.cdiv(tile.tiles, max(1, min(SHARES // groups, MOST_SHARES)))
    count = triton.cdiv(tile.tiles, share)
    shares = x.new_empty((count, taps, channels), dtype=torch.float32)
    sizes = (batch, height, width, rows, columns, tile.row_tiles, tile.column_tiles, tile.tiles, share)
    constants = dict(GRAD_SPACING=grad_spacing, SPACING=spacing, ROWS=rows_of_taps, STRIDE=stride)
    with on_device(x):
        _depthwise_grad_weight[(groups, count)](
            grad, x, shares, *sizes, K=kernel_size, **constants, **tile.constants
        )
        _depthwise_sum_shares[(triton.cdiv(channels, SUM_CHANNELS), taps)](
            shares, out, count, C=channels, TAPS=taps, S=triton.next_power_of_2(count), CB=SUM_CHANNELS
        )
    return out
