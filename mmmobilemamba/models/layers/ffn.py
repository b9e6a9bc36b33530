"""Feed-forward network of two pointwise convolutions."""

from typing import Optional

from torch import Tensor, nn

from .conv import Conv2d
from .conv_bn import ConvBN
from .fold import fuse, fuse_activation


class FFN(nn.Module):
    """Two pointwise convolutions with a ReLU between them; the hidden width is twice the channels.

    It is a residual branch, initialised to zero.

    Args:
        channels (int): Channels of the input and output.
        norm_cfg (dict): Norm layer.
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
        """Initialise the branch to zero."""
        nn.init.zeros_(self.pw2.bn.weight)

    def folded(self) -> nn.Module:
        """The deployed form; self if the second convolution was not folded."""
        fuse_activation(self, 'pw1', 'act')
        return FoldedFFN(self.pw1, self.act, self.pw2) if type(self.pw2) is Conv2d else self


class FoldedFFN(nn.Module):
    """FFN in the deployed form. Its second convolution can also add a shortcut.

    Args:
        pw1 (nn.Module): First convolution, fused with the ReLU if possible.
        act (nn.Module): The ReLU, or ``nn.Identity`` if it is fused.
        pw2 (Conv2d): Second convolution.
        adds_shortcut (bool): Whether ``pw2`` adds a shortcut. Defaults to False.
    """

    def __init__(self, pw1, act, pw2, adds_shortcut=False):
        super().__init__()
        self.pw1, self.act = pw1, act
        self.pw2 = fuse(pw2, adds_shortcut=adds_shortcut)

    def forward(self, x: Tensor, shortcut: Optional[Tensor] = None) -> Tensor:
        """(N, C, H, W), and with ``adds_shortcut`` a shortcut of this shape -> (N, C, H, W)."""
        return self.pw2(self.act(self.pw1(x)), shortcut)

    def with_shortcut(self) -> 'FoldedFFN':
        """A form that adds a shortcut."""
        return FoldedFFN(self.pw1, self.act, self.pw2, adds_shortcut=True)
