"""Convolution without bias, followed by batch normalisation."""

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from .conv import Conv2d
from .fold import can_fold, fold_norm


class ConvBN(nn.Module):
    """2D convolution without bias, followed by a norm layer.

    The norm layer is always named ``bn``, so key names in checkpoints, and recipes with rules for ``norm``
    in parameter names, do not depend on ``norm_cfg``.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        kernel_size (int): Kernel size, odd; the padding is ``kernel_size // 2``. Defaults to 1.
        stride (int): Stride of rows and columns. Defaults to 1.
        groups (int): Number of groups. Defaults to 1.
        norm_cfg (dict): Norm layer. Defaults to ``dict(type='BN')``.

    Raises:
        ValueError: If the norm layer has no weight.
    """

    def __init__(
        self, in_channels, out_channels, kernel_size=1, stride=1, groups=1, norm_cfg=dict(type='BN')
    ):
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, kernel_size, stride, groups, bias=False)
        self.bn = build_norm_layer(norm_cfg, out_channels)[1]
        if getattr(self.bn, 'weight', None) is None:
            raise ValueError(
                f'norm_cfg must make a norm layer with a weight, which the initialisation sets; {norm_cfg} '
                f'makes none. Add affine=True or choose another type, such as BN, SyncBN or GN.'
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.bn(self.conv(x))

    def folded(self) -> nn.Module:
        """Fold a batch norm into the convolution; self if either is another type of module."""
        return fold_norm(self.conv, self.bn) if type(self.conv) is Conv2d and can_fold(self.bn) else self
