"""Prepares a network for inference on a CPU: deployed, with cached kernel arguments and packed weights."""

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

CALLS = 64  # cached calls per convolution; in a detector, inputs may have hundreds of sizes


@torch.no_grad()
def prepare_for_cpu(model: nn.Module, image: Tensor) -> nn.Module:
    """Copy a network and optimise the copy for inference on this CPU with images of one size.

    The copy is deployed (``switch_to_deploy``), in evaluation mode and without gradients. Convolutions with a
    kernel of this package cache its arguments per input shape. All other convolutions store their weights
    packed for the input size that ``image`` gives them; otherwise oneDNN would pack them at every call. Other
    sizes work, but may be slower. The copy cannot be moved, converted or saved, and checkpoints cannot be
    loaded into it: do that with the original network. For the speedup, see docs/performance.md.

    Args:
        model (nn.Module): A float32 network on the CPU, called with an image only, such as a backbone. It is
            not changed. Convolutions of other types, with a padding given as a string, or with a padding mode
            other than zeros are not packed.
        image (Tensor): An example input of the wanted size, such as (1, 3, 256, 256).

    Returns:
        nn.Module: The prepared copy.

    Raises:
        RuntimeError: If this build of PyTorch lacks oneDNN or its packed convolutions.
        ValueError: If the network or the image is not float32 on the CPU, or the image is not (N, C, H, W).
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
    model = nn.Sequential(copy.deepcopy(model))  # the model may be a convolution itself
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
    """Input sizes of the convolutions without a kernel of this package.

    Args:
        model (nn.Module): Called with ``image``.
        image (Tensor): (N, C, H, W).

    Returns:
        dict[nn.Conv2d, torch.Size]: Convolutions and the (N, C, H, W) of their inputs.
    """
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
    """Whether ``x`` is a proxy of a tensor, as in a trace of ``torch.fx`` (bool)."""
    return isinstance(x, torch.fx.Proxy)


class PreparedConv2d(PreparedModule):
    """Base class of prepared convolutions, whose state, such as addresses, is valid in this process only.

    Args:
        conv (nn.Conv2d): The original; the activation and the shortcut of a ``FusedConv2d`` are kept.
    """

    maker = 'prepare_for_cpu'

    def __init__(self, conv):
        super().__init__()
        self.activation = conv.activation if isinstance(conv, FusedConv2d) else None


class RememberingConv2d(PreparedConv2d):
    """A convolution that caches the arguments of its kernel per shape, strides and dtype of the input.

    Args:
        conv (Conv2d): A float32 convolution on the CPU, without gradients. Its weights are converted to the
            layout of the kernels and must not be replaced afterwards.
    """

    def __init__(self, conv):
        super().__init__(conv)
        self.conv, self.calls = conv, {}
        conv.lay_out()

    def __getstate__(self):
        """State without the cache, which has the addresses of the weights of this object."""
        return {**self.__dict__, 'calls': {}}

    @property
    def weight(self) -> nn.Parameter:
        """Weight of the convolution."""
        return self.conv.weight

    def forward(self, x: Tensor, *shortcut: Tensor) -> Tensor:
        """As the original convolution: (N, in_channels, H, W) -> (N, out_channels, H', W')."""
        if is_proxy(x) or autocasts() or not can_run(x, *shortcut):
            return self.conv(x, *shortcut)
        key = x.shape, x.stride(), x.dtype
        call = self.calls.get(key) or self.remember(key, x)
        return call(x, *shortcut) if call else self.conv(x, *shortcut)

    def remember(self, key: tuple, x: Tensor) -> PreparedConv | None:
        """Cache the kernel's arguments for maps like ``x`` under ``key``; None if there is no kernel."""
        conv = self.conv
        kernel = conv.find_kernel(x)
        if kernel is None or (conv.bias is not None and not can_run(x, conv.bias)):
            return None
        if len(self.calls) >= CALLS:
            self.calls.clear()
        call = self.calls[key] = PreparedConv(
            kernel, x, conv.weight, conv.bias, conv.stride[0], self.activation
        )
        return call  # not read from the cache, which another thread may have cleared


class PackedConv2d(PreparedConv2d):
    """A convolution whose weights are packed for one input size.

    Args:
        conv (nn.Conv2d): The original, with padding mode ``'zeros'`` and a padding given as numbers.
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
        """As the original convolution: (N, in_channels, H, W) -> (N, out_channels, H', W').

        Raises:
            RuntimeError: While tracing or exporting, as packed weights cannot be part of a graph.
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
