"""The bidirectional selective scan for graphs that leave PyTorch: standard operators and a loop.

The loop is PyTorch's ``scan``, which ``torch.export`` keeps as one node and ``torch.onnx.export`` writes as
an ONNX ``Scan``, so that the length of the sequence stays free. Source of that:
https://onnx.ai/onnx/operators/onnx__Scan.html.
"""

from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from .chunked import selective_scan_chunked
from .naive import split_rows

SCAN = 'torch._higher_order_ops.scan'  # imported at first use, as it brings PyTorch's compiler with it


def why_not():
    """Why this form cannot run here (str), or None."""
    if find_spec(SCAN) is None:
        return f'torch {torch.__version__} has no scan operator, which came with torch 2.6'
    return None


def selective_scan_exported(
    u: Tensor, rows: Tensor, dt_weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor
) -> Tensor:
    """Equal to :func:`~.naive.selective_scan_naive`, one loop for each direction.

    Outside of an export, where the loop would have to be compiled first, it is the form in plain PyTorch.
    """
    if not torch.compiler.is_compiling():
        return selective_scan_chunked(u, rows, dt_weight, A, D, dt_bias)
    step, B, C = split_rows(rows)
    delta = softplus(step @ dt_weight.transpose(1, 2) + dt_bias[:, None])
    decay = torch.exp(delta * A[:, None])
    inputs = delta * B * u[:, None]
    y = D.sum(0) * u
    for k, reverse in enumerate((False, True)):
        y = y + C[:, k] * linear_recurrence(decay[:, k], inputs[:, k], reverse)
    return y


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), in the operators that ONNX Runtime is fastest at."""
    return torch.relu(x) + torch.log(1 + torch.exp(-x.abs()))


def linear_recurrence(a: Tensor, b: Tensor, reverse: bool) -> Tensor:
    """h_t = a_t * h_{t-1} + b_t along dimension 1 of (N, L, E); from the last step if ``reverse``."""

    def step(h, inputs):
        h = inputs[0] * h + inputs[1]
        return h, h.clone()  # which must be another tensor than the state

    steps = [x.transpose(0, 1).contiguous() for x in (a, b)]
    _, states = import_module(SCAN).scan(
        step, b.new_zeros(b.shape[0], b.shape[2]), steps, dim=0, reverse=reverse
    )
    return states.transpose(0, 1)
