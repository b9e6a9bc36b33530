"""Folds batch norms, channel scales, activations and shortcuts exactly into the convolution before them.

All arithmetic is in float64, on the device of the weights. Folded parameters stay in float64 until
:func:`folding` rounds them, once. Source: section 3.3 of https://arxiv.org/abs/2101.03697 for batch
norm and the identity.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional, TypeVar

import torch
from mmcv.cnn.bricks import wrappers
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .conv import Conv2d, FusedConv2d

# Other types may transform their weights before the convolution, as weight standardisation does.
PLAIN = (Conv2d, nn.Conv2d, nn.ConvTranspose2d, wrappers.Conv2d, wrappers.ConvTranspose2d)
FUSED = {nn.ReLU: 'relu', nn.SiLU: 'silu'}  # activations that FusedConv2d supports
# Attributes that may be changed after construction, for example to dilate a backbone.
GEOMETRY = ('stride', 'padding', 'dilation', 'padding_mode', '_reversed_padding_repeated_twice')

_Layer = TypeVar('_Layer', bound=nn.Module)
_Conv = TypeVar('_Conv', nn.Conv2d, nn.ConvTranspose2d)


@torch.no_grad()
def fold(module: nn.Module) -> nn.Module:
    """Convert a module and its children to their deployed form.

    If a module has a method ``folded()``, it is called after the children are converted and returns the
    deployed form, which may be the module itself.

    Args:
        module (nn.Module): Changed in place; use the returned module instead of it.

    Returns:
        nn.Module: Equal in evaluation, up to rounding. Folded parameters are float64.
    """
    for name, child in module.named_children():
        setattr(module, name, fold(child))
    return module.folded() if hasattr(module, 'folded') else module


@contextmanager
def folding(network: nn.Module) -> Iterator[None]:
    """Context manager for folding a network in place, which keeps its dtype and device.

    At the end, folded parameters, those in float64, are rounded to the dtype of the network, and weights of
    convolutions are converted to the layout of the kernels. Apple's GPUs have no float64, so their networks
    are folded on the CPU.

    Args:
        network (nn.Module): The network.

    Raises:
        ValueError: If a weight is computed by a hook.
    """
    check_weights(network)
    weight = next(network.parameters())
    dtype, device = weight.dtype, weight.device
    with torch.inference_mode(False), torch.no_grad():  # parameters must not be inference tensors
        if device.type == 'mps':
            network.cpu()
        try:
            yield
        finally:
            round_weights(network, dtype)
            if device.type == 'mps':
                network.to(device)


def check_weights(network: nn.Module) -> None:
    """Check that no weight is computed by a hook, which would overwrite the folded weight.

    Raises:
        ValueError: If the weight of a convolution is not a parameter.
    """
    for name, module in network.named_modules():
        if (
            isinstance(module, PLAIN)
            and module._parameters.get('weight') is None
            and 'weight' in vars(module)
        ):
            raise ValueError(
                f'The weight of {name} is computed by a hook, as that of weight_norm, spectral_norm or '
                f'pruning, and cannot be folded. Make it a parameter first: remove_weight_norm, '
                f"remove_spectral_norm and prune.remove(module, 'weight') of torch.nn.utils do that."
            )


def round_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast float64 parameters to ``dtype`` and convert weights to the layout of the kernels, in place."""
    for parameter in module.parameters():
        if parameter.dtype == torch.float64:
            parameter.data = parameter.data.to(dtype)
    for child in module.modules():
        if isinstance(child, Conv2d):
            child.lay_out()


def can_fold(norm: nn.Module) -> bool:
    """Whether a norm layer is a batch norm with running statistics, which is affine in evaluation (bool)."""
    return isinstance(norm, _BatchNorm) and norm.running_mean is not None


def norm_affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm in evaluation, (C) each, float64."""
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift + norm.bias.double() if norm.affine else shift


def fold_affine(conv: _Conv, scale: Tensor, shift: Optional[Tensor] = None) -> _Conv:
    """``scale * conv(x) + shift`` as one convolution.

    Args:
        conv (nn.Conv2d | nn.ConvTranspose2d): A convolution of a type in ``PLAIN``; transposed ones must have
            one group.
        scale (Tensor): (out_channels).
        shift (Tensor, optional): (out_channels). Defaults to None.

    Returns:
        nn.Conv2d | nn.ConvTranspose2d: A new convolution in float64, with a bias if needed.
    """
    scale = scale.double()
    weight = conv.weight.double() * scale.view((1, -1, 1, 1) if conv.transposed else (-1, 1, 1, 1))
    bias = None if conv.bias is None else conv.bias.double() * scale
    if shift is not None:
        bias = shift.double() if bias is None else bias + shift.double()
    return with_weights(conv, weight, bias)


def fold_norm(conv: _Conv, norm: _BatchNorm) -> _Conv:
    """``norm(conv(x))`` in evaluation as one convolution, for a ``norm`` that :func:`can_fold`."""
    return fold_affine(conv, *norm_affine(norm))


def fold_norm_before(norm: _BatchNorm, linear: nn.Linear) -> nn.Linear:
    """``linear(norm(x))`` in evaluation as one linear layer, for a ``norm`` that :func:`can_fold`."""
    scale, shift = norm_affine(norm)
    weight = linear.weight.double()
    bias = weight @ shift
    if linear.bias is not None:
        bias += linear.bias.double()
    return with_weights(linear, weight * scale, bias)


def fold_identity(conv: nn.Conv2d) -> nn.Conv2d:
    """``x + conv(x)`` as one convolution, for one that :func:`keeps_channels`."""
    weight = conv.weight.double().clone()  # double() does not copy float64 weights
    weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] += 1
    return with_weights(conv, weight, conv.bias)


def fuse(conv: Conv2d, activation: Optional[str] = None, adds_shortcut: bool = False) -> FusedConv2d:
    """Make a fused convolution from a convolution.

    Args:
        conv (Conv2d): The convolution; it is not changed.
        activation (str, optional): See :class:`FusedConv2d`. Defaults to None.
        adds_shortcut (bool): See :class:`FusedConv2d`. Defaults to False.

    Returns:
        FusedConv2d: A convolution that shares the parameters of ``conv``.
    """
    sizes = conv.in_channels, conv.out_channels, conv.kernel_size[0], 1, conv.groups
    with torch.device('meta'):  # skips the random initialisation
        fused = FusedConv2d(*sizes, bias=False, activation=activation, adds_shortcut=adds_shortcut)
    fused.weight, fused.bias = conv.weight, conv.bias
    for name in GEOMETRY:
        setattr(fused, name, getattr(conv, name))
    fused.backend, fused.laid_out = conv.backend, conv.laid_out
    return fused.train(conv.training)


def fuse_activation(module: nn.Module, conv: str, act: str) -> None:
    """Fuse an activation into the convolution before it, in place, and replace it by ``nn.Identity``.

    Does nothing if either was replaced by another type of module.

    Args:
        module (nn.Module): The parent of both.
        conv (str): Name of the convolution in ``module``.
        act (str): Name of the activation in ``module``.
    """
    source, activation = getattr(module, conv), FUSED.get(type(getattr(module, act)))
    if type(source) is Conv2d and activation:
        setattr(module, conv, fuse(source, activation))
        setattr(module, act, nn.Identity())


def keeps_channels(module: nn.Module) -> bool:
    """Whether a module is a depthwise convolution with zero padding that keeps the shape (bool)."""
    return (
        type(module) in (Conv2d, nn.Conv2d)
        and module.groups == module.in_channels == module.out_channels
        and module.stride == (1, 1)
        and module.padding_mode == 'zeros'
        and all(
            side % 2 and 2 * pad == step * (side - 1)
            for side, pad, step in zip(module.kernel_size, module.padding, module.dilation)
        )
    )


def with_weights(layer: _Layer, weight: Tensor, bias: Optional[Tensor]) -> _Layer:
    """A copy of ``layer`` with this weight and bias, in float64."""
    new = copy.deepcopy(layer)
    for name, value in dict(weight=weight, bias=bias).items():
        if value is not None:
            value = nn.Parameter(value.double().contiguous(), requires_grad=layer.weight.requires_grad)
        setattr(new, name, value)
    return new
