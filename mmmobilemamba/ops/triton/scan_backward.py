"""The bidirectional selective scan in Triton, backward."""

import triton
import triton.language as tl
from torch import Tensor

from .common import on_device
from .scan_common import (
    LOG2_E,
    Launch,
    combine_before,
    is_below,
    laid_out_as,
    load_B_or_C,
    load_carry,
    load_channels,
    load_dt_weight,
    load_rows,
    load_steps,
    locate_block,
    locate_program,
    matmul,
    positions,
    project,
    scan_segments,
    softplus,
    store_rows,
)

# Most steps of a segment and segments of a chunk, the fastest measured on an H200. More do not fit into the
# registers, as backward needs more of them than forward.
TILE = (16, 4)


@triton.jit
def _flip(x, BITS: tl.constexpr):
    """Reverse the steps of each segment, (S, T, W). This only renames registers."""
    S: tl.constexpr = x.shape[0]
    T: tl.constexpr = x.shape[1]
    W: tl.constexpr = x.shape[2]
    for bit in tl.static_range(BITS):
        pairs = tl.permute(tl.reshape(x, [S, T >> (bit + 1), 2, W << bit]), (0, 1, 3, 2))
        even, odd = tl.split(pairs)
        x = tl.reshape(tl.permute(tl.join(odd, even), (0, 1, 3, 2)), [S, T, W])
    return x


@triton.jit
def _states_before(decay, entering, h, T: tl.constexpr, reverse: tl.constexpr):
    """States before each step, (S, T, W), from the state ``h`` (W) that enters the chunk."""
    one, zero = tl.full(decay.shape, 1.0, tl.float32), tl.zeros(decay.shape, tl.float32)
    parts = (decay, entering, one, zero)
    left, state, left_before, before = tl.associative_scan(parts, 1, combine_before)
    _, _, left_segment, before_segment = scan_segments(left, state, T, reverse)
    return before + left_before * (before_segment + left_segment * h[None, :])[:, None, :]


@triton.jit(do_not_specialize=['grad_y', 'u', 'grad_u'])
def _scan_backward(
    grad_y, u, x_dbl, dt_weight, A, D, dt_bias, carries, adjoints,
    grad_u, grad_x_dbl, grad_weight, grad_A, grad_D, grad_bias, N, L, chunks, u_batch,
    E: tl.constexpr, u_step: tl.constexpr, R: tl.constexpr, K: tl.constexpr, S: tl.constexpr, T: tl.constexpr,
    W: tl.constexpr, BITS: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr, CARRY: tl.constexpr,
):  # fmt: skip
    block, number = locate_block(E, W)
    n, chunk, start, e = locate_program(chunks, E, S * T, W)
    count = L - start
    u += n * u_batch + start * u_step
    grad_y += (n * L + start) * E
    grad_x_dbl += ((block * N + n) * L + start) * (2 * (R + 2))  # one per block of channels
    grad_u += (n * L + start) * E
    sums = number.to(tl.int64) * E  # one per chunk
    for k in tl.static_range(2):
        # In the order of the gradient of the state, the reverse of the order of the state.
        i = positions(S, T, k == 0)
        row = x_dbl + ((n * L + start) * 2 + k) * (R + 2)
        v = project(row, count, dt_weight, dt_bias, e, E, EVEN, k, R, K, S, T, PRECISION, k == 0)
        gy = load_rows(grad_y, i, count, e, E, EVEN, E, 'evict_last' if k == 0 else 'evict_first')
        v = laid_out_as(v, gy)
        delta, exponential = softplus(v)
        rate = load_channels(A, e, E, k)
        decay = tl.exp2(delta * (rate * LOG2_E)[None, None, :])
        B = load_B_or_C(row + R, i, count, EVEN, R)

        flipped = positions(S, T, k == 1)
        x_flipped = load_rows(u, flipped, count, e, E, EVEN, u_step, 'evict_last')
        decay_flipped = laid_out_as(_flip(decay, BITS), x_flipped)
        entering = _flip(delta * B[:, :, None], BITS) * x_flipped
        h = load_carry(carries, n, k, chunk, chunks, e, E, CARRY)
        before = _states_before(decay_flipped, entering, h, T, k == 1)
        decayed = decay * laid_out_as(_flip(before, BITS), gy)

        direct = gy * load_B_or_C(row + R + 1, i, count, EVEN, R)[:, :, None]
        q = load_carry(adjoints, n, k, chunk, chunks, e, E, CARRY)
        g = direct + _states_before(decay, decay * direct, q, T, k == 0)

        x = load_rows(u, i, count, e, E, EVEN, u_step, 'evict_first')
        into = g * delta
        grad_v = g * (B[:, :, None] * x + rate[None, None, :] * decayed)
        grad_v *= tl.where(v > 0, 1.0, exponential) / (1.0 + exponential)
        tl.store(grad_A + sums * 2 + k * E + e, tl.sum(tl.sum(into * decayed, 1), 0), e < E)
        tl.store(grad_bias + sums * 2 + k * E + e, tl.sum(tl.sum(grad_v, 1), 0), e < E)
        own_row = grad_x_dbl + k * (R + 2) + i * (2 * (R + 2))
        tl.store(own_row + R, tl.sum(into * x, 2), i < count)
        tl.store(own_row + R + 1, tl.sum(gy * (decayed + delta * B[:, :, None] * x), 2), i < count)
        _store_step_gradients(
            tl.reshape(grad_v, [S * T, W]), row, grad_x_dbl + k * (R + 2),
            grad_weight + (sums * 2 + k * E) * R, dt_weight, count, e, E, EVEN, k, R, K, T, PRECISION, k == 0,
        )  # fmt: skip
        if k == 0:
            skip = load_channels(D, e, E, 0) + load_channels(D, e, E, 1)
            store_rows(grad_u, i, count, e, E, EVEN, into * B[:, :, None] + skip[None, None, :] * gy)
            tl.store(grad_D + sums + e, tl.sum(tl.sum(gy * x, 1), 0), e < E)
            tl.debug_barrier()
        else:
            first = load_rows(grad_u, i, count, e, E, EVEN, E, '')
            store_rows(grad_u, i, count, e, E, EVEN, first + into * B[:, :, None])


@triton.jit
def _store_step_gradients(
    grad_v, row, grad_row, grad_weight, dt_weight, count, e, E: tl.constexpr, EVEN: tl.constexpr, k,
    R: tl.constexpr, K: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr, reverse: tl.constexpr,
):  # fmt: skip
    """Gradients of the inputs of the step-size projection and of its weight, from ``grad_v`` (S * T, W)."""
    i, r = tl.arange(0, grad_v.shape[0]), tl.arange(0, K)
    i = i // T * T + T - 1 - i % T if reverse else i
    weight = load_dt_weight(dt_weight, e, E, k, R, K)
    there = is_below(i, count, EVEN)[:, None] & (r < R)[None, :]
    grad_steps = matmul(grad_v, tl.trans(weight), PRECISION)
    tl.store(grad_row + i[:, None] * (2 * (R + 2)) + r[None, :], grad_steps, there)
    steps = load_steps(row, i, count, EVEN, R, K)
    there = (e < E)[:, None] & (r < R)[None, :]
    sums = matmul(tl.trans(grad_v), steps, PRECISION)
    tl.store(grad_weight + e[:, None] * R + r[None, :], sums, there)


def backward(grad_y: Tensor, u: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    """Gradients of all six inputs; bitwise reproducible.

    Args:
        grad_y (Tensor): Gradient of the output, (N, L, E).
        u (Tensor): (N, L, E).
        *parameters (Tensor): x_dbl, dt_weight, A, D and dt_bias of
            :func:`~mmmobilemamba.ops.selective_scan`.

    Returns:
        tuple[Tensor]: Gradients in the order and shapes of the inputs, float32.
    """
    launch = Launch(TILE, u, *parameters)
    u, grad_y = launch.u, grad_y.float().contiguous()
    batch, length, channels = u.shape
    programs = batch * launch.chunks
    grad_u, grad_x_dbl = launch.empty(*u.shape), launch.empty(launch.blocks, *launch.parameters[0].shape)
    grad_weight = launch.empty(programs, *launch.parameters[1].shape)
    grad_A, grad_bias = (launch.empty(programs, 2, channels) for _ in range(2))
    grad_D = launch.empty(programs, channels)
    grads = (grad_u, grad_x_dbl, grad_weight, grad_A, grad_D, grad_bias)
    sizes = (batch, length, launch.chunks, u.stride(0))
    constants = dict(launch.constants, CARRY=launch.chunks > 1, BITS=launch.constants['T'].bit_length() - 1)
    with on_device(u):
        carries = (launch.carries(u, adjoint=False), launch.carries(grad_y, adjoint=True))
        tensors = (grad_y, u, *launch.parameters, *carries, *grads)
        _scan_backward[launch.grid](*tensors, *sizes, u_step=u.stride(1), **constants)
    grad_D = grad_D.sum(0).expand(2, -1).contiguous()
    return grad_u, grad_x_dbl.sum(0), grad_weight.sum(0), grad_A.sum(0), grad_D, grad_bias.sum(0)
