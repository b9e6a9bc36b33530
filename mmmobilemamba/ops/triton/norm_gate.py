"""The gated layer norm of :mod:`mmmobilemamba.ops.norm_gate` in Triton, for GPUs.

A program processes whole steps, as a tile (steps of one image, channels) in registers. All arithmetic is
float32, and every result is rounded once. Backward recomputes mean and deviation, as it reads ``y`` anyway.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..shapes import check_gate
from .common import alignment, empty_gate, has_contiguous_steps, on_device

# Elements of a tile and elements of a thread.
FORWARD = (2048, 16)
BACKWARD = (2048, 16)
PROGRAMS = 1024  # most programs of the backward pass; each stores partial gradients of weight and bias
MOST_WARPS = 16
# For channels-first gates, whose steps are contiguous.
LEAST_STEPS = 16
MOST_ELEMENTS = 8192

UNSPECIALIZED = ['tiles', 'batch', 'far']


@triton.jit
def _locate(tile, L, R: tl.constexpr):
    """Image of a tile, and its steps, (R, 1)."""
    tiles = (L + R - 1) // R  # per image
    return (tile // tiles).to(tl.int64), tile % tiles * R + tl.arange(0, R)[:, None]


@triton.jit
def _offsets(n, t, e, batch, near, far, ALIGNED: tl.constexpr, STEPS: tl.constexpr):
    """Offsets in a gate. All strides but the contiguous ``near`` are divided by ``ALIGNED``."""
    if STEPS:
        return (n * batch + e * far) * ALIGNED + t * near
    else:
        return (n * batch + t * far) * ALIGNED + e * near


@triton.jit
def _normalize(y, is_there, eps, E: tl.constexpr):
    """Rows of mean 0 and deviation 1, 0 outside the mask; and the reciprocal of the deviation, (R, 1)."""
    deviation = tl.where(is_there, y - (tl.sum(y, 1) / E)[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(deviation * deviation, 1) / E + eps)[:, None]
    return tl.where(is_there, deviation * scale, 0.0), scale


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _norm_gate_forward(
    y, weight, bias, z, out, eps, tiles, L, batch, near, far,
    E: tl.constexpr, R: tl.constexpr, W: tl.constexpr, ALIGNED: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    e = tl.arange(0, W)[None, :]
    n, t = _locate(tl.program_id(0), L, R)
    is_there = (t < L) & (e < E)
    at = (n * L + t) * E + e
    gate = tl.load(z + _offsets(n, t, e, batch, near, far, ALIGNED, STEPS), is_there, 0.0).to(tl.float32)
    normed, _ = _normalize(tl.load(y + at, is_there, 0.0).to(tl.float32), is_there, eps, E)
    normed = normed * tl.load(weight + e, e < E, 0.0).to(tl.float32)
    normed += tl.load(bias + e, e < E, 0.0).to(tl.float32)
    tl.store(out + at, (normed * gate * tl.sigmoid(gate)).to(out.dtype.element_ty), is_there)


@triton.jit(do_not_specialize=[*UNSPECIALIZED, 'grad_batch', 'grad_far'])
def _norm_gate_backward(
    grad_out, y, weight, bias, z, grad_y, grad_z, sums, eps, tiles, L, batch, near, far,
    grad_batch, grad_near, grad_far,
    E: tl.constexpr, R: tl.constexpr, W: tl.constexpr, ALIGNED: tl.constexpr, STEPS: tl.constexpr,
    GRAD_ALIGNED: tl.constexpr,
):  # fmt: skip
    e = tl.arange(0, W)[None, :]
    scale = tl.load(weight + e, e < E, 0.0).to(tl.float32)
    shift = tl.load(bias + e, e < E, 0.0).to(tl.float32)
    grad_scale, grad_shift = tl.zeros([R, W], tl.float32), tl.zeros([R, W], tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n, t = _locate(tile, L, R)
        is_there = (t < L) & (e < E)
        at = (n * L + t) * E + e
        g = tl.load(grad_out + at, is_there, 0.0).to(tl.float32)
        gate = tl.load(z + _offsets(n, t, e, batch, near, far, ALIGNED, STEPS), is_there, 0.0).to(tl.float32)
        normed, over_deviation = _normalize(tl.load(y + at, is_there, 0.0).to(tl.float32), is_there, eps, E)
        opening = tl.sigmoid(gate)
        grad_gate = g * (normed * scale + shift) * opening * (1.0 + gate * (1.0 - opening))
        place = _offsets(n, t, e, grad_batch, grad_near, grad_far, GRAD_ALIGNED, STEPS)
        tl.store(grad_z + place, grad_gate.to(grad_z.dtype.element_ty), is_there)
        g *= gate * opening
        grad_scale += g * normed
        grad_shift += g
        g *= scale
        g -= normed * (tl.sum(g * normed, 1) / E)[:, None] + (tl.sum(g, 1) / E)[:, None]
        tl.store(grad_y + at, (g * over_deviation).to(grad_y.dtype.element_ty), is_there)
    e = tl.arange(0, W)
    sums += tl.program_id(0) * E + e
    tl.store(sums, tl.sum(grad_scale, 0), e < E)
    tl.store(sums + tl.num_programs(0) * E, tl.sum(grad_shift, 0), e < E)


@lru_cache(maxsize=1024)
def _tile(shape, has_steps, tile):
    """Number of tiles of tensors of ``shape`` (N, L, E), and the constants of the kernels."""
    batch, length, channels = shape
    width = triton.next_power_of_2(channels)
    elements, of_a_thread = tile
    steps = max(elements // width, 1)
    if has_steps:
        steps = max(steps, min(LEAST_STEPS, MOST_ELEMENTS // width))
    steps = min(steps, triton.next_power_of_2(length))
    tiles = batch * triton.cdiv(length, steps)
    warps = min(max(steps * width // (32 * of_a_thread), 1), MOST_WARPS)
    return tiles, dict(E=channels, R=steps, W=width, STEPS=has_steps, num_warps=warps)


@lru_cache(maxsize=1024)
def _strides(shape, strides, has_steps):
    """Strides of images, the contiguous axis and the remaining axis, and the alignment.

    The first and the last stride are divided by the alignment.
    """
    near, far = (1, 2) if has_steps else (2, 1)
    aligned = alignment(shape, strides, near)
    return strides[0] // aligned, strides[near], strides[far] // aligned, aligned


def norm_gate(y: Tensor, weight: Tensor, bias: Tensor, eps: float, z: Tensor) -> Tensor:
    """Equal to :func:`mmmobilemamba.ops.norm_gate`, without gradients.

    Args:
        y (Tensor): (N, L, E). All tensors are float32, bfloat16 or float16.
        weight (Tensor): (E).
        bias (Tensor): (E).
        eps (float): Added to the variance.
        z (Tensor): (N, L, E), of any strides.

    Returns:
        Tensor: (N, L, E), contiguous, in the dtype of ``z``.

    Raises:
        ValueError: If the shapes do not match.
    """
    check_gate(y, weight, bias, z)
    out = z.new_empty(z.shape)
    if out.numel() == 0:
        return out
    has_steps = has_contiguous_steps(z)
    tiles, constants = _tile(z.shape, has_steps, FORWARD)
    *strides, aligned = _strides(z.shape, z.stride(), has_steps)
    tensors = (y.contiguous(), weight.contiguous(), bias.contiguous(), z, out)
    with on_device(z):
        _norm_gate_forward[(tiles,)](*tensors, eps, tiles, z.shape[1], *strides, ALIGNED=aligned, **constants)
    return out


def norm_gate_backward(
    grad_out: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float, z: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`norm_gate`; bitwise reproducible.

    Args:
        grad_out (Tensor): Gradient of the output, (N, L, E).
        y, weight, bias, eps, z: As in :func:`norm_gate`.

    Returns:
        tuple[Tensor]: Gradients of ``y``, ``weight``, ``bias`` and ``z``, in their dtypes. The gradient of
        ``z`` is channels-first if ``z`` is; the others are contiguous.

    Raises:
        ValueError: If the shapes do not match.
    """
    check_gate(y, weight, bias, z)
    grad_y, grad_z = y.new_empty(y.shape), empty_gate(z)
    has_steps = has_contiguous_steps(z)
    length, channels = z.shape[1:]
    if z.numel() == 0:
        return grad_y, torch.zeros_like(weight), torch.zeros_like(bias), grad_z
    tiles, constants = _tile(z.shape, has_steps, BACKWARD)
    programs = min(tiles, PROGRAMS)
    sums = z.new_empty(2, programs, channels, dtype=torch.float32)
    *strides, aligned = _strides(z.shape, z.stride(), has_steps)
    *grad_strides, grad_aligned = _strides(z.shape, grad_z.stride(), has_steps)
    inputs = (grad_out.contiguous(), y.contiguous(), weight.contiguous(), bias.contiguous(), z)
    sizes = (eps, tiles, length, *strides, *grad_strides)
    with on_device(z):
        _norm_gate_backward[(programs,)](
            *inputs, grad_y, grad_z, sums, *sizes, ALIGNED=aligned, GRAD_ALIGNED=grad_aligned, **constants
        )
    grad_weight, grad_bias = (
        x.sum(0) for x in sums
    )  # separate tensors, as outputs of an operator must not share memory
    return grad_y, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype), grad_z
