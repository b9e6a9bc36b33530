"""Step sizes and states of a scan along the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.layers import SS2D
from ..ops import selective_scan
from ..ops.selective_scan.naive import split_x_dbl


@torch.no_grad()
def scan_states(ss2d: SS2D, x: Tensor) -> tuple[Tensor, Tensor]:
    """Step sizes and states of both directions of a scan, at each pixel.

    A step size weighs the new pixel and the decay of the state: one near 0 keeps the state as it was, a
    large one replaces it. Source: Mamba, https://arxiv.org/abs/2312.00752, section 3.5.1.

    Args:
        ss2d (SS2D): Of either form, in evaluation; ``find_global_branch(...).ss2d``.
        x (Tensor): Its input, (N, C, H, W), which is that of WTE-Mamba.

    Returns:
        tuple[Tensor, Tensor]: Both (N, 2, E, H, W), at least float32: the step sizes and the states of
        direction 0, from the first pixel to the last in row-major order, and 1, from the last to the first.
    """
    u = ss2d.act(ss2d.dwconv(ss2d.in_proj(x).chunk(2, dim=1)[0]))
    sequence, x_dbl, dt_weight, A, D, dt_bias = ss2d.scan_arguments(u.flatten(2).transpose(1, 2))
    step = split_x_dbl(x_dbl)[0]
    delta = F.softplus(step.to(A) @ dt_weight.to(A).transpose(1, 2) + dt_bias.to(A)[:, None])
    states = []
    for direction in range(len(A)):
        # What is read with a C of one in this direction, of zero in the other and past no D, is the state.
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
