"""The bidirectional selective scan in Triton, for GPUs: forward and backward, without atomics.

A program has one image, one chunk of the sequence and a block of channels, in both directions, so that it
alone writes its part of the output. The chunk is a tensor (segments, steps, channels): channels are the
lanes of a warp, and each warp has a segment, whose steps are in its registers. The linear recurrence is an
associative scan over the steps, and one over the segments for what enters each. Of a sequence of several
chunks, the states that enter each are computed first; where they are few, or there are programs enough
without, the forward pass has one program walk through all of them. All arithmetic is float32. Names are
those of :func:`~.naive.selective_scan_naive`. Which of both it is may change the last bits of an output.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl

# Steps of a segment and segments of a chunk, at most, as measured best on an H200: with more, a chunk of the
# backward pass, which has more to keep, does not fit into the registers.
FORWARD = (32, 4)
BACKWARD = (16, 4)
FEW = 2  # chunks up to which a program of the forward pass walks through its sequence in any case
ENOUGH = 512  # programs from which on it does so however long the sequence
CHANNELS = 32  # of a program: the lanes of a warp
MIN_SIDE = 16  # of matrices that tensor cores multiply

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _combine(left_1, state_1, left_2, state_2):
    """Two runs of steps as one: how much of a state is left after them, and what has entered."""
    return left_1 * left_2, left_2 * state_1 + state_2


@triton.jit
def _combine_before(left_1, state_1, left_before_1, before_1, left_2, state_2, left_before_2, before_2):
    """The same, and before the last step."""
    left, state = _combine(left_1, state_1, left_2, state_2)
    left_before, before = _combine(left_1, state_1, left_before_2, before_2)
    return left, state, left_before, before


@triton.jit
def _flip(x, BITS: tl.constexpr):
    """The steps of every segment, (S, T, W), from the last to the first. It only renames registers."""
    S: tl.constexpr = x.shape[0]
    T: tl.constexpr = x.shape[1]
    W: tl.constexpr = x.shape[2]
    for bit in tl.static_range(BITS):
        pairs = tl.permute(tl.reshape(x, [S, T >> (bit + 1), 2, W << bit]), (0, 1, 3, 2))
        even, odd = tl.split(pairs)
        x = tl.reshape(tl.permute(tl.join(odd, even), (0, 1, 3, 2)), [S, T, W])
    return x


@triton.jit
def _scan_segments(left, state, T: tl.constexpr, reverse: tl.constexpr):
    """Scan of whole segments, (S, W), of which the steps are scanned: after each and before each."""
    is_last = (tl.arange(0, T) == T - 1)[None, :, None]
    left = tl.sum(tl.where(is_last, left, 0.0), 1)
    state = tl.sum(tl.where(is_last, state, 0.0), 1)
    one, zero = tl.full(left.shape, 1.0, tl.float32), tl.zeros(left.shape, tl.float32)
    return tl.associative_scan((left, state, one, zero), 0, _combine_before, reverse)


@triton.jit
def _states(decay, entering, h, S: tl.constexpr, T: tl.constexpr, reverse: tl.constexpr):
    """States after each step, (S, T, W), from the state ``h`` (W) on that enters the chunk, and the last (W).

    With ``reverse``, the sequence is walked from its end: the last segment comes first, and the steps of each
    are in this order already.
    """
    left, state = tl.associative_scan((decay, entering), 1, _combine)
    left_after, after, left_before, before = _scan_segments(left, state, T, reverse)
    is_last = tl.arange(0, S)[:, None] == (0 if reverse else S - 1)
    last = tl.sum(tl.where(is_last, after + left_after * h[None, :], 0.0), 0)
    return state + left * (before + left_before * h[None, :])[:, None, :], last


@triton.jit
def _states_before(decay, entering, h, T: tl.constexpr, reverse: tl.constexpr):
    """States before each step."""
    one, zero = tl.full(decay.shape, 1.0, tl.float32), tl.zeros(decay.shape, tl.float32)
    parts = (decay, entering, one, zero)
    left, state, left_before, before = tl.associative_scan(parts, 1, _combine_before)
    _, _, left_segment, before_segment = _scan_segments(left, state, T, reverse)
    return before + left_before * (before_segment + left_segment * h[None, :])[:, None, :]


@triton.jit
def _softplus(v):
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
def _product(a, b, PRECISION: tl.constexpr):
    """Matrix product; with 'tf32x3' of tensor cores, three times, for the precision of float32.

    Triton has its own such form, which takes two instructions for each number of the output to be infinite
    where this one is NaN.
    """
    if PRECISION == 'tf32x3':
        a_high, b_high = _round_to_tf32(a), _round_to_tf32(b)
        product = tl.dot(a - a_high, b_high, input_precision='tf32')
        product = tl.dot(a_high, b - b_high, product, input_precision='tf32')
        return tl.dot(a_high, b_high, product, input_precision='tf32')
    else:
        return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _round_to_tf32(x):
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def _program(chunks, E: tl.constexpr, SIZE: tl.constexpr, W: tl.constexpr):
    """Image, chunk, its first position, and the channels.

    The blocks of channels of an image, which share the cache lines of its rows, are neighbours.
    """
    block, number = _block(E, W)
    chunk = number % chunks
    return (number // chunks).to(tl.int64), chunk, chunk * SIZE, block * W + tl.arange(0, W)


@triton.jit
def _block(E: tl.constexpr, W: tl.constexpr):
    """Number of the program's block of channels, and of the program among those of the block."""
    blocks: tl.constexpr = (E + W - 1) // W
    return tl.program_id(0) % blocks, tl.program_id(0) // blocks


@triton.jit
def _positions(S: tl.constexpr, T: tl.constexpr, reverse: tl.constexpr):
    """In a chunk, (S, T)."""
    i = tl.arange(0, T)[None, :]
    return tl.arange(0, S)[:, None] * T + (T - 1 - i if reverse else i)


@triton.jit
def _below(i, count, EVEN: tl.constexpr):
    """Which positions there are; if known to be all, it costs nothing."""
    return tl.full(i.shape, True, tl.int1) if EVEN else i < count


@triton.jit
def _there(i, count, e, E: tl.constexpr, EVEN: tl.constexpr):
    """Which numbers of (S, T, W) there are."""
    return _below(i, count, EVEN)[:, :, None] & _below(e, E, EVEN)[None, None, :]


@triton.jit
def _load(x, i, count, e, E: tl.constexpr, EVEN: tl.constexpr, step: tl.constexpr, policy: tl.constexpr):
    """Rows ``i`` below ``count`` of a matrix at ``x``, (S, T, W)."""
    there = _there(i, count, e, E, EVEN)
    return tl.load(x + i[:, :, None] * step + e[None, None, :], there, 0.0, eviction_policy=policy).to(
        tl.float32
    )


@triton.jit
def _store(x, i, count, e, E: tl.constexpr, EVEN: tl.constexpr, value):
    tl.store(x + i[:, :, None] * E + e[None, None, :], value, _there(i, count, e, E, EVEN))


@triton.jit
def _load_weights(row, i, count, EVEN: tl.constexpr, R: tl.constexpr):
    """B or C, (S, T)."""
    return tl.load(row + i * (2 * (R + 2)), _below(i, count, EVEN), 0.0).to(tl.float32)


@triton.jit
def _load_B_and_C(row, i, count, EVEN: tl.constexpr, R: tl.constexpr):
    """Both, (S, T) each, in one load, whose numbers threads share out among themselves."""
    pair = tl.arange(0, 2)[None, None, :]
    there = _below(i, count, EVEN)[:, :, None] & (pair < 2)
    place = row + R + i[:, :, None] * (2 * (R + 2)) + pair
    return tl.split(tl.load(place, there, 0.0).to(tl.float32))


@triton.jit
def _load_channels(x, e, E: tl.constexpr, k):
    return tl.load(x + k * E + e, e < E, 0.0).to(tl.float32)


@triton.jit
def _load_steps(row, i, count, EVEN: tl.constexpr, R: tl.constexpr, K: tl.constexpr):
    """What is projected for the step sizes in one direction, (S * T, K)."""
    r = tl.arange(0, K)
    there = _below(i, count, EVEN)[:, None] & (r < R)[None, :]
    return tl.load(row + i[:, None] * (2 * (R + 2)) + r[None, :], there, 0.0).to(tl.float32)


@triton.jit
def _load_weight(dt_weight, e, E: tl.constexpr, k, R: tl.constexpr, K: tl.constexpr):
    """(K, W)."""
    r = tl.arange(0, K)
    there = (e < E)[None, :] & (r < R)[:, None]
    return tl.load(dt_weight + (k * E + e[None, :]) * R + r[:, None], there, 0.0).to(tl.float32)


@triton.jit
def _project(
    row, count, dt_weight, dt_bias, e, E: tl.constexpr, EVEN: tl.constexpr, k, R: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr, reverse: tl.constexpr,
):  # fmt: skip
    """Step sizes before the softplus, (S, T, W)."""
    i = tl.arange(0, S * T)
    i = i // T * T + T - 1 - i % T if reverse else i
    steps = _load_steps(row, i, count, EVEN, R, K)
    weight = _load_weight(dt_weight, e, E, k, R, K)
    v = _product(steps, weight, PRECISION) + _load_channels(dt_bias, e, E, k)[None, :]
    return tl.reshape(v, [S, T, e.shape[0]])


@triton.jit
def _laid_out_as(x, other):
    """``x`` in the registers that ``other``, which is finite, has been loaded to.

    Else a product of matrices would keep its own order of numbers, of which the scan comes out slow.
    """
    return tl.fma(other, tl.zeros(other.shape, tl.float32), x)


@triton.jit
def _load_carry(carries, n, k, chunk, chunks, e, E: tl.constexpr, CARRY: tl.constexpr):
    """The state that enters a chunk, (W)."""
    if CARRY:
        return tl.load(carries + ((n * 2 + k) * chunks + chunk) * E + e, e < E, 0.0)
    else:
        return tl.zeros([e.shape[0]], tl.float32)


# The bases of sequences are not specialized: it would give each lane four neighbouring channels. Nor is the
# number of turns: without a loop the compiler starts all loads at once, for which it takes registers.
@triton.jit(do_not_specialize=['u', 'y', 'turns'])
def _forward(
    u, rows, dt_weight, A, D, dt_bias, carries, y, L, chunks, turns, u_batch, E: tl.constexpr,
    u_step: tl.constexpr, R: tl.constexpr, K: tl.constexpr, S: tl.constexpr, T: tl.constexpr,
    W: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr, CARRY: tl.constexpr,
):  # fmt: skip
    n, chunk, start, e = _program(chunks, E, S * T, W)
    u += n * u_batch
    y += n * L * E
    rows += n * L * (2 * (R + 2))
    skip = _load_channels(D, e, E, 0) + _load_channels(D, e, E, 1)
    for k in tl.static_range(2):
        i = _positions(S, T, k == 1)
        rate = _load_channels(A, e, E, k) * LOG2_E
        h = _load_carry(carries, n, k, chunk, chunks, e, E, CARRY)
        for turn in range(turns):
            first = (start + (turns - 1 - turn if k == 1 else turn) * (S * T)).to(tl.int64)
            count = (L - first).to(tl.int32)
            row = rows + (first * 2 + k) * (R + 2)
            v = _project(row, count, dt_weight, dt_bias, e, E, EVEN, k, R, K, S, T, PRECISION, k == 1)
            x_at, y_at = u + first * u_step, y + first * E
            x = _load(x_at, i, count, e, E, EVEN, u_step, 'evict_last' if k == 0 else 'evict_first')
            delta = _softplus(_laid_out_as(v, x))[0]
            decay = tl.exp2(delta * rate[None, None, :])
            B, C = _load_B_and_C(row, i, count, EVEN, R)
            state, h = _states(decay, delta * B[:, :, None] * x, h, S, T, k == 1)
            # The sum of the directions is in memory, as it would take the registers of half of the programs.
            if k == 0:
                x = _load(x_at, i, count, e, E, EVEN, u_step, '')
                _store(y_at, i, count, e, E, EVEN, skip[None, None, :] * x + C[:, :, None] * state)
            else:
                first_way = _load(y_at, i, count, e, E, EVEN, E, '')
                _store(y_at, i, count, e, E, EVEN, first_way + C[:, :, None] * state)
        if k == 0:
            tl.debug_barrier()  # the second direction reads what other threads may have written


@triton.jit(do_not_specialize=['x'])
def _summaries(
    x, rows, dt_weight, A, dt_bias, lefts, states, L, chunks, x_batch, E: tl.constexpr, x_step: tl.constexpr,
    R: tl.constexpr, K: tl.constexpr, S: tl.constexpr, T: tl.constexpr, W: tl.constexpr,
    EVEN: tl.constexpr, PRECISION: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """Of each chunk: how much of a state is left after it, and what has entered; (N, 2, chunks, E).

    With ``ADJOINT``, x is the gradient of y, and what enters is the state's gradient, from the other end.
    """
    n, chunk, start, e = _program(chunks, E, S * T, W)
    count = L - start
    x += n * x_batch + start * x_step
    for k in tl.static_range(2):
        i = _positions(S, T, (k == 1) != ADJOINT)
        row = rows + ((n * L + start) * 2 + k) * (R + 2)
        v = _project(
            row, count, dt_weight, dt_bias, e, E, EVEN, k, R, K, S, T, PRECISION, (k == 1) != ADJOINT
        )
        value = _load(x, i, count, e, E, EVEN, x_step, 'evict_last' if k == 0 else 'evict_first')
        delta, _ = _softplus(_laid_out_as(v, value))
        decay = tl.exp2(delta * (_load_channels(A, e, E, k) * LOG2_E)[None, None, :])
        if ADJOINT:
            entering = decay * _load_weights(row + R + 1, i, count, EVEN, R)[:, :, None] * value
        else:
            entering = delta * _load_weights(row + R, i, count, EVEN, R)[:, :, None] * value
        left, state = tl.associative_scan((decay, entering), 1, _combine)
        left, state, _, _ = _scan_segments(left, state, T, (k == 1) != ADJOINT)
        is_last = tl.arange(0, S)[:, None] == (0 if (k == 1) != ADJOINT else S - 1)
        place = ((n * 2 + k) * chunks + chunk) * E + e
        tl.store(lefts + place, tl.sum(tl.where(is_last, left, 0.0), 0), e < E)
        tl.store(states + place, tl.sum(tl.where(is_last, state, 0.0), 0), e < E)


@triton.jit
def _link(lefts, states, chunks, E: tl.constexpr, W: tl.constexpr, ADJOINT: tl.constexpr):
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


@triton.jit(do_not_specialize=['grad_y', 'u', 'grad_u'])
def _backward(
    grad_y, u, rows, dt_weight, A, D, dt_bias, carries, adjoints,
    grad_u, grad_rows, grad_weight, grad_A, grad_D, grad_bias, N, L, chunks, u_batch,
    E: tl.constexpr, u_step: tl.constexpr, R: tl.constexpr, K: tl.constexpr, S: tl.constexpr, T: tl.constexpr,
    W: tl.constexpr, BITS: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr, CARRY: tl.constexpr,
):  # fmt: skip
    block, number = _block(E, W)
    n, chunk, start, e = _program(chunks, E, S * T, W)
    count = L - start
    u += n * u_batch + start * u_step
    grad_y += (n * L + start) * E
    grad_rows += ((block * N + n) * L + start) * (2 * (R + 2))  # of a block of channels
    grad_u += (n * L + start) * E
    sums = number.to(tl.int64) * E  # over a chunk
    for k in tl.static_range(2):
        # In the order of the gradient of the state, which is that of the state from its end.
        i = _positions(S, T, k == 0)
        row = rows + ((n * L + start) * 2 + k) * (R + 2)
        v = _project(row, count, dt_weight, dt_bias, e, E, EVEN, k, R, K, S, T, PRECISION, k == 0)
        gy = _load(grad_y, i, count, e, E, EVEN, E, 'evict_last' if k == 0 else 'evict_first')
        v = _laid_out_as(v, gy)
        delta, exponential = _softplus(v)
        rate = _load_channels(A, e, E, k)
        decay = tl.exp2(delta * (rate * LOG2_E)[None, None, :])
        B = _load_weights(row + R, i, count, EVEN, R)

        flipped = _positions(S, T, k == 1)
        x_flipped = _load(u, flipped, count, e, E, EVEN, u_step, 'evict_last')
        decay_flipped = _laid_out_as(_flip(decay, BITS), x_flipped)
        entering = _flip(delta * B[:, :, None], BITS) * x_flipped
        h = _load_carry(carries, n, k, chunk, chunks, e, E, CARRY)
        before = _states_before(decay_flipped, entering, h, T, k == 1)
        decayed = decay * _laid_out_as(_flip(before, BITS), gy)

        direct = gy * _load_weights(row + R + 1, i, count, EVEN, R)[:, :, None]
        q = _load_carry(adjoints, n, k, chunk, chunks, e, E, CARRY)
        g = direct + _states_before(decay, decay * direct, q, T, k == 0)

        x = _load(u, i, count, e, E, EVEN, u_step, 'evict_first')
        into = g * delta
        grad_v = g * (B[:, :, None] * x + rate[None, None, :] * decayed)
        grad_v *= tl.where(v > 0, 1.0, exponential) / (1.0 + exponential)
        tl.store(grad_A + sums * 2 + k * E + e, tl.sum(tl.sum(into * decayed, 1), 0), e < E)
        tl.store(grad_bias + sums * 2 + k * E + e, tl.sum(tl.sum(grad_v, 1), 0), e < E)
        own_row = grad_rows + k * (R + 2) + i * (2 * (R + 2))
        tl.store(own_row + R, tl.sum(into * x, 2), i < count)
        tl.store(own_row + R + 1, tl.sum(gy * (decayed + delta * B[:, :, None] * x), 2), i < count)
        _store_step_gradients(
            tl.reshape(grad_v, [S * T, W]), row, grad_rows + k * (R + 2),
            grad_weight + (sums * 2 + k * E) * R, dt_weight, count, e, E, EVEN, k, R, K, T, PRECISION, k == 0,
        )  # fmt: skip
        if k == 0:
            skip = _load_channels(D, e, E, 0) + _load_channels(D, e, E, 1)
            _store(grad_u, i, count, e, E, EVEN, into * B[:, :, None] + skip[None, None, :] * gy)
            tl.store(grad_D + sums + e, tl.sum(tl.sum(gy * x, 1), 0), e < E)
            tl.debug_barrier()
        else:
            first = _load(grad_u, i, count, e, E, EVEN, E, '')
            _store(grad_u, i, count, e, E, EVEN, first + into * B[:, :, None])


@triton.jit
def _store_step_gradients(
    grad_v, row, grad_row, grad_weight, dt_weight, count, e, E: tl.constexpr, EVEN: tl.constexpr, k,
    R: tl.constexpr, K: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr, reverse: tl.constexpr,
):  # fmt: skip
    """Gradients of what is projected for the step sizes, and of the weight, from ``grad_v``, (S * T, W)."""
    i, r = tl.arange(0, grad_v.shape[0]), tl.arange(0, K)
    i = i // T * T + T - 1 - i % T if reverse else i
    weight = _load_weight(dt_weight, e, E, k, R, K)
    there = _below(i, count, EVEN)[:, None] & (r < R)[None, :]
    grad_steps = _product(grad_v, tl.trans(weight), PRECISION)
    tl.store(grad_row + i[:, None] * (2 * (R + 2)) + r[None, :], grad_steps, there)
    steps = _load_steps(row, i, count, EVEN, R, K)
    there = (e < E)[:, None] & (r < R)[None, :]
    sums = _product(tl.trans(grad_v), steps, PRECISION)
    tl.store(grad_weight + e[:, None] * R + r[None, :], sums, there)


class _Launch:
    """What all kernels take, for the inputs of the operator.

    Args:
        tile (tuple[int, int]): Steps of a segment and segments of a chunk, at most.
        walks (bool): Whether a program may walk through all chunks of its sequence. Defaults to False.
    """

    def __init__(self, tile, u, rows, dt_weight, A, D, dt_bias, walks=False):
        batch, length, channels = u.shape
        self.u = u if u.stride(2) == 1 else u.contiguous()
        self.parameters = [x.contiguous() for x in (rows, dt_weight, A, D, dt_bias)]
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

    def device(self):
        """Triton launches on the current device, which need not be that of the tensors."""
        return torch.cuda.device(self.u.device) if self.u.is_cuda else nullcontext()

    def empty(self, *shape):
        """A tensor in float32."""
        return self.u.new_empty(shape, dtype=torch.float32)

    def carries(self, x, adjoint):
        """States that enter the chunks, (N, 2, chunks, E); of the adjoint, gradients from the other end."""
        if self.chunks == 1:
            return None
        rows, dt_weight, A, _, dt_bias = self.parameters
        batch, length, channels = x.shape
        lefts, states = (self.empty(batch, 2, self.chunks, channels) for _ in range(2))
        tensors = (x, rows, dt_weight, A, dt_bias, lefts, states)
        sizes = dict(L=length, chunks=self.chunks, x_batch=x.stride(0), x_step=x.stride(1))
        _summaries[self.grid](*tensors, **sizes, ADJOINT=adjoint, **self.constants)
        grid = (2 * batch, self.blocks)
        _link[grid](lefts, states, self.chunks, E=channels, W=CHANNELS, ADJOINT=adjoint, num_warps=1)
        return states


# Three products of tensor cores have the precision of float32; AMD's have no such form.
PRECISION = 'ieee' if torch.version.hip else 'tf32x3'
# So few registers a thread that four programs of the forward pass share a multiprocessor of NVIDIA's.
REGISTERS = {} if torch.version.hip else dict(maxnreg=128)


def forward(u, *parameters):
    """Equal to :func:`~.naive.selective_scan_naive` in float32, without gradients."""
    launch = _Launch(FORWARD, u, *parameters, walks=True)
    u = launch.u
    y = launch.empty(*u.shape)
    sizes = (u.shape[1], launch.chunks, launch.turns, u.stride(0))
    with launch.device():
        tensors = (u, *launch.parameters, launch.carries(u, adjoint=False), y)
        constants = dict(launch.constants, CARRY=launch.chunks > 1)
        if launch.constants['EVEN']:  # else they would not do
            constants.update(REGISTERS)
        _forward[launch.grid](*tensors, *sizes, u_step=u.stride(1), num_stages=1, **constants)
    return y


def backward(grad_y, u, *parameters):
    """Gradients of all six inputs, in float32; repeatable to the bit."""
    launch = _Launch(BACKWARD, u, *parameters)
    u, grad_y = launch.u, grad_y.float().contiguous()
    batch, length, channels = u.shape
    programs = batch * launch.chunks
    grad_u, grad_rows = launch.empty(*u.shape), launch.empty(launch.blocks, *launch.parameters[0].shape)
    grad_weight = launch.empty(programs, *launch.parameters[1].shape)
    grad_A, grad_bias = (launch.empty(programs, 2, channels) for _ in range(2))
    grad_D = launch.empty(programs, channels)
    grads = (grad_u, grad_rows, grad_weight, grad_A, grad_D, grad_bias)
    sizes = (batch, length, launch.chunks, u.stride(0))
    constants = dict(launch.constants, CARRY=launch.chunks > 1, BITS=launch.constants['T'].bit_length() - 1)
    with launch.device():
        carries = (launch.carries(u, adjoint=False), launch.carries(grad_y, adjoint=True))
        tensors = (grad_y, u, *launch.parameters, *carries, *grads)
        _backward[launch.grid](*tensors, *sizes, u_step=u.stride(1), **constants)
    grad_D = grad_D.sum(0).expand(2, -1).contiguous()
    return grad_u, grad_rows.sum(0), grad_weight.sum(0), grad_A.sum(0), grad_D, grad_bias.sum(0)
