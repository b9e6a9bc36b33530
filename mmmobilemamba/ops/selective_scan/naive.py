"""The specification of the bidirectional selective scan, one line an equation."""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_naive(
    u: Tensor, dt: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor
) -> Tensor:
    """Walk the sequence step by step in each direction and add the two outputs.

    Shapes: u (N, L, E), dt (N, 2, L, E), B and C (N, 2, L), A, D and dt_bias (2, E) -> (N, L, E).
    Position t means the same pixel in every argument; direction 1 visits them from last to first.
    """
    length = u.shape[1]
    delta = F.softplus(dt + dt_bias[:, None])
    y = [D.sum(0) * u[:, t] for t in range(length)]
    for k, steps in enumerate((range(length), reversed(range(length)))):
        h = torch.zeros_like(u[:, 0])
        for t in steps:
            h = torch.exp(delta[:, k, t] * A[k]) * h + delta[:, k, t] * B[:, k, t, None] * u[:, t]
            y[t] = y[t] + C[:, k, t, None] * h
    return torch.stack(y, dim=1)
