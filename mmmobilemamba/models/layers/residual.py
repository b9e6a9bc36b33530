"""Shortcut around a module."""

from torch import Tensor, nn

from .fold import fold_identity, keeps_channels


class Residual(nn.Module):
    """x + fn(x).

    Args:
        fn (nn.Module): Called as ``fn(x, shortcut=x)``, it adds the shortcut where its own work ends, so
            that a convolution can do it on the way.
    """

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """Shape of ``x`` and ``fn(x)``, which are the same."""
        return self.fn(x, shortcut=x)

    def folded(self):
        """One convolution where ``fn`` is a depthwise one; otherwise as it is."""
        return fold_identity(self.fn) if keeps_channels(self.fn) else self
