"""Squeeze-and-excitation: channel attention."""

from torch import Tensor, nn

from .conv import Conv2d
from .fold import fuse_activation


class SqueezeExcite(nn.Module):
    """x * sigmoid(fc2(relu(fc1(mean(x))))). Source: https://arxiv.org/abs/1709.01507.

    Args:
        channels (int): Channels of the input and output. The hidden width is a quarter of it, rounded to a
            multiple of 8, and at least 8.
    """

    def __init__(self, channels):
        super().__init__()
        reduced = max(8, (channels // 4 + 4) // 8 * 8)
        self.fc1 = Conv2d(channels, reduced)
        self.act = nn.ReLU()
        self.fc2 = Conv2d(reduced, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        scale = self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * scale.sigmoid()

    def folded(self) -> nn.Module:
        """Fuse the ReLU into the first convolution."""
        fuse_activation(self, 'fc1', 'act')
        return self
