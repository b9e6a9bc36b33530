"""Step sizes and states of a scan."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.layers import SS2D
from ..ops import selective_scan
from ..ops.selective_scan.naive import split_x_dbl


@torch.no_grad()
def scan_states(ss2d: SS2D, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the step sizes and states of a scan at each pixel, for both directions.

    The step size controls the weight of the new pixel and the decay of the state: a value near 0 keeps the
    state, a large one replaces it. Source: Mamba, https://arxiv.org/abs/2312.00752, section 3.5.1.

    Args:
        ss2d (SS2D): The scan, in training or deployed form, in evaluation mode:
            ``find_global_branch(...).ss2d``.
        x (Tensor): Its input, (N, C, H, W), which is also the input of WTE-Mamba.

    Returns:
        tuple[Tensor, Tensor]: Step sizes and states, (N, 2, E, H, W), float32 or wider. Direction 0 goes from
        the first pixel to the last in row-major order, direction 1 from the last to the first.
    """
    u = ss2d.act(ss2d.dwconv(ss2d.in_proj(x).chunk(2, dim=1)[0]))
    sequence, x_dbl, dt_weight, A, D, dt_bias = ss2d.scan_arguments(u.flatten(2).transpose(1, 2))
    step = split_x_dbl(x_dbl)[0]
    delta = F.softplus(step.to(A) @ dt_weight.to(A).transpose(1, 2) + dt_bias.to(A)[:, None])
    states = []
    for direction in range(len(A)):
        # The output equals the state if C is 1 in this direction and 0 in the other, and D is 0.
        reading = x_dbl.clone()
        reading[..., -1] = 0
        reading[:, :, direction, -1] = 1
        states.append(
            selective_scan(sequence, reading, dt_weight, A, torch.zeros_like(D), dt_bias, ss2d.backend)
        )
    state = torch.stack(states, dim=1)
    return _to_maps(delta, u.shape[2:]), _to_maps(state, u.shape[2:])


def _to_maps(values: Tensor, size: torch.Size) -> Tensor:
    """(N, 2, L, E) -> (N, 2, E, H, W)."""
    return values.transpose(2, 3).unflatten(3, tuple(size))
