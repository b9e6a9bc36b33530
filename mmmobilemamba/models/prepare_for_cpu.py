"""Preparation of a network for inference on a CPU, with what does not depend on the image done beforehand."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mmmobilemamba.ops.backends import autocasts
from mmmobilemamba.ops.cpu import can_run
from mmmobilemamba.ops.cpu.conv import PreparedConv
from mmmobilemamba.ops.epilogue import apply_epilogue
from mmmobilemamba.ops.tracing import is_exported

from .deploy import deploy
from .layers import Conv2d, FusedConv2d
from .prepared import PreparedModule

CALLS = 64  # that a convolution remembers; those of a detector meet hundreds of sizes


@torch.no_grad()
def prepare_for_cpu(model: nn.Module, image: Tensor) -> nn.Module:
    """A copy of a network for inference on this CPU, with images of one size.

    The copy is deployed (``switch_to_deploy``), in evaluation and without gradients. Its plain convolutions
    remember how their kernel of this package is called for the sizes that they meet; those for which there is
    none here keep their weights packed for the size that they meet with ``image``, which oneDNN would else do
    at every call. Other sizes work, but may be slower. It cannot be moved, converted, saved or loaded into:
    do that with the network that it was made from. How much it gains: docs/performance.md.

    Args:
        model (nn.Module): In float32 on the CPU, called with an image alone, such as a backbone. It stays as
            it is. Convolutions of other types, or with paddings in words or other than zeros, are not packed.
        image (Tensor): An input of the wanted size, such as (1, 3, 256, 256).

    Returns:
        nn.Module: The copy.

    Raises:
        RuntimeError: If this PyTorch comes without oneDNN or its packed convolutions.
        ValueError: If the network or the image is not float32 on the CPU, or the image not (N, C, H, W).
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, '_convolution_pointwise'):
        raise RuntimeError(
            f'This PyTorch, {torch.__version__}, has no packed convolutions of oneDNN, which come with its '
            f'builds for x86-64. Use the network as it is, after switch_to_deploy().'
        )
    for tensor in (image, *model.parameters()):
        if tensor.device.type != 'cpu' or tensor.dtype != torch.float32:
            raise ValueError(
                f'Network and image must be float32 on the CPU, not {tensor.dtype} on {tensor.device}: call '
                f'.float().cpu() on both.'
            )
    if image.ndim != 4:
        raise ValueError(f'The image must be (N, C, H, W), but has shape {tuple(image.shape)}.')
    model = nn.Sequential(copy.deepcopy(model))  # it may be a convolution itself
    model.eval().requires_grad_(False)
    deploy(model)
    sizes = input_sizes(model, image)
    ours = Conv2d, FusedConv2d
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if child in sizes:
                setattr(parent, name, PackedConv2d(child, sizes[child]))
            elif type(child) in ours and not (child._forward_hooks or child._forward_pre_hooks):
                setattr(parent, name, RememberingConv2d(child))
    return model[0]


def input_sizes(model: nn.Module, image: Tensor) -> dict[nn.Conv2d, torch.Size]:
    """Sizes that convolutions without a kernel meet with an image (dict[nn.Conv2d, torch.Size])."""
    sizes = {}

    def note(conv, inputs):
        if not (isinstance(conv, Conv2d) and conv.find_kernel(inputs[0])):
            sizes[conv] = inputs[0].shape

    kinds = Conv2d, FusedConv2d, nn.Conv2d
    convs = [m for m in model.modules() if type(m) in kinds and m.padding_mode == 'zeros']
    hooks = [conv.register_forward_pre_hook(note) for conv in convs if not isinstance(conv.padding, str)]
    model(image)
    for hook in hooks:
        hook.remove()
    return sizes


def is_proxy(x: Any) -> bool:
    """Whether ``torch.fx`` is tracing, which has stand-ins of tensors."""
    return isinstance(x, torch.fx.Proxy)


class PreparedConv2d(PreparedModule):
    """Base of convolutions that hold what is of this process alone, such as addresses.

    Args:
        conv (nn.Conv2d): What is prepared; with the activation and the shortcut of a ``FusedConv2d``.
    """

    maker = 'prepare_for_cpu'

    def __init__(self, conv):
        super().__init__()
        self.activation = conv.activation if isinstance(conv, FusedConv2d) else None


class RememberingConv2d(PreparedConv2d):
    """A convolution that remembers how its kernel is called for maps of a shape and layout that it has met.

    Args:
        conv (Conv2d): In float32 on the CPU, without gradients. Its weights get the layout of the kernels,
            and have to stay as they are from then on.
    """

    def __init__(self, conv):
        super().__init__(conv)
        self.conv, self.calls = conv, {}
        conv.lay_out()

    def __getstate__(self):
        """Without the calls, in which a copy would have the addresses of the original's weights."""
        return {**self.__dict__, 'calls': {}}

    @property
    def weight(self) -> nn.Parameter:
        """Of the convolution."""
        return self.conv.weight

    def forward(self, x: Tensor, *shortcut: Tensor) -> Tensor:
        """As the convolution: (N, in_channels, H, W) -> (N, out_channels, H', W')."""
        if is_proxy(x) or autocasts() or not can_run(x, *shortcut):
            return self.conv(x, *shortcut)
        key = x.shape, x.stride(), x.dtype
        call = self.calls.get(key) or self.remember(key, x)
        return call(x, *shortcut) if call else self.conv(x, *shortcut)

    def remember(self, key: tuple, x: Tensor) -> PreparedConv | None:
        """The call of the kernel for such maps, or None if there is none."""
        conv = self.conv
        kernel = conv.find_kernel(x)
        if kernel is None or (conv.bias is not None and not can_run(x, conv.bias)):
            return None
        if len(self.calls) >= CALLS:
            self.calls.clear()
        call = self.calls[key] = PreparedConv(
            kernel, x, conv.weight, conv.bias, conv.stride[0], self.activation
        )
        return call  # which another thread may have cleared from the calls already


class PackedConv2d(PreparedConv2d):
    """A convolution whose weights are packed for one size of its input.

    Args:
        conv (nn.Conv2d): What is packed, with a zero padding given in numbers.
        size (torch.Size): (N, C, H, W) of the input.
    """

    def __init__(self, conv, size):
        super().__init__(conv)
        self.bias = conv.bias
        self.geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        weight = conv.weight.detach().to_mkldnn()
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(weight, *self.geometry, size)

    def __getstate__(self):
        raise RuntimeError(
            f'A network from {self.maker} with packed weights cannot be copied or saved. Do that with the '
            f'network that it was made from, and prepare it again.'
        )

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """As the convolution: (N, in_channels, H, W) -> (N, out_channels, H', W').

        Raises:
            RuntimeError: In a trace or an export, which packed weights cannot be part of.
        """
        if is_proxy(x) or torch.jit.is_tracing() or is_exported():
            raise RuntimeError(
                f'A network from {self.maker} with packed weights cannot be traced or exported. Do that with '
                f'the network that it was made from.'
            )
        out = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, 'none', [], ''
        )
        return apply_epilogue(out, self.activation, shortcut)
