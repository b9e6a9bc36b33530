"""Multi-receptive field feature interaction (MRFFI), the token mixer of MobileMamba."""

from collections.abc import Callable, Sequence
from typing import Optional

import torch
from torch import Tensor, nn

from .conv import Conv2d
from .conv_bn import ConvBN
from .fold import fuse
from .mk_deconv import MKDeConv
from .wte_mamba import WTEMamba


class Mixer(nn.Module):
    """Multi-receptive field feature interaction (MRFFI).

    The channels are split, in this order, into a global part (WTE-Mamba), a local part (MK-DeConv) and an
    identity part. Source: https://arxiv.org/abs/2411.15941.

    Args:
        splits (tuple[int, int, int]): Channels of the three parts; the last may be 0.
        kernel_size (int): Kernel size of the wavelet convolution and of the local branch.
        norm_cfg (dict): Norm layer.
    """

    def __init__(self, splits, kernel_size, norm_cfg):
        super().__init__()
        self.splits = splits
        self.global_op = WTEMamba(splits[0], kernel_size, norm_cfg)
        self.local_op = MKDeConv(splits[1], kernel_size, norm_cfg)
        self.act = nn.ReLU()
        self.proj = ConvBN(sum(splits), sum(splits), norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.proj(self.act(mix(x, self.splits, self.global_op, self.local_op)))

    def folded(self) -> nn.Module:
        """The deployed form; self if the projection was not folded."""
        if type(self.proj) is not Conv2d:
            return self
        return FoldedMixer(self.splits, self.global_op, self.local_op, self.act, self.proj)


class FoldedMixer(nn.Module):
    """Mixer in the deployed form. Its projection can also add a shortcut.

    Args:
        splits, global_op, local_op, act, proj: The attributes of a mixer, folded.
        adds_shortcut (bool): Whether ``proj`` adds a shortcut. Defaults to False.
    """

    def __init__(self, splits, global_op, local_op, act, proj, adds_shortcut=False):
        super().__init__()
        self.splits = splits
        self.global_op, self.local_op, self.act = global_op, local_op, act
        self.proj = fuse(proj, adds_shortcut=adds_shortcut)

    def forward(self, x: Tensor, shortcut: Optional[Tensor] = None) -> Tensor:
        """(N, C, H, W), and with ``adds_shortcut`` a shortcut of this shape -> (N, C, H, W)."""
        return self.proj(self.act(mix(x, self.splits, self.global_op, self.local_op)), shortcut)

    def with_shortcut(self) -> 'FoldedMixer':
        """A form that adds a shortcut."""
        parts = self.splits, self.global_op, self.local_op, self.act, self.proj
        return FoldedMixer(*parts, adds_shortcut=True)


def mix(
    x: Tensor,
    splits: Sequence[int],
    global_op: Callable[[Tensor], Tensor],
    local_op: Callable[[Tensor], Tensor],
) -> Tensor:
    """Split the channels, apply the global and the local operation, and concatenate the parts.

    Args:
        x (Tensor): (N, C, H, W).
        splits (tuple[int, int, int]): Channels of the three parts; the last may be 0.
        global_op, local_op (Callable): Operations on the first two parts, which keep the shape.

    Returns:
        Tensor: (N, C, H, W).
    """
    if not splits[2]:  # an empty part would make the output channels-first, and MNN misreads it in a file
        global_part, local_part = x.split(splits[:2], dim=1)
        return torch.cat([global_op(global_part), local_op(local_part)], dim=1)
    global_part, local_part, identity = x.split(splits, dim=1)
    return torch.cat([global_op(global_part), local_op(local_part), identity], dim=1)
