"""Parts of the backbone: stem, blocks, downsamples and stages."""

from functools import partial

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..arch import stage_splits
from ..layers import FFN, ConvBN, Mixer, Residual, SqueezeExcite, fuse_activation
from .recompute import frozen_statistics
from .region import compilable


class Stem(nn.Sequential):
    """Convolutions with ReLU between them, see :func:`build_stem`."""

    region = None

    @compilable
    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, C, ceil(H / 16), ceil(W / 16))."""
        for layer in self:
            x = layer(x)
        return x

    def folded(self) -> nn.Module:
        """Fuse each ReLU into the convolution before it. The indices, part of key names, do not change."""
        for index in range(len(self) - 1):
            fuse_activation(self, str(index), str(index + 1))
        return self


class PatchMerging(nn.Module):
    """Inverted bottleneck with squeeze-excite that halves the resolution.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        norm_cfg (dict): Norm layer.
    """

    def __init__(self, in_channels, out_channels, norm_cfg):
        super().__init__()
        hidden = 4 * in_channels
        self.conv1 = ConvBN(in_channels, hidden, norm_cfg=norm_cfg)
        self.act1 = nn.ReLU()
        self.conv2 = ConvBN(hidden, hidden, 3, stride=2, groups=hidden, norm_cfg=norm_cfg)
        self.act2 = nn.ReLU()
        self.se = SqueezeExcite(hidden)
        self.conv3 = ConvBN(hidden, out_channels, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2))."""
        x = self.act1(self.conv1(x))
        x = self.act2(self.conv2(x))
        return self.conv3(self.se(x))

    def folded(self) -> nn.Module:
        """Fuse each ReLU into the convolution before it."""
        fuse_activation(self, 'conv1', 'act1')
        fuse_activation(self, 'conv2', 'act2')
        return self


class Downsample(nn.Module):
    """Patch merging between two stages, with a depthwise convolution and an FFN before and after it.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        norm_cfg (dict): Norm layer.
    """

    region = None

    def __init__(self, in_channels, out_channels, norm_cfg):
        super().__init__()
        self.dw0 = residual_dwconv(in_channels, norm_cfg)
        self.ffn0 = Residual(FFN(in_channels, norm_cfg))
        self.merge = PatchMerging(in_channels, out_channels, norm_cfg)
        self.dw1 = residual_dwconv(out_channels, norm_cfg)
        self.ffn1 = Residual(FFN(out_channels, norm_cfg))

    @compilable
    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2))."""
        x = self.ffn0(self.dw0(x))
        x = self.merge(x)
        return self.ffn1(self.dw1(x))


class Block(nn.Module):
    """Five residual parts, and an outer shortcut around all of them.

    Every residual branch is initialised to zero, so an untrained block doubles its input.

    Args:
        splits (tuple[int, int, int]): Channels of the three parts of the mixer.
        kernel_size (int): Kernel size of the mixer.
        drop_path_rate (float): Stochastic depth of the outer branch.
        norm_cfg (dict): Norm layer.
    """

    region = None

    def __init__(self, splits, kernel_size, drop_path_rate, norm_cfg):
        super().__init__()
        channels = sum(splits)
        self.dw0 = residual_dwconv(channels, norm_cfg)
        self.ffn0 = Residual(FFN(channels, norm_cfg))
        self.mixer = Residual(Mixer(splits, kernel_size, norm_cfg))
        self.dw1 = residual_dwconv(channels, norm_cfg)
        self.ffn1 = Residual(FFN(channels, norm_cfg))
        self.drop_path = DropPath(drop_path_rate)
        self.zero_init_residuals()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x + self.drop_path(self.branch(x))

    @compilable
    def branch(self, x: Tensor) -> Tensor:
        """Branch of the outer shortcut: (N, C, H, W) -> (N, C, H, W)."""
        y = self.ffn0(self.dw0(x))
        y = self.mixer(y)
        return self.ffn1(self.dw1(y))

    def zero_init_residuals(self) -> None:
        """Initialise the residual branches to zero; FFNs do so themselves."""
        for branch in (self.dw0.fn, self.mixer.fn.proj, self.dw1.fn):
            nn.init.zeros_(branch.bn.weight)


class Stage(nn.Module):
    """A downsample and the blocks at one resolution.

    Args:
        downsample (nn.Module): Runs first; ``nn.Identity`` in the first stage.
        blocks (list[Block]): Run in order.
        with_cp (bool): Recompute each block in backward instead of storing its activations.
    """

    def __init__(self, downsample, blocks, with_cp):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, C, H', W'), at half the size except in the first stage."""
        x = self.downsample(x)
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, context_fn=partial(frozen_statistics, block))
            else:
                x = block(x)
        return x


def residual_dwconv(channels: int, norm_cfg: dict) -> Residual:
    """x + BN(3 x 3 depthwise convolution of x)."""
    return Residual(ConvBN(channels, channels, 3, groups=channels, norm_cfg=norm_cfg))


def build_stem(in_channels: int, channels: int, norm_cfg: dict) -> Stem:
    """Build the stem: four 3 x 3 convolutions of stride 2.

    Args:
        in_channels (int): Channels of the image.
        channels (int): Channels of the output, a multiple of 8.
        norm_cfg (dict): Norm layer.
    """
    widths = (in_channels, channels // 8, channels // 4, channels // 2, channels)
    layers = []
    for before, after in zip(widths, widths[1:]):
        layers += [ConvBN(before, after, 3, stride=2, norm_cfg=norm_cfg), nn.ReLU()]
    return Stem(*layers[:-1])


def build_stage(arch: dict, index: int, with_cp: bool, norm_cfg: dict) -> Stage:
    """Build a stage.

    Args:
        arch (dict): Result of :func:`~mmmobilemamba.models.arch.resolve_arch`.
        index (int): Index of the stage, 0 to 2.
        with_cp (bool): Recompute each block in backward instead of storing its activations.
        norm_cfg (dict): Norm layer.
    """
    dims, depths, kernel_size = arch['embed_dims'], arch['depths'], arch['kernel_sizes'][index]
    first, last = sum(depths[:index]), max(sum(depths) - 1, 1)
    blocks = [
        Block(stage_splits(arch, index), kernel_size, arch['drop_path_rate'] * number / last, norm_cfg)
        for number in range(first, first + depths[index])
    ]
    downsample = Downsample(dims[index - 1], dims[index], norm_cfg) if index else nn.Identity()
    return Stage(downsample, blocks, with_cp)
