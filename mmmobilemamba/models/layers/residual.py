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
        """Shape of ``x`` and ``fn(x)``, which are the same."""
        return x + self.fn(x)

    def folded(self) -> nn.Module:
        """One convolution where ``fn`` is a depthwise one; where ``fn`` can add the shortcut, it does."""
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
        """Shape of ``x``."""
        return self.fn(x, x)
