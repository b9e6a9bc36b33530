"""The bidirectional selective scan in Triton, for GPUs: forward and backward, without atomics.

A program has one image and a block of channels, and both directions of them, one after the other, so
that it alone writes its part of the output. It walks the sequence in chunks: inside a chunk the linear
recurrence is an associative scan, from chunk to chunk the state is carried. The second direction walks
the same rows from the end; nothing is flipped. All arithmetic is float32. Names are those of
:func:`~.naive.selective_scan_naive`.
"""

import torch
import triton
import triton.language as tl

STEPS = 32  # of a chunk
CHANNELS = 32  # of a program


@triton.jit
def _combine(decay_1, input_1, decay_2, input_2):
    return decay_1 * decay_2, decay_2 * input_1 + input_2


@triton.jit
def _softplus(v):
    """log(1 + exp(v)), to full precision where exp(v) is small."""
    e = tl.exp(-tl.abs(v))
    w = 1.0 + e
    log1p = tl.where(w == 1.0, e, tl.log(w) * (e / tl.where(w == 1.0, 1.0, w - 1.0)))
    return tl.maximum(v, 0.0) + log1p


@triton.jit
def _project(row, valid, weight, bias, inside, R: tl.constexpr):
    """Step sizes before the softplus, (steps, channels), of rows and channels at these addresses."""
    v = tl.zeros([row.shape[0], bias.shape[0]], tl.float32) + bias[None, :]
    for r in tl.static_range(R):
        step = tl.load(row + r, valid, 0.0).to(tl.float32)
        v += step[:, None] * tl.load(weight + r, inside, 0.0).to(tl.float32)[None, :]
    return v


@triton.jit
def _scan_chunk(u, row, t, e, valid, inside, weight, bias, rate, h, u_step, R: tl.constexpr):
    """A chunk whose first state is ``h``: v, delta, x, B, what enters the state, and the states."""
    v = _project(row, valid, weight, bias, inside, R)
    delta = tl.where(valid[:, None], _softplus(v), 0.0)
    both = valid[:, None] & inside[None, :]
    x = tl.load(u + t[:, None] * u_step + e[None, :], both, 0.0).to(tl.float32)
    B = tl.load(row + R, valid, 0.0).to(tl.float32)
    entering = delta * B[:, None] * x
    decay, local = tl.associative_scan((tl.exp(delta * rate[None, :]), entering), 0, _combine)
    return v, delta, x, B, entering, local + decay * h[None, :]


@triton.jit
def _last_row(x, T: tl.constexpr):
    return tl.sum(tl.where((tl.arange(0, T) == T - 1)[:, None], x, 0.0), 0)


@triton.jit
def _first_row(x, T: tl.constexpr):
    return tl.sum(tl.where((tl.arange(0, T) == 0)[:, None], x, 0.0), 0)


@triton.jit
def _forward(
    u,
    rows,
    dt_weight,
    A,
    D,
    dt_bias,
    y,
    L,
    E,
    u_batch,
    u_step,
    R: tl.constexpr,
    T: tl.constexpr,
    W: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    e = tl.program_id(1) * W + tl.arange(0, W)
    inside = e < E
    skip = tl.load(D + e, inside, 0.0).to(tl.float32) + tl.load(D + E + e, inside, 0.0).to(tl.float32)
    for k in tl.static_range(2):
        rate = tl.load(A + k * E + e, inside, 0.0).to(tl.float32)
        bias = tl.load(dt_bias + k * E + e, inside, 0.0).to(tl.float32)
        h = tl.zeros([W], tl.float32)
        for start in range(0, L, T):
            step = start + tl.arange(0, T)
            valid = step < L
            t = step if k == 0 else L - 1 - step
            row = rows + ((n * L + t) * 2 + k) * (R + 2)
            weight = dt_weight + (k * E + e) * R
            _, _, x, _, _, state = _scan_chunk(
                u + n * u_batch, row, t, e, valid, inside, weight, bias, rate, h, u_step, R
            )
            both = valid[:, None] & inside[None, :]
            C = tl.load(row + R + 1, valid, 0.0).to(tl.float32)
            out = y + (n * L + t[:, None]) * E + e[None, :]
            before = skip[None, :] * x if k == 0 else tl.load(out, both, 0.0)
            tl.store(out, before + C[:, None] * state, both)
            h = _last_row(state, T)
        tl.debug_barrier()  # the second direction reads what other threads wrote


@triton.jit
def _carries(
    u,
    rows,
    dt_weight,
    A,
    dt_bias,
    carries,
    L,
    E,
    u_batch,
    u_step,
    R: tl.constexpr,
    T: tl.constexpr,
    W: tl.constexpr,
):
    """States before each chunk of both directions, (N, 2, chunks, E)."""
    n = tl.program_id(0).to(tl.int64)
    e = tl.program_id(1) * W + tl.arange(0, W)
    k = tl.program_id(2)
    inside = e < E
    rate = tl.load(A + k * E + e, inside, 0.0).to(tl.float32)
    bias = tl.load(dt_bias + k * E + e, inside, 0.0).to(tl.float32)
    h = tl.zeros([W], tl.float32)
    chunks = tl.cdiv(L, T)
    for chunk in range(chunks):
        tl.store(carries + ((n * 2 + k) * chunks + chunk) * E + e, h, inside)
        step = chunk * T + tl.arange(0, T)
        valid = step < L
        t = tl.where(k == 0, step, L - 1 - step)
        row = rows + ((n * L + t) * 2 + k) * (R + 2)
        weight = dt_weight + (k * E + e) * R
        _, _, _, _, _, state = _scan_chunk(
            u + n * u_batch, row, t, e, valid, inside, weight, bias, rate, h, u_step, R
        )
        h = _last_row(state, T)


@triton.jit
def _backward(
    grad_y, u, rows, dt_weight, A, D, dt_bias, carries,
    grad_u, grad_rows, grad_weight, grad_A, grad_D, grad_bias,
    N, L, E, u_batch, u_step, R: tl.constexpr, T: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    e = block * W + tl.arange(0, W)
    inside = e < E
    chunks = tl.cdiv(L, T)
    skip = tl.load(D + e, inside, 0.0).to(tl.float32) + tl.load(D + E + e, inside, 0.0).to(tl.float32)
    sum_D = tl.zeros([W], tl.float32)
    for k in tl.static_range(2):
        weight = dt_weight + (k * E + e) * R
        own_weight = grad_weight + ((n * 2 + k) * E + e) * R
        rate = tl.load(A + k * E + e, inside, 0.0).to(tl.float32)
        bias = tl.load(dt_bias + k * E + e, inside, 0.0).to(tl.float32)
        sum_A = tl.zeros([W], tl.float32)
        sum_bias = tl.zeros([W], tl.float32)
        later = tl.zeros([W], tl.float32)  # gradient of the state after the chunk
        for back in range(chunks):
            chunk = chunks - 1 - back
            step = chunk * T + tl.arange(0, T)
            valid = step < L
            both = valid[:, None] & inside[None, :]
            t = step if k == 0 else L - 1 - step
            row = rows + ((n * L + t) * 2 + k) * (R + 2)
            h = tl.load(carries + ((n * 2 + k) * chunks + chunk) * E + e, inside, 0.0)
            v, delta, x, B, entering, state = _scan_chunk(
                u + n * u_batch, row, t, e, valid, inside, weight, bias, rate, h, u_step, R
            )
            C = tl.load(row + R + 1, valid, 0.0).to(tl.float32)
            decayed = state - entering

            # The gradient of the state is a recurrence from the end, with the decay of the step after.
            after = valid & (step + 1 < L)
            row_after = row + (2 * (R + 2) if k == 0 else -2 * (R + 2))
            delta_after = _softplus(_project(row_after, after, weight, bias, inside, R))
            decay_after = tl.where(after[:, None], tl.exp(delta_after * rate[None, :]), 0.0)
            gy = tl.load(grad_y + (n * L + t[:, None]) * E + e[None, :], both, 0.0)
            factor, part = tl.associative_scan((decay_after, gy * C[:, None]), 0, _combine, reverse=True)
            g = part + factor * later[None, :]
            later = _first_row(g, T)

            into = g * delta
            out = grad_u + (n * L + t[:, None]) * E + e[None, :]
            before = gy * skip[None, :] if k == 0 else tl.load(out, both, 0.0)
            tl.store(out, before + into * B[:, None], both)
            grad_v = g * (B[:, None] * x + rate[None, :] * decayed) / (1.0 + tl.exp(-v))
            grad_v = tl.where(both, grad_v, 0.0)
            own_row = grad_rows + (((block * N + n) * L + t) * 2 + k) * (R + 2)
            for r in tl.static_range(R):
                column = tl.load(weight + r, inside, 0.0).to(tl.float32)
                tl.store(own_row + r, tl.sum(grad_v * column[None, :], 1), valid)
                steps = tl.load(row + r, valid, 0.0).to(tl.float32)
                sum_weight = tl.sum(grad_v * steps[:, None], 0)
                if back > 0:
                    sum_weight += tl.load(own_weight + r, inside, 0.0)
                tl.store(own_weight + r, sum_weight, inside)
            tl.store(own_row + R, tl.sum(into * x, 1), valid)
            tl.store(own_row + R + 1, tl.sum(gy * state, 1), valid)
            sum_A += tl.sum(into * decayed, 0)
            sum_bias += tl.sum(grad_v, 0)
            if k == 0:
                sum_D += tl.sum(gy * x, 0)
        tl.store(grad_A + (n * 2 + k) * E + e, sum_A, inside)
        tl.store(grad_bias + (n * 2 + k) * E + e, sum_bias, inside)
        tl.debug_barrier()
    tl.store(grad_D + n * E + e, sum_D, inside)


def forward(u, rows, dt_weight, A, D, dt_bias):
    """Equal to :func:`~.naive.selective_scan_naive` in float32, without gradients."""
    batch, length, channels = u.shape
    u = u if u.stride(2) == 1 else u.contiguous()
    rows, dt_weight, A, D, dt_bias = (x.contiguous() for x in (rows, dt_weight, A, D, dt_bias))
    y = u.new_empty(u.shape, dtype=torch.float32)
    grid = (batch, triton.cdiv(channels, CHANNELS))
    sizes = (length, channels, u.stride(0), u.stride(1))
    _forward[grid](u, rows, dt_weight, A, D, dt_bias, y, *sizes, R=dt_weight.shape[2], T=STEPS, W=CHANNELS)
    return y


def backward(grad_y, u, rows, dt_weight, A, D, dt_bias):
    """Gradients of all six inputs, in float32; repeatable to the bit."""
    batch, length, channels = u.shape
    rank = dt_weight.shape[2]
    u = u if u.stride(2) == 1 else u.contiguous()
    rows, dt_weight, A, D, dt_bias = (x.contiguous() for x in (rows, dt_weight, A, D, dt_bias))
    grad_y = grad_y.float().contiguous()
    blocks, chunks = triton.cdiv(channels, CHANNELS), triton.cdiv(length, STEPS)

    def empty(*shape):
        return u.new_empty(shape, dtype=torch.float32)

    carries = empty(batch, 2, chunks, channels)
    sizes = (length, channels, u.stride(0), u.stride(1))
    constants = dict(R=rank, T=STEPS, W=CHANNELS)
    _carries[(batch, blocks, 2)](u, rows, dt_weight, A, dt_bias, carries, *sizes, **constants)
    grad_u, grad_rows = empty(*u.shape), empty(blocks, *rows.shape)
    grad_weight, grad_D = empty(batch, *dt_weight.shape), empty(batch, channels)
    grad_A, grad_bias = empty(batch, 2, channels), empty(batch, 2, channels)
    inputs = (grad_y, u, rows, dt_weight, A, D, dt_bias, carries)
    grads = (grad_u, grad_rows, grad_weight, grad_A, grad_D, grad_bias)
    _backward[(batch, blocks)](*inputs, *grads, batch, *sizes, **constants)
    grad_D = grad_D.sum(0).expand(2, -1).contiguous()
    return grad_u, grad_rows.sum(0), grad_weight.sum(0), grad_A.sum(0), grad_D, grad_bias.sum(0)
