"""The bidirectional selective scan in Triton, forward.

Where the chunks of a sequence are few, or there are programs enough without, one program walks through all
of them. Which of both it is may change the last bits of an output.
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

TILE = (32, 4)  # steps of a segment and segments of a chunk, at most, as measured best on an H200
# So few registers a thread that four programs of the forward pass share a multiprocessor of NVIDIA's.
REGISTERS = {} if torch.version.hip else dict(maxnreg=128)


@triton.jit
def _states(decay, entering, h, S: tl.constexpr, T: tl.constexpr, reverse: tl.constexpr):
    """States after each step, (S, T, W), from the state ``h`` (W) on that enters the chunk, and the last (W).

    With ``reverse``, the sequence is walked from its end: the last segment comes first, and the steps of each
    are in this order already.
    """
    left, state = tl.associative_scan((decay, entering), 1, combine)
    left_after, after, left_before, before = scan_segments(left, state, T, reverse)
    is_last = tl.arange(0, S)[:, None] == (0 if reverse else S - 1)
    last = tl.sum(tl.where(is_last, after + left_after * h[None, :], 0.0), 0)
    return state + left * (before + left_before * h[None, :])[:, None, :], last


@triton.jit
def _load_B_and_C(row, i, count, EVEN: tl.constexpr, R: tl.constexpr):
    """Both, (S, T) each, in one load, whose elements threads share out among themselves."""
    pair = tl.arange(0, 2)[None, None, :]
    there = is_below(i, count, EVEN)[:, :, None] & (pair < 2)
    place = row + R + i[:, :, None] * (2 * (R + 2)) + pair
    return tl.split(tl.load(place, there, 0.0).to(tl.float32))


# The bases of sequences are not specialized: it would give each lane four neighbouring channels. Nor is the
# number of turns: without a loop the compiler starts all loads at once, for which it takes registers.
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
            # The sum of the directions is in memory, as it would take the registers of half of the programs.
            if k == 0:
                x = load_rows(x_at, i, count, e, E, EVEN, u_step, '')
                store_rows(y_at, i, count, e, E, EVEN, skip[None, None, :] * x + C[:, :, None] * state)
            else:
                first_way = load_rows(y_at, i, count, e, E, EVEN, E, '')
                store_rows(y_at, i, count, e, E, EVEN, first_way + C[:, :, None] * state)
        if k == 0:
            tl.debug_barrier()  # the second direction reads what other threads may have written


def forward(u: Tensor, *parameters: Tensor) -> Tensor:
    """Equal to :func:`~mmmobilemamba.ops.selective_scan.naive.selective_scan_naive`, without gradients."""
    launch = Launch(TILE, u, *parameters, walks=True)
    u = launch.u
    y = launch.empty(*u.shape)
    sizes = (u.shape[1], launch.chunks, launch.turns, u.stride(0))
    with on_device(u):
        tensors = (u, *launch.parameters, launch.carries(u, adjoint=False), y)
        constants = dict(launch.constants, CARRY=launch.chunks > 1)
        if launch.constants['EVEN']:  # else they would not do
            constants.update(REGISTERS)
        _scan_forward[launch.grid](*tensors, *sizes, u_step=u.stride(1), num_stages=1, **constants)
    return y
