"""The bidirectional selective scan in Triton, forward.

If a sequence has few chunks, or the batch alone provides enough programs, one program processes all chunks of
its sequence. Otherwise each chunk has its own program. The choice may change the last bits of the output.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import on_device
from .scan_common import (
    LOG2_E,
    Launch,
    combine,
    is_below,
    laid_out_as,
    load_carry,
    load_channels,
    load_rows,
    locate_program,
    positions,
    project,
    scan_segments,
    softplus,
    store_rows,
)

TILE = (32, 4)  # most steps of a segment and segments of a chunk, the fastest measured on an H200
# Registers per thread at which four programs of the forward pass fit on a multiprocessor of an NVIDIA GPU.
REGISTERS = {} if torch.version.hip else dict(maxnreg=128)


@triton.jit
def _states(decay, entering, h, S: tl.constexpr, T: tl.constexpr, reverse: tl.constexpr):
    """States after each step, (S, T, W), and the last state, (W), from the entering state ``h``, (W).

    With ``reverse``, the scan starts at the last segment; the steps of each segment are already reversed.
    """
    left, state = tl.associative_scan((decay, entering), 1, combine)
    left_after, after, left_before, before = scan_segments(left, state, T, reverse)
    is_last = tl.arange(0, S)[:, None] == (0 if reverse else S - 1)
    last = tl.sum(tl.where(is_last, after + left_after * h[None, :], 0.0), 0)
    return state + left * (before + left_before * h[None, :])[:, None, :], last


@triton.jit
def _load_B_and_C(row, i, count, EVEN: tl.constexpr, R: tl.constexpr):
    """B and C, (S, T) each, in one load whose elements the threads exchange."""
    pair = tl.arange(0, 2)[None, None, :]
    there = is_below(i, count, EVEN)[:, :, None] & (pair < 2)
    place = row + R + i[:, :, None] * (2 * (R + 2)) + pair
    return tl.split(tl.load(place, there, 0.0).to(tl.float32))


# The pointers are not specialised, as each lane would then load four adjacent channels. Nor is the number of
# turns: without a loop the compiler issues all loads at once, which costs registers.
@triton.jit(do_not_specialize=['u', 'y', 'turns'])
def _scan_forward(
    u, x_dbl, dt_weight, A, D, dt_bias, carries, y, L, chunks, turns, u_batch, E: tl.constexpr,
    u_step: tl.constexpr, R: tl.constexpr, K: tl.constexpr, S: tl.constexpr, T: tl.constexpr,
    W: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr, CARRY: tl.constexpr,
):  # fmt: skip
    n, chunk, start, e = locate_program(chunks, E, S * T, W)
    u += n * u_batch
    y += n * L * E
    x_dbl += n * L * (2 * (R + 2))
    skip = load_channels(D, e, E, 0) + load_channels(D, e, E, 1)
    for k in tl.static_range(2):
        i = positions(S, T, k == 1)
        rate = load_channels(A, e, E, k) * LOG2_E
        h = load_carry(carries, n, k, chunk, chunks, e, E, CARRY)
        for turn in range(turns):
            first = (start + (turns - 1 - turn if k == 1 else turn) * (S * T)).to(tl.int64)
            count = (L - first).to(tl.int32)
            row = x_dbl + (first * 2 + k) * (R + 2)
            v = project(row, count, dt_weight, dt_bias, e, E, EVEN, k, R, K, S, T, PRECISION, k == 1)
            x_at, y_at = u + first * u_step, y + first * E
            x = load_rows(x_at, i, count, e, E, EVEN, u_step, 'evict_last' if k == 0 else 'evict_first')
            delta = softplus(laid_out_as(v, x))[0]
            decay = tl.exp2(delta * rate[None, None, :])
            B, C = _load_B_and_C(row, i, count, EVEN, R)
            state, h = _states(decay, delta * B[:, :, None] * x, h, S, T, k == 1)
            # Directions are summed in memory: in registers, only half as many programs would fit.
            if k == 0:
                x = load_rows(x_at, i, count, e, E, EVEN, u_step, '')
                store_rows(y_at, i, count, e, E, EVEN, skip[None, None, :] * x + C[:, :, None] * state)
            else:
                first_way = load_rows(y_at, i, count, e, E, EVEN, E, '')
                store_rows(y_at, i, count, e, E, EVEN, first_way + C[:, :, None] * state)
        if k == 0:
            tl.debug_barrier()  # the second direction reads values that other threads wrote


def forward(u: Tensor, *parameters: Tensor) -> Tensor:
    """Equal to :func:`~mmmobilemamba.ops.selective_scan.naive.selective_scan_naive`, without gradients.

    Args:
        u (Tensor): (N, L, E).
        *parameters (Tensor): x_dbl, dt_weight, A, D and dt_bias of
            :func:`~mmmobilemamba.ops.selective_scan`.

    Returns:
        Tensor: (N, L, E), float32.
    """
    launch = Launch(TILE, u, *parameters, walks=True)
    u = launch.u
    y = launch.empty(*u.shape)
    sizes = (u.shape[1], launch.chunks, launch.turns, u.stride(0))
    with on_device(u):
        tensors = (u, *launch.parameters, launch.carries(u, adjoint=False), y)
        constants = dict(launch.constants, CARRY=launch.chunks > 1)
        if launch.constants['EVEN']:  # masked loads need more registers
            constants.update(REGISTERS)
        _scan_forward[launch.grid](*tensors, *sizes, u_step=u.stride(1), num_stages=1, **constants)
    return y
