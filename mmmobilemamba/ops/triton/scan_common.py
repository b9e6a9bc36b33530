"""What the kernels of the bidirectional selective scan share.

A program has one image, one chunk of the sequence and a block of channels, in both directions, so that it
alone writes its part of the output: there are no atomics. The chunk is a tensor (segments, steps, channels):
channels are the lanes of a warp, and each warp has a segment, whose steps are in its registers. The linear
recurrence is an associative scan over the steps, and one over the segments for what enters each. Of a
sequence of several chunks, the states that enter each are computed first. All arithmetic is float32. Names
are those of :func:`~mmmobilemamba.ops.selective_scan.naive.selective_scan_naive`.
"""

from typing import Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

FEW = 2  # chunks up to which a program of the forward pass walks through its sequence in any case
ENOUGH = 512  # programs from which on it does so however long the sequence
CHANNELS = 32  # of a program: the lanes of a warp
MIN_SIDE = 16  # of matrices that tensor cores multiply
# Three products of tensor cores have the precision of float32; AMD's have no such form.
PRECISION = 'ieee' if torch.version.hip else 'tf32x3'

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def combine(left_1, state_1, left_2, state_2):
    """Two runs of steps as one: how much of a state is left after them, and what has entered."""
    return left_1 * left_2, left_2 * state_1 + state_2


@triton.jit
def combine_before(left_1, state_1, left_before_1, before_1, left_2, state_2, left_before_2, before_2):
    """The same, and before the last step."""
    left, state = combine(left_1, state_1, left_2, state_2)
    left_before, before = combine(left_1, state_1, left_before_2, before_2)
    return left, state, left_before, before


@triton.jit
def scan_segments(left, state, T: tl.constexpr, reverse: tl.constexpr):
    """Scan of whole segments, (S, W), of which the steps are scanned: after each and before each."""
    is_last = (tl.arange(0, T) == T - 1)[None, :, None]
    left = tl.sum(tl.where(is_last, left, 0.0), 1)
    state = tl.sum(tl.where(is_last, state, 0.0), 1)
    one, zero = tl.full(left.shape, 1.0, tl.float32), tl.zeros(left.shape, tl.float32)
    return tl.associative_scan((left, state, one, zero), 0, combine_before, reverse)


@triton.jit
def softplus(v):
    """log(1 + exp(v)), and exp(-abs(v)).

    The logarithm is a polynomial of least relative error, 3.4e-7, also where exp(v) is small.
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
    """Matrix product; with 'tf32x3' of tensor cores, three times, for the precision of float32.

    Triton has its own such form, which takes two instructions for each number of the output to be infinite
    where this one is NaN.
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
    """Image, chunk, its first position, and the channels.

    The blocks of channels of an image, which share the cache lines of its x_dbl, are neighbours.
    """
    block, number = locate_block(E, W)
    chunk = number % chunks
    return (number // chunks).to(tl.int64), chunk, chunk * SIZE, block * W + tl.arange(0, W)


@triton.jit
def locate_block(E: tl.constexpr, W: tl.constexpr):
    """Number of the program's block of channels, and of the program among those of the block."""
    blocks: tl.constexpr = (E + W - 1) // W
    return tl.program_id(0) % blocks, tl.program_id(0) // blocks


@triton.jit
def positions(S: tl.constexpr, T: tl.constexpr, reverse: tl.constexpr):
    """In a chunk, (S, T)."""
    i = tl.arange(0, T)[None, :]
    return tl.arange(0, S)[:, None] * T + (T - 1 - i if reverse else i)


@triton.jit
def is_below(i, count, EVEN: tl.constexpr):
    """Which positions there are; if known to be all, it costs nothing."""
    return tl.full(i.shape, True, tl.int1) if EVEN else i < count


@triton.jit
def is_there(i, count, e, E: tl.constexpr, EVEN: tl.constexpr):
    """Which elements of (S, T, W) there are."""
    return is_below(i, count, EVEN)[:, :, None] & is_below(e, E, EVEN)[None, None, :]


@triton.jit
def load_rows(x, i, count, e, E: tl.constexpr, EVEN: tl.constexpr, step: tl.constexpr, policy: tl.constexpr):
    """Rows ``i`` below ``count`` of a matrix at ``x``, (S, T, W)."""
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
    """What is projected for the step sizes in one direction, (S * T, K)."""
    r = tl.arange(0, K)
    there = is_below(i, count, EVEN)[:, None] & (r < R)[None, :]
    return tl.load(row + i[:, None] * (2 * (R + 2)) + r[None, :], there, 0.0).to(tl.float32)


@triton.jit
def load_dt_weight(dt_weight, e, E: tl.constexpr, k, R: tl.constexpr, K: tl.constexpr):
    """(K, W)."""
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
    """``x`` in the registers that ``other``, which is finite, has been loaded to.

    Else a product of matrices would keep its own order of elements, of which the scan comes out slow.
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
    """Of each chunk: how much of a state is left after it, and what has entered; (N, 2, chunks, E).

    With ``ADJOINT``, x is the gradient of y, and what enters is the state's gradient, from the other end.
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
    """Turn what enters in each chunk into the state that enters the chunk, in place."""
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
    """What all kernels take, for the inputs of the operator.

    Args:
        tile (tuple[int, int]): Steps of a segment and segments of a chunk, at most.
        walks (bool): Whether a program may walk through all chunks of its sequence. Defaults to False.
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
        """A tensor in float32."""
        return self.u.new_empty(shape, dtype=torch.float32)

    def carries(self, x: Tensor, adjoint: bool) -> Optional[Tensor]:
        """States that enter the chunks, (N, 2, chunks, E); of the adjoint, gradients from the other end."""
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
