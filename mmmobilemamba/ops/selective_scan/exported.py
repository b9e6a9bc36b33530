"""The bidirectional selective scan for graphs that leave PyTorch: standard operators and a loop.

The loop is PyTorch's ``scan``, which ``torch.export`` keeps as one node and ``torch.onnx.export`` writes as
an ONNX ``Scan``, so that the length of the sequence can stay free. A step of it costs more than its
arithmetic, so where the length is known and long, two halvings leave a quarter of the steps. Source:
https://onnx.ai/onnx/operators/onnx__Scan.html.
"""

from importlib import import_module
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunked import selective_scan_chunked

HALVINGS, LONG = 2, 32  # of a length from which on they pay
SCAN = 'torch._higher_order_ops.scan'  # imported at first use, as it brings PyTorch's compiler with it


def why_not():
    """Why this form cannot run here (str), or None."""
    if find_spec(SCAN) is None:
        return f'torch {torch.__version__} has no scan operator, which came with torch 2.6'
    return None


def selective_scan_exported(
    u: Tensor, rows: Tensor, dt_weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor
) -> Tensor:
    """Equal to :func:`~.naive.selective_scan_naive`, with one loop for both directions.

    Outside of an export, where the loop would have to be compiled first, it is the form in plain PyTorch.
    """
    if not torch.compiler.is_compiling():
        return selective_scan_chunked(u, rows, dt_weight, A, D, dt_bias)
    # Both directions in the order in which each is walked, (2, N, L, ...).
    both = torch.stack([u, u.flip(1)])
    rows = rows.permute(2, 0, 1, 3)
    rows = torch.cat([rows[:1], rows[1:].flip(2)])
    step, B, C = rows.split([dt_weight.shape[2], 1, 1], dim=3)
    delta = softplus(step @ dt_weight.transpose(1, 2)[:, None] + dt_bias[:, None, None])
    decay = torch.exp(delta * A[:, None, None])
    halvings = HALVINGS if isinstance(u.shape[1], int) and u.shape[1] >= LONG else 0
    y = C * linear_recurrence(decay, delta * B * both, halvings)
    return D.sum(0) * u + y[0] + y[1].flip(1)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), in the operators that ONNX Runtime is fastest at."""
    return torch.relu(x) + torch.log(1 + torch.exp(-x.abs()))


def linear_recurrence(a: Tensor, b: Tensor, halvings: int) -> Tensor:
    """h_t = a_t * h_{t-1} + b_t along dimension 2 of (2, N, L, E).

    A halving joins pairs of neighbours into one step: the loop has half the steps, and from the state after
    each pair follows the state within.
    """
    if halvings == 0:
        return loop(a, b)
    length, channels = b.shape[2:]
    if length % 2:
        a, b = F.pad(a, (0, 0, 0, 1)), F.pad(b, (0, 0, 0, 1))
    (a_first, a_second), (b_first, b_second) = (pairs(a), pairs(b))
    second = linear_recurrence(a_first * a_second, a_second * b_first + b_second, halvings - 1)
    first = a_first * F.pad(second, (0, 0, 1, -1)) + b_first
    return torch.cat([first, second], dim=3).unflatten(3, (2, channels)).flatten(2, 3)[:, :, :length]


def pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second of every two steps: (2, N, L, E) -> two of (2, N, L / 2, E)."""
    return x.unflatten(2, (-1, 2)).flatten(3).chunk(2, dim=3)


def loop(a: Tensor, b: Tensor) -> Tensor:
    """:func:`linear_recurrence` step by step."""

    def step(h, inputs):
        kept = inputs[0] * h  # handed out in place of the state, of which a copy would be needed
        return kept + inputs[1], kept

    steps = [x.permute(2, 0, 1, 3).contiguous() for x in (a, b)]
    _, kept = import_module(SCAN).scan(step, torch.zeros_like(b[:, :, 0]), steps, dim=0)
    return kept.permute(1, 2, 0, 3) + b
