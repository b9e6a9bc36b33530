"""Convolution that takes what follows it along."""

from torch import Tensor, nn

from mmmobilemamba.ops import conv2d
from mmmobilemamba.ops.conv import find_kernel, lay_out
from mmmobilemamba.ops.cpu import can_run


class Conv2d(nn.Conv2d):
    """PyTorch's, with square odd kernels and the padding that keeps the size at stride 1.

    Attributes:
        backend (str): Of :func:`~mmmobilemamba.ops.conv2d`; ``'auto'`` unless changed.
    """

    def __init__(self, in_channels, out_channels, kernel_size=1, stride=1, groups=1, bias=True):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias
        )
        self.backend = 'auto'
        self.laid_out = False

    def has_kernel(self):
        """Whether there is one in C++ for such convolutions, pointwise and depthwise."""
        return self.backend in ('auto', 'cpp') and (self.kernel_size == (1, 1) or self.groups > 1)

    def find_kernel(self, x: Tensor):
        """Name of the kernel in C++ that :meth:`forward` takes for a map without gradients, or None."""
        if self.has_kernel() and can_run(x, self.weight):
            return find_kernel(x, self.weight, self.stride[0], self.groups)
        return None

    def lay_out(self):
        """Keep the weights in the layout that inference is fastest with, wherever the network is moved."""
        self.weight.data = lay_out(self.weight.data)
        self.laid_out = True

    def _apply(self, *args, **kwargs):
        super()._apply(*args, **kwargs)
        if self.laid_out:
            self.lay_out()
        return self

    def forward(self, x: Tensor, activation=None, shortcut=None) -> Tensor:
        """activation(conv(x)) + shortcut: (N, in_channels, H, W) -> (N, out_channels, H', W')."""
        rest = (self.stride[0], self.groups, activation, shortcut, self.backend)
        return conv2d(x, self.weight, self.bias, *rest)
