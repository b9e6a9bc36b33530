"""The bidirectional selective scan for graphs that leave PyTorch: standard operators and a loop.

The loop is PyTorch's ``scan``, which ``torch.export`` keeps as one node and ``torch.onnx.export`` writes as
an ONNX ``Scan``, so that the length of the sequence can stay free. Forms with fewer steps, of halvings or of
rows side by side, read and write more, and are no faster. In a trace it is a loop of TorchScript, which the
older exporter writes as an ONNX ``Loop``. Sources: https://onnx.ai/onnx/operators/onnx__Scan.html,
https://onnx.ai/onnx/operators/onnx__Loop.html.
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
    """Equal to :func:`~mmmobilemamba.ops.selective_scan.naive.selective_scan_naive`, with one loop for both
    directions; the shapes are the same.
    """
    x_dbl = x_dbl.permute(2, 0, 1, 3)
    x_dbl = torch.cat([x_dbl[:1], x_dbl[1:].flip(2)])
    y = scan_as_walked(both_directions(u), x_dbl, join_bias(dt_weight, dt_bias), A)
    return merge_directions(y, u, D.sum(0))


def both_directions(u: Tensor) -> Tensor:
    """A sequence in the orders in which it is walked: (N, L, E) -> (2, N, L, E)."""
    u = u[None]
    return torch.cat([u, u.flip(2)])


def join_bias(dt_weight: Tensor, dt_bias: Tensor) -> Tensor:
    """The bias of the step sizes as the weight of a 1: (2, E, R), (2, E) -> (2, 1, R + 1, E).

    To add it would take one more pass over all channels of all steps.
    """
    return torch.cat([dt_weight, dt_bias[..., None]], dim=2).transpose(1, 2)[:, None].contiguous()


def scan_as_walked(both: Tensor, x_dbl: Tensor, weight: Tensor, A: Tensor) -> Tensor:
    """The scans without their direct paths, of what :func:`both_directions` gives.

    Args:
        both (Tensor): (2, N, L, E).
        x_dbl (Tensor): Step sizes, B and C in the same orders, (2, N, L, R + 2).
        weight (Tensor): What :func:`join_bias` gives.
        A (Tensor): As in :func:`~mmmobilemamba.ops.selective_scan`, (2, E).

    Returns:
        Tensor: (2, N, L, E), in these orders, too.
    """
    step, B, C = x_dbl[..., :-2], x_dbl[..., -2:-1], x_dbl[..., -1:]
    delta = softplus(F.pad(step, (0, 1), value=1.0) @ weight)
    decay = torch.exp(delta * A[:, None, None])
    return C * linear_recurrence(decay, delta * B * both)


def merge_directions(y: Tensor, u: Tensor, D: Tensor) -> Tensor:
    """The sum of both directions and the direct path: (2, N, L, E), (N, L, E), (E) -> (N, L, E)."""
    return D * u + y[0] + y[1].flip(1)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), in the operators that ONNX Runtime is fastest at."""
    return torch.relu(x) + torch.log(1 + torch.exp(-x.abs()))


def linear_recurrence(a: Tensor, b: Tensor) -> Tensor:
    """h_t = a_t * h_{t-1} + b_t along dimension 2 of (2, N, L, E), from h = 0 on."""

    def step(h, inputs):
        kept = inputs[0] * h  # handed out in place of the state, of which a copy would be needed
        return kept + inputs[1], kept

    steps = [x.permute(2, 0, 1, 3).contiguous() for x in (a, b)]
    if torch.jit.is_tracing():
        return scripted(walk)(*steps).permute(1, 2, 0, 3)
    # Imported at first use, as it brings PyTorch's compiler with it.
    from torch._higher_order_ops.scan import scan  # noqa: PLC0415

    _, kept = scan(step, torch.zeros_like(b[:, :, 0]), steps, dim=0)
    return kept.permute(1, 2, 0, 3) + b


def walk(a: Tensor, b: Tensor) -> Tensor:
    """h_t = a_t * h_{t-1} + b_t along dimension 0 of (L, 2, N, E), from h = 0 on."""
    h = torch.zeros_like(b[0])
    states = []
    for t in range(b.shape[0]):
        h = a[t] * h + b[t]
        states.append(h)
    return torch.stack(states)


@lru_cache
def scripted(function: Callable[..., Any]) -> Any:
    """A function as TorchScript, whose loops a trace keeps as loops."""
    return torch.jit.script(function)
