"""The bidirectional selective scan in vectorised PyTorch, for every device.

The recurrence h_t = a_t * h_{t-1} + b_t is linear, so the sequence is cut into chunks of 16
steps that are walked side by side, each from a zero state, together with the product of their
decays. The states at the ends of the chunks then obey the same recurrence over L / 16 steps,
which is solved by the same function. No decay is ever divided by, so nothing overflows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tracing import is_traced_or_transformed
from .naive import split_x_dbl

CHUNK = 16
AT_ONCE = 2**18  # elements of u: of more, a CPU's caches do not hold what is computed from them


def selective_scan_chunked(
    u: Tensor, x_dbl: Tensor, dt_weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor
) -> Tensor:
    """Equal to :func:`~.naive.selective_scan_naive`, with a loop over at most 16 steps a level."""
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
    else:  # in place: fresh memory takes longer than what is done in it
        decay, inputs, recurrence = decay.exp_(), inputs.mul_(B), _recurrence
    for k, reverse in enumerate((False, True)):
        y = torch.addcmul(y, C[:, k], recurrence(decay[:, k], inputs[:, k], reverse))
    return y


class LinearRecurrence(torch.autograd.Function):
    """h_t = a_t * h_{t-1} + b_t along dimension 1 of (N, L, E); from the last step if ``reverse``.

    The gradient of a linear recurrence is the recurrence in the other direction, so backward,
    and backward of backward, is this function again. Only ``a`` and ``h`` are kept for it.
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
    """The previous element at every step, in walking order; 0 at the first. (N, L, E)."""
    return F.pad(x[:, 1:], (0, 0, 0, 1)) if reverse else F.pad(x[:, :-1], (0, 0, 1, 0))


def _recurrence(a: Tensor, b: Tensor, reverse: bool) -> Tensor:
    batch, length, channels = b.shape
    if length <= CHUNK:
        return _walk(a, b, reverse)
    # Padding with zero input at the end is harmless in both directions: the one way it comes
    # last, the other way it leaves the zero state as it is.
    padding = -length % CHUNK
    if padding:
        a, b = F.pad(a, (0, 0, 0, padding)), F.pad(b, (0, 0, 0, padding))
    chunks = b.shape[1] // CHUNK
    a, b = (x.reshape(batch, chunks, CHUNK, channels) for x in (a, b))
    h, decay = _walk(a, b, reverse), _running_product(a, reverse)
    # What is left of one chunk's end state grows the next chunk's states by its running decay.
    end = 0 if reverse else CHUNK - 1
    carry = _shift(_recurrence(decay[:, :, end], h[:, :, end], reverse), reverse)
    h.addcmul_(decay, carry[:, :, None])
    return h.reshape(batch, chunks * CHUNK, channels)[:, :length]


def _steps(length: int, reverse: bool):
    """Pairs of (step, step before it) in walking order."""
    order = range(length - 1, -1, -1) if reverse else range(length)
    return zip(order[1:], order)


def _views(x: Tensor):
    """Each step of (..., L, E), to be written to."""
    # Faster all at once, except in a trace: every write to one would record them all again.
    return [x.select(-2, step) for step in range(x.shape[-2])] if is_traced_or_transformed() else x.unbind(-2)


def _walk(a: Tensor, b: Tensor, reverse: bool) -> Tensor:
    """The recurrence itself along dimension -2, from a zero state."""
    h = b.clone()
    states, decays = _views(h), _views(a)
    for step, before in _steps(b.shape[-2], reverse):
        states[step].addcmul_(decays[step], states[before])
    return h


def _running_product(a: Tensor, reverse: bool) -> Tensor:
    """Products of ``a`` from the first step of the walk up to each, along dimension -2."""
    product = a.clone()
    steps = _views(product)
    for step, before in _steps(a.shape[-2], reverse):
        steps[step].mul_(steps[before])
    return product
