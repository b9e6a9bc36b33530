"""Convolution without bias, followed by batch normalisation."""

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from .conv import Conv2d
from .fold import can_fold, fold_norm


class ConvBN(nn.Module):
    """Bias-free 2D convolution and a norm layer.

    The norm layer is called ``bn`` whatever ``norm_cfg`` asks for, so that checkpoints keep
    their names and recipes that single out ``norm`` keep their meaning.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        kernel_size (int): Side of the kernel; the padding keeps the size at stride 1.
        stride (int): Stride. Defaults to 1.
        groups (int): Groups of the convolution. Defaults to 1.
        norm_cfg (dict): The norm layer. Defaults to ``dict(type='BN')``.

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
        """One convolution where both are what they were made as and the norm is batch norm."""
        return fold_norm(self.conv, self.bn) if type(self.conv) is Conv2d and can_fold(self.bn) else self
