"""The bidirectional selective scan in vectorised PyTorch, for every device.

The recurrence h_t = a_t * h_{t-1} + b_t is linear. The sequence is split into chunks of 16 steps,
which are processed in parallel, each from a zero state; the running products of their decays are
computed as well. The final states of the chunks obey the same recurrence over L / 16 steps, which
the same function solves. Nothing is divided by a decay, so nothing overflows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tracing import is_traced_or_transformed
from .naive import split_x_dbl

CHUNK = 16
AT_ONCE = 2**18  # elements of u; the intermediates of more do not fit into a CPU's caches


def selective_scan_chunked(
    u: Tensor, x_dbl: Tensor, dt_weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor
) -> Tensor:
    """Equal to :func:`~.naive.selective_scan_naive`, with a loop over at most 16 steps per level.

    On CPUs, large batches are processed in parts if no gradient is needed.
    """
    if (
        not (torch.is_grad_enabled() or is_traced_or_transformed())
        and u.is_cpu
        and u.numel() > AT_ONCE
        and len(u) > 1
    ):
        images = max(AT_ONCE // (u.shape[1] * u.shape[2]), 1)
        parts = zip(u.split(images), x_dbl.split(images))
        return torch.cat([selective_scan_chunked(*part, dt_weight, A, D, dt_bias) for part in parts])
    step, B, C = split_x_dbl(x_dbl)
    delta = F.softplus(step @ dt_weight.transpose(1, 2) + dt_bias[:, None])
    decay, inputs = delta * A[:, None], delta * u[:, None]
    y = D.sum(0) * u
    if torch.is_grad_enabled():
        decay, inputs, recurrence = decay.exp(), inputs * B, LinearRecurrence.apply
    else:  # in place, as allocating memory takes longer than the arithmetic
        decay, inputs, recurrence = decay.exp_(), inputs.mul_(B), _recurrence
    for k, reverse in enumerate((False, True)):
        y = torch.addcmul(y, C[:, k], recurrence(decay[:, k], inputs[:, k], reverse))
    return y


class LinearRecurrence(torch.autograd.Function):
    """h_t = a_t * h_{t-1} + b_t along dimension 1 of (N, L, E); from the last step if ``reverse``.

    The gradient of a linear recurrence is the recurrence in the other direction, so backward and
    double backward call this function again. Only ``a`` and ``h`` are saved for backward.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, reverse: bool) -> Tensor:
        h = _recurrence(a, b, reverse)
        ctx.save_for_backward(a, h)
        ctx.reverse = reverse
        return h

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor, Tensor, None]:
        a, h = ctx.saved_tensors
        grad_b = LinearRecurrence.apply(_shift(a, not ctx.reverse), grad_h, not ctx.reverse)
        return grad_b * _shift(h, ctx.reverse), grad_b, None


def _shift(x: Tensor, reverse: bool) -> Tensor:
    """The previous element of each step in scan order, 0 for the first: (N, L, E) -> (N, L, E)."""
    return F.pad(x[:, 1:], (0, 0, 0, 1)) if reverse else F.pad(x[:, :-1], (0, 0, 1, 0))


def _recurrence(a: Tensor, b: Tensor, reverse: bool) -> Tensor:
    batch, length, channels = b.shape
    if length <= CHUNK:
        return _walk(a, b, reverse)
    # Zero padding at the end is harmless in both directions: forward it comes last, backward it
    # keeps the zero state.
    padding = -length % CHUNK
    if padding:
        a, b = F.pad(a, (0, 0, 0, padding)), F.pad(b, (0, 0, 0, padding))
    chunks = b.shape[1] // CHUNK
    a, b = (x.reshape(batch, chunks, CHUNK, channels) for x in (a, b))
    h, decay = _walk(a, b, reverse), _running_product(a, reverse)
    # The final state of a chunk adds to each state of the next chunk, scaled by the running decay.
    end = 0 if reverse else CHUNK - 1
    carry = _shift(_recurrence(decay[:, :, end], h[:, :, end], reverse), reverse)
    h.addcmul_(decay, carry[:, :, None])
    return h.reshape(batch, chunks * CHUNK, channels)[:, :length]


def _steps(length: int, reverse: bool):
    """Pairs of (step, step before it) in scan order."""
    order = range(length - 1, -1, -1) if reverse else range(length)
    return zip(order[1:], order)


def _views(x: Tensor):
    """Writable views of each step of (..., L, E)."""
    # unbind is faster, but in a trace every write to one of its views would record all of them again.
    return [x.select(-2, step) for step in range(x.shape[-2])] if is_traced_or_transformed() else x.unbind(-2)


def _walk(a: Tensor, b: Tensor, reverse: bool) -> Tensor:
    """The recurrence along dimension -2, from a zero state."""
    h = b.clone()
    states, decays = _views(h), _views(a)
    for step, before in _steps(b.shape[-2], reverse):
        states[step].addcmul_(decays[step], states[before])
    return h


def _running_product(a: Tensor, reverse: bool) -> Tensor:
    """Cumulative product of ``a`` along dimension -2, in scan order."""
    product = a.clone()
    steps = _views(product)
    for step, before in _steps(a.shape[-2], reverse):
        steps[step].mul_(steps[before])
    return product
