"""The bidirectional selective scan for exported graphs: standard operators and a loop.

The loop is PyTorch's ``scan`` operator. ``torch.export`` keeps it as one node and ``torch.onnx.export``
writes it as an ONNX ``Scan``, so the length of the sequence can stay dynamic. Forms with fewer steps, by
repeated halving or by processing rows in parallel, need more memory traffic and are no faster. In a trace, it
is a TorchScript loop, which the older exporter writes as an ONNX ``Loop``. Sources:
https://onnx.ai/onnx/operators/onnx__Scan.html, https://onnx.ai/onnx/operators/onnx__Loop.html.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_export(
    u: Tensor, x_dbl: Tensor, dt_weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor
) -> Tensor:
    """Equal to :func:`~mmmobilemamba.ops.selective_scan.naive.selective_scan_naive`, in a single loop.

    The shapes are the same; the loop processes both directions at once.
    """
    x_dbl = x_dbl.permute(2, 0, 1, 3)
    x_dbl = torch.cat([x_dbl[:1], x_dbl[1:].flip(2)])
    y = scan_as_walked(both_directions(u), x_dbl, join_bias(dt_weight, dt_bias), A)
    return merge_directions(y, u, D.sum(0))


def both_directions(u: Tensor) -> Tensor:
    """Stack a sequence and its reverse: (N, L, E) -> (2, N, L, E)."""
    u = u[None]
    return torch.cat([u, u.flip(2)])


def join_bias(dt_weight: Tensor, dt_bias: Tensor) -> Tensor:
    """Append the bias of the step sizes as the weight of a constant 1: (2, E, R), (2, E) -> (2, 1, R + 1, E).

    This saves a pass over all channels and steps that adds the bias.
    """
    return torch.cat([dt_weight, dt_bias[..., None]], dim=2).transpose(1, 2)[:, None].contiguous()


def scan_as_walked(both: Tensor, x_dbl: Tensor, weight: Tensor, A: Tensor) -> Tensor:
    """The scans of both directions, each in its own order, without the direct path.

    Args:
        both (Tensor): Output of :func:`both_directions`, (2, N, L, E).
        x_dbl (Tensor): Step sizes, B and C in the order of ``both``, (2, N, L, R + 2).
        weight (Tensor): Output of :func:`join_bias`, (2, 1, R + 1, E).
        A (Tensor): As in :func:`~mmmobilemamba.ops.selective_scan`, (2, E).

    Returns:
        Tensor: (2, N, L, E), in the order of ``both``.
    """
    step, B, C = x_dbl[..., :-2], x_dbl[..., -2:-1], x_dbl[..., -1:]
    delta = softplus(F.pad(step, (0, 1), value=1.0) @ weight)
    decay = torch.exp(delta * A[:, None, None])
    return C * linear_recurrence(decay, delta * B * both)


def merge_directions(y: Tensor, u: Tensor, D: Tensor) -> Tensor:
    """Sum of both directions and the direct path: (2, N, L, E), (N, L, E), (E) -> (N, L, E)."""
    return D * u + y[0] + y[1].flip(1)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), in the operators that are fastest in ONNX Runtime."""
    return torch.relu(x) + torch.log(1 + torch.exp(-x.abs()))


def linear_recurrence(a: Tensor, b: Tensor) -> Tensor:
    """h_t = a_t * h_{t-1} + b_t along dimension 2 of (2, N, L, E), starting from h = 0."""

    def step(h, inputs):
        kept = inputs[0] * h  # returned instead of the state, which would need a copy
        return kept + inputs[1], kept

    steps = [x.permute(2, 0, 1, 3).contiguous() for x in (a, b)]
    if torch.jit.is_tracing():
        return scripted(walk)(*steps).permute(1, 2, 0, 3)
    # Imported at first use, as it imports PyTorch's compiler.
    from torch._higher_order_ops.scan import scan  # noqa: PLC0415

    _, kept = scan(step, torch.zeros_like(b[:, :, 0]), steps, dim=0)
    return kept.permute(1, 2, 0, 3) + b


def walk(a: Tensor, b: Tensor) -> Tensor:
    """h_t = a_t * h_{t-1} + b_t along dimension 0 of (L, 2, N, E), starting from h = 0."""
    h = torch.zeros_like(b[0])
    states = []
    for t in range(b.shape[0]):
        h = a[t] * h + b[t]
        states.append(h)
    return torch.stack(states)


@lru_cache
def scripted(function: Callable[..., Any]) -> Any:
    """Compile a function to TorchScript, so that a trace keeps its loops."""
    return torch.jit.script(function)
