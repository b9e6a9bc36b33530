"""SS2D: selective scan of a feature map in row-major order, in both directions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmobilemamba.ops import norm_gate, selective_scan

from .conv import Conv2d
from .conv_bn import ConvBN
from .fold import fuse_activation

for leaf in ('at_least_float32', 'norm_gate', 'selective_scan'):
    torch.fx.wrap(leaf)  # leaves in torch.fx graphs, as they depend on sizes, dtypes and devices

DIRECTIONS = 2


class SS2D(nn.Module):
    """State-space branch of WTE-Mamba: gate(scan(silu(conv(in_proj(x))))), state size 1.

    The inner width is E = 2 * channels, and the rank of the step size R = ceil(channels / 16).
    ``x_proj_weight`` (2, R + 2, E) projects the input to step size, B and C of each direction, and
    ``dt_proj_weight`` (2, E, R) projects the step size to all channels. ``A_log`` is (2E, 1) and ``D`` (2E),
    with the first direction first. The authors' recipe applies weight decay to all parameters that are not
    one-dimensional, so these shapes are part of the recipe. Source: https://arxiv.org/abs/2411.15941.

    Args:
        channels (int): Channels of the input and output.
        norm_cfg (dict): Norm layer of the two projections.

    Attributes:
        backend (str): Backend of :func:`~mmmobilemamba.ops.selective_scan`. Defaults to ``'auto'``.
    """

    def __init__(self, channels, norm_cfg):
        super().__init__()
        inner = 2 * channels
        self.backend = 'auto'
        self.dt_rank = math.ceil(channels / 16)
        self.in_proj = ConvBN(channels, 2 * inner, norm_cfg=norm_cfg)
        self.dwconv = Conv2d(inner, inner, 3, groups=inner)
        self.act = nn.SiLU()
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, self.dt_rank + 2, inner))
        self.dt_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, inner, self.dt_rank))
        self.dt_proj_bias = nn.Parameter(torch.empty(DIRECTIONS, inner))
        self.A_log = nn.Parameter(torch.empty(DIRECTIONS * inner, 1))
        self.D = nn.Parameter(torch.empty(DIRECTIONS * inner))
        self.out_norm = GatedLayerNorm(inner)
        self.out_proj = ConvBN(inner, channels, norm_cfg=norm_cfg)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the parameters of the scan; the layers initialise their own."""
        for weight in self.x_proj_weight:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # as nn.Linear
        nn.init.uniform_(self.dt_proj_weight, 0, 0.1)
        nn.init.uniform_(self.dt_proj_bias, 0, 0.1)
        nn.init.zeros_(self.A_log)
        nn.init.ones_(self.D)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        u, z = self.in_proj(x).chunk(2, dim=1)
        u = self.act(self.dwconv(u))
        y = self.scan(u.flatten(2).transpose(1, 2))
        y = self.out_norm(y, z.flatten(2).transpose(1, 2))
        # In this order, a batch of one keeps its memory format.
        y = y.view(z.shape[0], z.shape[2], z.shape[3], y.shape[2])
        return self.out_proj(y.permute(0, 3, 1, 2))

    def scan(self, u: Tensor) -> Tensor:
        """Project step sizes, B and C, and scan: (N, L, E) -> (N, L, E), float32 or float64."""
        return selective_scan(*self.scan_arguments(u), self.backend)

    def scan_arguments(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Tensor arguments of :func:`~mmmobilemamba.ops.selective_scan` for ``u`` (N, L, E)."""
        x_dbl = F.linear(u, self.x_proj_weight.flatten(0, 1))
        x_dbl = x_dbl.view(u.shape[0], u.shape[1], DIRECTIONS, self.dt_rank + 2)
        A = -torch.exp(at_least_float32(self.A_log))
        A, D = A.view(DIRECTIONS, -1), self.D.view(DIRECTIONS, -1)
        return u, x_dbl, self.dt_proj_weight, A, D, self.dt_proj_bias

    def folded(self) -> nn.Module:
        """Fuse the SiLU into the depthwise convolution."""
        fuse_activation(self, 'dwconv', 'act')
        return self


class GatedLayerNorm(nn.LayerNorm):
    """Layer norm of one input, multiplied by the SiLU of another.

    Args:
        channels (int): Channels of both inputs, E.

    Attributes:
        backend (str): Backend of :func:`~mmmobilemamba.ops.norm_gate`. Defaults to ``'auto'``.
    """

    def __init__(self, channels):
        super().__init__(channels)
        self.backend = 'auto'

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """(N, L, E) and the gate (N, L, E) -> (N, L, E), in the dtype of the gate."""
        return norm_gate(y, self.weight, self.bias, self.eps, z, self.backend)


def at_least_float32(x: Tensor) -> Tensor:
    """Cast to float32, unless ``x`` is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
