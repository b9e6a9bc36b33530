"""MK-DeConv: multi-kernel depthwise convolution."""

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from .conv import Conv2d
from .fold import can_fold, fold_norm, fuse, norm_affine


class MKDeConv(nn.Module):
    """Local branch: depthwise convolution with the kernel of the stage, ReLU, channel scale."""

    def __init__(self, channels, kernel_size, norm_cfg):
        super().__init__()
        self.dwconv = Conv2d(channels, channels, kernel_size, groups=channels, bias=False)
        self.bn1 = build_norm_layer(norm_cfg, channels)[1]
        self.act = nn.ReLU()
        self.scale = ChannelScale(channels)
        self.bn2 = build_norm_layer(norm_cfg, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        x = self.act(self.bn1(self.dwconv(x)))
        return self.bn2(self.scale(x))

    def folded(self) -> nn.Module:
        """The deployed form; as it is where a norm layer is none that folds, or a part was replaced."""
        parts = type(self.dwconv), type(self.act), type(self.scale)
        as_made = parts == (Conv2d, nn.ReLU, ChannelScale)
        return FoldedMKDeConv(self) if as_made and can_fold(self.bn1) and can_fold(self.bn2) else self


class ChannelScale(nn.Conv2d):
    """Depthwise convolution of one pixel, computed as the product that it is.

    Kernels for convolutions are slow at it, above all in backward.
    """

    def __init__(self, channels):
        super().__init__(channels, channels, 1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), in the type of ``x``."""
        return x * self.weight.view(1, -1, 1, 1).to(x.dtype)


class FoldedMKDeConv(nn.Module):
    """MK-DeConv in the deployed form: a convolution with ReLU, and an affine map of each channel."""

    def __init__(self, source):
        super().__init__()
        self.dwconv = fuse(fold_norm(source.dwconv, source.bn1), 'relu')
        scale, shift = norm_affine(source.bn2)
        scale = scale * source.scale.weight.double().flatten()
        trained = source.scale.weight.requires_grad
        self.scale = nn.Parameter(scale.view(1, -1, 1, 1), requires_grad=trained)
        self.shift = nn.Parameter(shift.view(1, -1, 1, 1), requires_grad=trained)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return torch.addcmul(self.shift, self.dwconv(x), self.scale)
