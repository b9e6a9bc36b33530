"""Convolution that takes what follows it along."""

from torch import Tensor, nn

from mmmobilemamba.ops import conv2d
from mmmobilemamba.ops.backends import WITH_CPP
from mmmobilemamba.ops.cpu import can_run
from mmmobilemamba.ops.cpu.conv import find_kernel, kernel_of, lay_out
from mmmobilemamba.ops.epilogue import apply_epilogue


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

    def forward(self, x: Tensor, activation=None, shortcut=None) -> Tensor:
        """activation(conv(x)) + shortcut: (N, in_channels, H, W) -> (N, out_channels, H', W')."""
        if self.is_changed():
            return apply_epilogue(super().forward(x), activation, shortcut)
        rest = (self.stride[0], self.groups, activation, shortcut, self.backend)
        return conv2d(x, self.weight, self.bias, *rest)

    def is_changed(self):
        """Whether somebody has given it a dilation, say, since it was made."""
        side = self.kernel_size[0]
        made = (self.stride[0], self.stride[0]), (side // 2, side // 2), (1, 1), 'zeros'
        return made != (self.stride, self.padding, self.dilation, self.padding_mode)

    def find_kernel(self, x: Tensor):
        """Name of the kernel in C++ that :meth:`forward` takes for a map outside of autocast, or None."""
        if self.backend not in WITH_CPP or self.is_changed() or not can_run(x, self.weight):
            return None
        return find_kernel(x, self.weight, self.stride[0], self.groups)

    def lay_out(self):
        """Keep the weights in the layout that inference is fastest with, wherever the network is moved."""
        if self.backend in WITH_CPP and kernel_of(self.weight, self.stride[0], self.groups):
            self.weight.data = lay_out(self.weight.data)
            self.laid_out = True

    def _apply(self, *args, **kwargs):
        super()._apply(*args, **kwargs)
        if self.laid_out:
            self.lay_out()
        return self

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        if self.laid_out:  # weights that were assigned instead of copied are as they come
            self.lay_out()
