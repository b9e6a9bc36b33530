"""Code shared by the kernels of the bidirectional selective scan.

A program processes one image, one chunk of the sequence and a block of channels in both directions. It is the
only one to write its part of the output, so no atomics are needed. The chunk is a tensor (segments, steps,
channels): channels are the lanes of a warp, and each warp has a segment, whose steps are in its registers.
The linear recurrence is an associative scan over the steps, followed by one over the segments for the states
that enter them. If a sequence has several chunks, the states that enter the chunks are computed first. All
arithmetic is float32. Names are those of
:func:`~mmmobilemamba.ops.selective_scan.naive.selective_scan_naive`.
"""

from typing import Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

FEW = 2  # a program of the forward pass always processes sequences of up to this many chunks as a whole
ENOUGH = 512  # with this many programs, it processes sequences of any length as a whole
CHANNELS = 32  # channels of a program: the lanes of a warp
MIN_SIDE = 16  # least side of matrices for tensor cores
# Three TF32 products have the precision of float32; this form is not available on AMD GPUs.
PRECISION = 'ieee' if torch.version.hip else 'tf32x3'

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def combine(left_1, state_1, left_2, state_2):
    """Combine two runs of steps: the share of the initial state that is left, and the input that is added."""
    return left_1 * left_2, left_2 * state_1 + state_2


@triton.jit
def combine_before(left_1, state_1, left_before_1, before_1, left_2, state_2, left_before_2, before_2):
    """As :func:`combine`, and the same before the last step."""
    left, state = combine(left_1, state_1, left_2, state_2)
    left_before, before = combine(left_1, state_1, left_before_2, before_2)
    return left, state, left_before, before


@triton.jit
def scan_segments(left, state, T: tl.constexpr, reverse: tl.constexpr):
    """Scan over segments whose steps are already scanned: left and state after and before each, (S, W)."""
    is_last = (tl.arange(0, T) == T - 1)[None, :, None]
    left = tl.sum(tl.where(is_last, left, 0.0), 1)
    state = tl.sum(tl.where(is_last, state, 0.0), 1)
    one, zero = tl.full(left.shape, 1.0, tl.float32), tl.zeros(left.shape, tl.float32)
    return tl.associative_scan((left, state, one, zero), 0, combine_before, reverse)


@triton.jit
def softplus(v):
    """log(1 + exp(v)), and exp(-abs(v)).

    The logarithm is a minimax polynomial with a relative error of 3.4e-7, also where exp(v) is small.
    """
    e = tl.exp2(tl.abs(v) * -LOG2_E)
    p = -0.00853909738 * e + 0.0440892428
    p = p * e - 0.10768117
    p = p * e + 0.177452028
    p = p * e - 0.244954482
    p = p * e + 0.332754761
    p = p * e - 0.499974042
    p = p * e + 0.999999821
    return p * e + tl.maximum(v, 0.0), e


@triton.jit
def matmul(a, b, PRECISION: tl.constexpr):
    """Matrix product; 'tf32x3' uses three TF32 products for the precision of float32.

    Triton's own 'tf32x3' spends two instructions per output element to return infinity where this one
    returns NaN.
    """
    if PRECISION == 'tf32x3':
        a_high, b_high = _round_to_tf32(a), _round_to_tf32(b)
        total = tl.dot(a - a_high, b_high, input_precision='tf32')
        total = tl.dot(a_high, b - b_high, total, input_precision='tf32')
        return tl.dot(a_high, b_high, total, input_precision='tf32')
    else:
        return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _round_to_tf32(x):
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def locate_program(chunks, E: tl.constexpr, SIZE: tl.constexpr, W: tl.constexpr):
    """Image, chunk, first position of the chunk, and channels.

    The blocks of channels of an image are adjacent programs, as they share the cache lines of its x_dbl.
    """
    block, number = locate_block(E, W)
    chunk = number % chunks
    return (number // chunks).to(tl.int64), chunk, chunk * SIZE, block * W + tl.arange(0, W)


@triton.jit
def locate_block(E: tl.constexpr, W: tl.constexpr):
    """Index of the program's block of channels, and index of the program within the block."""
    blocks: tl.constexpr = (E + W - 1) // W
    return tl.program_id(0) % blocks, tl.program_id(0) // blocks


@triton.jit
def positions(S: tl.constexpr, T: tl.constexpr, reverse: tl.constexpr):
    """Positions within a chunk, (S, T); with ``reverse``, the steps of each segment are reversed."""
    i = tl.arange(0, T)[None, :]
    return tl.arange(0, S)[:, None] * T + (T - 1 - i if reverse else i)


@triton.jit
def is_below(i, count, EVEN: tl.constexpr):
    """Mask of the positions below ``count``; all true, at no cost, if ``EVEN``."""
    return tl.full(i.shape, True, tl.int1) if EVEN else i < count


@triton.jit
def is_there(i, count, e, E: tl.constexpr, EVEN: tl.constexpr):
    """Mask of the elements of (S, T, W) that exist."""
    return is_below(i, count, EVEN)[:, :, None] & is_below(e, E, EVEN)[None, None, :]


@triton.jit
def load_rows(x, i, count, e, E: tl.constexpr, EVEN: tl.constexpr, step: tl.constexpr, policy: tl.constexpr):
    """Rows ``i`` of a matrix at ``x``, (S, T, W); 0 from ``count`` on."""
    there = is_there(i, count, e, E, EVEN)
    return tl.load(x + i[:, :, None] * step + e[None, None, :], there, 0.0, eviction_policy=policy).to(
        tl.float32
    )


@triton.jit
def store_rows(x, i, count, e, E: tl.constexpr, EVEN: tl.constexpr, value):
    tl.store(x + i[:, :, None] * E + e[None, None, :], value, is_there(i, count, e, E, EVEN))


@triton.jit
def load_B_or_C(row, i, count, EVEN: tl.constexpr, R: tl.constexpr):
    """B or C, (S, T)."""
    return tl.load(row + i * (2 * (R + 2)), is_below(i, count, EVEN), 0.0).to(tl.float32)


@triton.jit
def load_channels(x, e, E: tl.constexpr, k):
    return tl.load(x + k * E + e, e < E, 0.0).to(tl.float32)


@triton.jit
def load_steps(row, i, count, EVEN: tl.constexpr, R: tl.constexpr, K: tl.constexpr):
    """Inputs of the step-size projection of one direction, (S * T, K)."""
    r = tl.arange(0, K)
    there = is_below(i, count, EVEN)[:, None] & (r < R)[None, :]
    return tl.load(row + i[:, None] * (2 * (R + 2)) + r[None, :], there, 0.0).to(tl.float32)


@triton.jit
def load_dt_weight(dt_weight, e, E: tl.constexpr, k, R: tl.constexpr, K: tl.constexpr):
    """Weight of the step-size projection of direction ``k``, (K, W)."""
    r = tl.arange(0, K)
    there = (e < E)[None, :] & (r < R)[:, None]
    return tl.load(dt_weight + (k * E + e[None, :]) * R + r[:, None], there, 0.0).to(tl.float32)


@triton.jit
def project(
    row, count, dt_weight, dt_bias, e, E: tl.constexpr, EVEN: tl.constexpr, k, R: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr, reverse: tl.constexpr,
):  # fmt: skip
    """Step sizes before the softplus, (S, T, W)."""
    i = tl.arange(0, S * T)
    i = i // T * T + T - 1 - i % T if reverse else i
    steps = load_steps(row, i, count, EVEN, R, K)
    weight = load_dt_weight(dt_weight, e, E, k, R, K)
    v = matmul(steps, weight, PRECISION) + load_channels(dt_bias, e, E, k)[None, :]
    return tl.reshape(v, [S, T, e.shape[0]])


@triton.jit
def laid_out_as(x, other):
    """``x`` in the register layout of ``other``, which must be finite.

    Otherwise the result of a matrix product would keep its own layout, in which the scan is slow.
    """
    return tl.fma(other, tl.zeros(other.shape, tl.float32), x)


@triton.jit
def load_carry(carries, n, k, chunk, chunks, e, E: tl.constexpr, CARRY: tl.constexpr):
    """The state that enters a chunk, (W)."""
    if CARRY:
        return tl.load(carries + ((n * 2 + k) * chunks + chunk) * E + e, e < E, 0.0)
    else:
        return tl.zeros([e.shape[0]], tl.float32)


@triton.jit(do_not_specialize=['x'])
def _scan_summaries(
    x, x_dbl, dt_weight, A, dt_bias, lefts, states, L, chunks, x_batch, E: tl.constexpr, x_step: tl.constexpr,
    R: tl.constexpr, K: tl.constexpr, S: tl.constexpr, T: tl.constexpr, W: tl.constexpr,
    EVEN: tl.constexpr, PRECISION: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """For each chunk, the share of the initial state that is left and the added input, (N, 2, chunks, E).

    With ``ADJOINT``, ``x`` is the gradient of y and the state is its gradient, scanned from the other end.
    """
    n, chunk, start, e = locate_program(chunks, E, S * T, W)
    count = L - start
    x += n * x_batch + start * x_step
    for k in tl.static_range(2):
        i = positions(S, T, (k == 1) != ADJOINT)
        row = x_dbl + ((n * L + start) * 2 + k) * (R + 2)
        v = project(row, count, dt_weight, dt_bias, e, E, EVEN, k, R, K, S, T, PRECISION, (k == 1) != ADJOINT)
        value = load_rows(x, i, count, e, E, EVEN, x_step, 'evict_last' if k == 0 else 'evict_first')
        delta, _ = softplus(laid_out_as(v, value))
        decay = tl.exp2(delta * (load_channels(A, e, E, k) * LOG2_E)[None, None, :])
        if ADJOINT:
            entering = decay * load_B_or_C(row + R + 1, i, count, EVEN, R)[:, :, None] * value
        else:
            entering = delta * load_B_or_C(row + R, i, count, EVEN, R)[:, :, None] * value
        left, state = tl.associative_scan((decay, entering), 1, combine)
        left, state, _, _ = scan_segments(left, state, T, (k == 1) != ADJOINT)
        is_last = tl.arange(0, S)[:, None] == (0 if (k == 1) != ADJOINT else S - 1)
        place = ((n * 2 + k) * chunks + chunk) * E + e
        tl.store(lefts + place, tl.sum(tl.where(is_last, left, 0.0), 0), e < E)
        tl.store(states + place, tl.sum(tl.where(is_last, state, 0.0), 0), e < E)


@triton.jit
def _scan_link(lefts, states, chunks, E: tl.constexpr, W: tl.constexpr, ADJOINT: tl.constexpr):
    """Replace the input added in each chunk by the state that enters the chunk, in place."""
    e = tl.program_id(1) * W + tl.arange(0, W)
    is_reverse = (tl.program_id(0) % 2 == 1) != ADJOINT
    h = tl.zeros([W], tl.float32)
    for number in range(chunks):
        chunk = tl.where(is_reverse, chunks - 1 - number, number)
        place = (tl.program_id(0).to(tl.int64) * chunks + chunk) * E + e
        left, state = tl.load(lefts + place, e < E, 0.0), tl.load(states + place, e < E, 0.0)
        tl.store(states + place, h, e < E)
        h = left * h + state


class Launch:
    """Grid and common arguments of the kernels, for the inputs of the operator.

    Args:
        tile (tuple[int, int]): Most steps of a segment and segments of a chunk.
        u, x_dbl, dt_weight, A, D, dt_bias (Tensor): As in :func:`~mmmobilemamba.ops.selective_scan`.
        walks (bool): Whether a program may process all chunks of its sequence. Defaults to False.
    """

    def __init__(self, tile, u, x_dbl, dt_weight, A, D, dt_bias, walks=False):
        batch, length, channels = u.shape
        self.u = u if u.stride(2) == 1 else u.contiguous()
        self.parameters = [x.contiguous() for x in (x_dbl, dt_weight, A, D, dt_bias)]
        rank, self.blocks = dt_weight.shape[2], triton.cdiv(channels, CHANNELS)
        steps = min(tile[0], max(triton.next_power_of_2(length), MIN_SIDE))
        segments = min(triton.next_power_of_2(triton.cdiv(length, steps)), tile[1])
        chunks = triton.cdiv(length, steps * segments)
        walks = walks and (chunks <= FEW or batch * self.blocks >= ENOUGH)
        self.turns, self.chunks = (chunks, 1) if walks else (1, chunks)
        self.grid = (self.blocks * batch * self.chunks,)
        self.constants = dict(E=channels, R=rank, K=max(triton.next_power_of_2(rank), MIN_SIDE))
        self.constants.update(S=segments, T=steps, W=CHANNELS, PRECISION=PRECISION, num_warps=segments)
        self.constants['EVEN'] = length % (steps * segments) == 0 and channels % CHANNELS == 0

    def empty(self, *shape: int) -> Tensor:
        """Uninitialised float32 tensor."""
        return self.u.new_empty(shape, dtype=torch.float32)

    def carries(self, x: Tensor, adjoint: bool) -> Optional[Tensor]:
        """States that enter the chunks, (N, 2, chunks, E), or None if there is only one chunk.

        Args:
            x (Tensor): ``u``, or with ``adjoint`` the gradient of the output, (N, L, E).
            adjoint (bool): Compute the gradients of the states, which enter from the other end.
        """
        if self.chunks == 1:
            return None
        x_dbl, dt_weight, A, _, dt_bias = self.parameters
        batch, length, channels = x.shape
        lefts, states = (self.empty(batch, 2, self.chunks, channels) for _ in range(2))
        tensors = (x, x_dbl, dt_weight, A, dt_bias, lefts, states)
        sizes = dict(L=length, chunks=self.chunks, x_batch=x.stride(0), x_step=x.stride(1))
        _scan_summaries[self.grid](*tensors, **sizes, ADJOINT=adjoint, **self.constants)
        grid = (2 * batch, self.blocks)
        _scan_link[grid](lefts, states, self.chunks, E=channels, W=CHANNELS, ADJOINT=adjoint, num_warps=1)
        return states
