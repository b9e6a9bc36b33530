"""Reference implementation of the bidirectional selective scan, one line per equation."""

import torch
import torch.nn.functional as F
from torch import Tensor


def split_x_dbl(x_dbl: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split the projections: (N, L, 2, R + 2) -> step (N, 2, L, R), B (N, 2, L, 1), C (N, 2, L, 1)."""
    x_dbl = x_dbl.transpose(1, 2)
    return x_dbl[..., :-2], x_dbl[..., -2:-1], x_dbl[..., -1:]


def selective_scan_naive(
    u: Tensor, x_dbl: Tensor, dt_weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor
) -> Tensor:
    """Scan the sequence step by step in each direction and add the two outputs.

    Shapes: u (N, L, E), x_dbl (N, L, 2, R + 2), dt_weight (2, E, R), A, D and dt_bias (2, E) -> (N, L, E).
    Position t is the same pixel in every argument; direction 1 scans from last to first.
    """
    length = u.shape[1]
    step, B, C = split_x_dbl(x_dbl)
    delta = F.softplus(step @ dt_weight.transpose(1, 2) + dt_bias[:, None])
    y = [D.sum(0) * u[:, t] for t in range(length)]
    for k, steps in enumerate((range(length), reversed(range(length)))):
        h = torch.zeros_like(u[:, 0])
        for t in steps:
            h = torch.exp(delta[:, k, t] * A[k]) * h + delta[:, k, t] * B[:, k, t] * u[:, t]
            y[t] = y[t] + C[:, k, t] * h
    return torch.stack(y, dim=1)
