"""Feed-forward network of two pointwise convolutions."""

from typing import Optional

from torch import Tensor, nn

from .conv import Conv2d
from .conv_bn import ConvBN
from .fold import fuse, fuse_activation


class FFN(nn.Module):
    """Two pointwise convolutions with a ReLU between, twice as wide inside.

    As a residual branch it starts at zero.
    """

    def __init__(self, channels, norm_cfg):
        super().__init__()
        self.pw1 = ConvBN(channels, 2 * channels, norm_cfg=norm_cfg)
        self.act = nn.ReLU()
        self.pw2 = ConvBN(2 * channels, channels, norm_cfg=norm_cfg)
        self.zero_init_residuals()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.pw2(self.act(self.pw1(x)))

    def zero_init_residuals(self) -> None:
        """Let the branch start at zero."""
        nn.init.zeros_(self.pw2.bn.weight)

    def folded(self) -> nn.Module:
        """The deployed form; of convolutions that did not fold, as it is."""
        fuse_activation(self, 'pw1', 'act')
        return FoldedFFN(self.pw1, self.act, self.pw2) if type(self.pw2) is Conv2d else self


class FoldedFFN(nn.Module):
    """FFN in the deployed form, whose second convolution adds the shortcut if there is one.

    Args:
        pw1 (nn.Module): First convolution, with the ReLU if it could take it along.
        act (nn.Module): ``nn.Identity`` then.
        pw2 (Conv2d): Second convolution.
        adds_shortcut (bool): Whether it adds a shortcut. Defaults to False.
    """

    def __init__(self, pw1, act, pw2, adds_shortcut=False):
        super().__init__()
        self.pw1, self.act = pw1, act
        self.pw2 = fuse(pw2, adds_shortcut=adds_shortcut)

    def forward(self, x: Tensor, shortcut: Optional[Tensor] = None) -> Tensor:
        """(N, C, H, W), and a shortcut of that shape if one is added -> (N, C, H, W)."""
        return self.pw2(self.act(self.pw1(x)), shortcut)

    def with_shortcut(self) -> 'FoldedFFN':
        """The same, adding a shortcut."""
        return FoldedFFN(self.pw1, self.act, self.pw2, adds_shortcut=True)
