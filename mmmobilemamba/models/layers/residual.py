"""Shortcut around a module."""

from torch import Tensor, nn

from .fold import fold_identity, keeps_channels


class Residual(nn.Module):
    """x + fn(x).

    Args:
        fn (nn.Module): Keeps the shape of its input.
    """

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """x + fn(x), in the shape of ``x``."""
        return x + self.fn(x)

    def folded(self) -> nn.Module:
        """Fold the shortcut into a depthwise convolution, or fuse it into ``fn`` if that can add it."""
        if keeps_channels(self.fn):
            return fold_identity(self.fn)
        return FoldedResidual(self.fn.with_shortcut()) if hasattr(self.fn, 'with_shortcut') else self


class FoldedResidual(nn.Module):
    """x + fn(x) in the deployed form.

    Args:
        fn (nn.Module): Called as ``fn(x, x)``; its last convolution adds the second input.
    """

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """x + fn(x), in the shape of ``x``."""
        return self.fn(x, x)
