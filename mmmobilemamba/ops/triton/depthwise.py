"""Depthwise 2D convolution of channels-last maps in Triton, for GPUs: forward and both gradients.

A program processes a tile of pixels (images, rows and columns) and a block of channels. Pixels around the
tile are loaded once per tap of the kernel, mostly from the L1 cache. Sums are accumulated in float32 and
rounded once. For the gradient of the weight, each program sums over its share of the tiles, and a second
kernel adds the shares in a fixed order. Without atomics, the results are bitwise reproducible.

The spacing of pixels in memory is a compile-time constant, from which Triton derives how many channels a
thread can load at once. The sizes of the map are not, so other sizes do not compile another kernel.
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
    """The work of a program."""

    pixels: int  # upper limit, a power of two
    channels: tuple  # candidate block sizes, powers of two: the first with the least padding is used
    num_warps: int = 4
    unrolls: bool = False  # unroll all rows of taps, which needs more registers


# By kernel size; sizes that are missing use the tile of 3.
FORWARD = {3: Tile(64, (64, 32))}
GRAD_INPUT = {3: Tile(64, (64, 32))}
GRAD_WEIGHT = {3: Tile(32, (32,))}
COLUMNS = 8  # most columns of a tile
PROGRAMS = 512  # tiles are halved until there are this many programs
FEWEST_PIXELS = 16  # tiles are not halved below this size
SHARES = 1024  # approximate number of programs of the gradient of the weight
MOST_SHARES = 64  # per block of channels
SUM_CHANNELS = 32  # channels of a program that adds shares


@triton.jit
def _locate(number, row_tiles, column_tiles, TN: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr):
    """First image of a tile; and image relative to it, row and column of each pixel, (P, 1) each."""
    pixel = tl.arange(0, TN * TH * TW)[:, None]
    column = number % column_tiles * TW + pixel % TW
    number = number // column_tiles
    row = number % row_tiles * TH + pixel // TW % TH
    return number // row_tiles * TN, pixel // (TW * TH), row, column


@triton.jit
def _channels(block, C: tl.constexpr, CB: tl.constexpr):
    """Channels of a block, and a mask of those below C, (1, CB) each."""
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
    """Gradient of the input pixels at offset (Y, X) from the centre of the kernel, (P, CB).

    Along each axis, only every ``STRIDE``-th tap connects such a pixel to an output pixel.
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
    """A tile covers pixels of ``grad``; each corresponds to ``STRIDE`` x ``STRIDE`` pixels of the input."""
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
    """Add the contributions of a tile to one tap, (P, CB), if ``TAP < TAPS``."""
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
    """Sum over ``share`` tiles for ``ROWS`` rows of taps; at most nine taps, which fit into registers."""
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
    """Sum of the shares: (count, TAPS, C) -> (C, TAPS)."""
    c, is_channel = _channels(tl.program_id(0), C, CB)
    share, tap = tl.arange(0, S)[:, None], tl.program_id(1)
    values = tl.load(shares + (share * TAPS + tap) * C + c, (share < count) & is_channel, 0.0)
    tl.store(out + c * TAPS + tap, tl.sum(values, 0)[None, :], is_channel)


def _side(size, most):
    """Side of a tile along ``size`` pixels: ``most``, or half of it if that leaves less padding."""
    most = min(most, triton.next_power_of_2(size))
    return min(most, max(most // 2, 1), key=lambda side: triton.cdiv(size, side) * side)


class _Launch:
    """Tiling of the pixels of a map (N, C, H, W).

    Args:
        tile (Tile): The work of a program.
        channels (int): C.
        size (tuple[int, int, int]): N, H and W.
        fewest (int): Least pixels of a tile; larger tiles are halved until there are ``PROGRAMS`` programs.
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
    """The map, copied unless channels are contiguous and pixels evenly spaced; and the spacing of pixels."""
    spacing = evenly_spaced(x) if x.stride(1) == 1 else None
    if spacing is None:
        return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), x.shape[1]
    return x, spacing


def _by_tap(weight, dtype):
    """Contiguous weight in tap order: (C, 1, k, k) -> (k * k, C)."""
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
    """Depthwise ``activation(conv(x) + bias) + shortcut`` with padding ``k // 2``, without gradients.

    Args:
        x (Tensor): (N, C, H, W), float32, float16 or bfloat16. Maps are copied unless they are channels-last
            or channel slices of such maps.
        weight (Tensor): (C, 1, k, k), k odd; rounded to the dtype of ``x``.
        bias (Tensor, optional): (C). Defaults to None.
        stride (int): Stride of rows and columns. Defaults to 1.
        activation (str, optional): ``'relu'`` or ``'silu'``. Defaults to None.
        shortcut (Tensor, optional): (N, C, ceil(H / stride), ceil(W / stride)). Defaults to None.

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
            bfloat16. It is copied under the conditions of ``x`` in :func:`forward`.
        weight (Tensor): (C, 1, k, k), k odd; rounded to the dtype of ``grad``.
        size (tuple[int, int]): H and W of the input.
        stride (int): Stride of rows and columns. Defaults to 1.

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
    """Gradient of the weight of :func:`forward` without activation; bitwise reproducible.

    Args:
        grad (Tensor): Gradient of the output, (N, C, ceil(H / stride), ceil(W / stride)), float32, float16 or
            bfloat16. It is copied under the conditions of ``x`` in :func:`forward`.
        x (Tensor): (N, C, H, W), as in :func:`forward`.
        kernel_size (int): k, one of 3, 5, 7 and 9.
        stride (int): Stride of rows and columns. Defaults to 1.

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
