"""MK-DeConv: multi-kernel depthwise convolution."""

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from .conv import Conv2d
from .fold import can_fold, fold_norm, fuse, norm_affine


class MKDeConv(nn.Module):
    """Local branch: depthwise convolution, norm layer, ReLU, channel scale and norm layer.

    Source: https://arxiv.org/abs/2411.15941.

    Args:
        channels (int): Channels of the input and output.
        kernel_size (int): Kernel size of the stage.
        norm_cfg (dict): Norm layer.
    """

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
        """The deployed form; self if a norm layer cannot be folded or a part was replaced."""
        parts = type(self.dwconv), type(self.act), type(self.scale)
        as_made = parts == (Conv2d, nn.ReLU, ChannelScale)
        return FoldedMKDeConv(self) if as_made and can_fold(self.bn1) and can_fold(self.bn2) else self


class ChannelScale(nn.Conv2d):
    """Depthwise pointwise convolution, computed as a product.

    Convolution kernels are slow at it, especially in backward.

    Args:
        channels (int): Channels of the input and output.
    """

    def __init__(self, channels):
        super().__init__(channels, channels, 1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), in the dtype of ``x``."""
        return x * self.weight.view(1, -1, 1, 1).to(x.dtype)


class FoldedMKDeConv(nn.Module):
    """MK-DeConv in the deployed form: a convolution with ReLU, and a scale and shift per channel.

    Args:
        source (MKDeConv): The original, with batch norms.
    """

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
