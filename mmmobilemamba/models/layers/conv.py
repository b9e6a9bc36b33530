"""Convolution that runs in the kernels of this package, and its fused form."""

from typing import Optional

import torch
from torch import Tensor, nn

from mmmobilemamba.ops import conv2d
from mmmobilemamba.ops.backends import WITH_CPP
from mmmobilemamba.ops.cpu import can_run
from mmmobilemamba.ops.cpu.conv import find_kernel, kernel_of, lay_out
from mmmobilemamba.ops.epilogue import apply_epilogue

torch.fx.wrap('conv2d')  # a leaf in torch.fx graphs, as it depends on sizes and devices


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with padding ``kernel_size // 2``, run by :func:`~mmmobilemamba.ops.conv2d`.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        kernel_size (int): Kernel size, odd. Defaults to 1.
        stride (int): Stride of rows and columns. Defaults to 1.
        groups (int): Number of groups. Defaults to 1.
        bias (bool): Add a bias. Defaults to True.

    Attributes:
        backend (str): Backend of :func:`~mmmobilemamba.ops.conv2d`. Defaults to ``'auto'``.
        laid_out (bool): Whether the weights are kept in the layout of the kernels, see :meth:`lay_out`.
    """

    def __init__(self, in_channels, out_channels, kernel_size=1, stride=1, groups=1, bias=True):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias
        )
        self.backend = 'auto'
        self.laid_out = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        if self.is_changed():
            return super().forward(x)
        return conv2d(x, self.weight, self.bias, self.stride[0], self.groups, backend=self.backend)

    def is_changed(self) -> bool:
        """Whether stride, padding, dilation or padding mode were changed after construction (bool)."""
        side = self.kernel_size[0]
        made = (self.stride[0], self.stride[0]), (side // 2, side // 2), (1, 1), 'zeros'
        return made != (self.stride, self.padding, self.dilation, self.padding_mode)

    def find_kernel(self, x: Tensor) -> Optional[str]:
        """Name of the C++ kernel that :meth:`forward` uses for ``x`` without autocast, or None."""
        if self.backend not in WITH_CPP or self.is_changed() or not can_run(x, self.weight):
            return None
        return find_kernel(x, self.weight, self.stride[0], self.groups)

    def lay_out(self) -> None:
        """Convert the weights to the layout of the kernels, and again whenever they are moved or loaded."""
        if self.backend in WITH_CPP and kernel_of(self.weight, self.stride[0], self.groups):
            self.weight.data = lay_out(self.weight.data)
            self.laid_out = True

    def _apply(self, *args, **kwargs):
        super()._apply(*args, **kwargs)
        if self.laid_out:
            self.lay_out()
        return self

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        weight = destination.get(f'{prefix}weight')
        if (
            self.laid_out and not keep_vars and weight is not None
        ):  # safetensors, for example, accepts only contiguous tensors
            destination[f'{prefix}weight'] = weight.contiguous()

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        if self.laid_out:  # with assign=True, the loaded weights have their own layout
            self.lay_out()


class FusedConv2d(Conv2d):
    """Convolution fused with an activation and the addition of a shortcut, for the deployed form.

    Args:
        in_channels, out_channels, kernel_size, stride, groups, bias: As in :class:`Conv2d`.
        activation (str, optional): ``'relu'`` or ``'silu'``. Defaults to None.
        adds_shortcut (bool): Add a second input to the output, after the activation. Defaults to False.
    """

    def __init__(self, *args, activation=None, adds_shortcut=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.activation = activation
        self.adds_shortcut = adds_shortcut

    def forward(self, x: Tensor, shortcut: Optional[Tensor] = None) -> Tensor:
        """activation(conv(x)) + shortcut: (N, in_channels, H, W) -> (N, out_channels, H', W').

        Raises:
            TypeError: If a shortcut is missing, or given although ``adds_shortcut`` is False.
            ValueError: If the shortcut does not have the shape of the output.
        """
        if self.adds_shortcut != (shortcut is not None):
            raise TypeError(f'This convolution adds {"a" if self.adds_shortcut else "no"} shortcut.')
        if self.is_changed():
            return apply_epilogue(nn.Conv2d.forward(self, x), self.activation, shortcut)
        rest = (self.stride[0], self.groups, self.activation, shortcut, self.backend)
        return conv2d(x, self.weight, self.bias, *rest)

    def extra_repr(self) -> str:
        """As in ``nn.Conv2d``, with activation and shortcut."""
        return f'{super().extra_repr()}, activation={self.activation}, adds_shortcut={self.adds_shortcut}'
