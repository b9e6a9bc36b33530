"""Exact folds: batch norm, channel scales, activations and shortcuts into the convolution before them.

All arithmetic is in float64, on the device of the weights. What is folded stays so until
:func:`folding` rounds it, once. Source: section 3.3 of https://arxiv.org/abs/2101.03697 for batch
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

# Others, such as those that standardise their weights, may do more with them than convolve.
PLAIN = (Conv2d, nn.Conv2d, nn.ConvTranspose2d, wrappers.Conv2d, wrappers.ConvTranspose2d)
FUSED = {nn.ReLU: 'relu', nn.SiLU: 'silu'}  # names of the activations that a convolution takes along
# What others may have changed of a convolution since it was made, as those do who dilate a backbone.
GEOMETRY = ('stride', 'padding', 'dilation', 'padding_mode', '_reversed_padding_repeated_twice')

_Layer = TypeVar('_Layer', bound=nn.Module)
_Conv = TypeVar('_Conv', nn.Conv2d, nn.ConvTranspose2d)


@torch.no_grad()
def fold(module: nn.Module) -> nn.Module:
    """The deployed form of a module, its children replaced by theirs.

    A module knows its own form through a method ``folded()``, which is called once those of its
    children are in place, and may return the module itself.

    Args:
        module (nn.Module): Changed in place; what it returns is to be used from now on.

    Returns:
        nn.Module: Equal in evaluation, to rounding. What was folded is float64.
    """
    for name, child in module.named_children():
        setattr(module, name, fold(child))
    return module.folded() if hasattr(module, 'folded') else module


@contextmanager
def folding(network: nn.Module) -> Iterator[None]:
    """Where what is folded in a network, in place, leaves a network of the same type on the same device.

    What was folded, the parameters in float64, is rounded at the end, and weights of convolutions get the
    layout of the kernels for CPUs. Apple's GPUs have no float64, so there the CPU folds.

    Raises:
        ValueError: If a weight is computed by a hook.
    """
    check_weights(network)
    weight = next(network.parameters())
    dtype, device = weight.dtype, weight.device
    with torch.inference_mode(False), torch.no_grad():  # whose tensors could not be used outside of it
        if device.type == 'mps':
            network.cpu()
        try:
            yield
        finally:
            round_weights(network, dtype)
            if device.type == 'mps':
                network.to(device)


def check_weights(network: nn.Module) -> None:
    """Make sure that weights are parameters, and not computed by a hook before each call.

    Raises:
        ValueError: If there is one that is; a hook would put it back in the place of the folded one.
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
    """Give what was folded, the parameters in float64, a type, and the fastest layout; in place."""
    for parameter in module.parameters():
        if parameter.dtype == torch.float64:
            parameter.data = parameter.data.to(dtype)
    for child in module.modules():
        if isinstance(child, Conv2d):
            child.lay_out()


def can_fold(norm: nn.Module) -> bool:
    """Whether a norm layer is an affine map of each channel in evaluation, as batch norm is."""
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
        conv (nn.Conv2d | nn.ConvTranspose2d): Of one of the types in ``PLAIN``; transposed, with one group.
        scale (Tensor): (out_channels).
        shift (Tensor, optional): (out_channels).

    Returns:
        nn.Conv2d | nn.ConvTranspose2d: A new one in float64, with a bias if it needs one.
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
    weight = conv.weight.double().clone()  # float64 is its own double
    weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] += 1
    return with_weights(conv, weight, conv.bias)


def fuse(conv: Conv2d, activation: Optional[str] = None, adds_shortcut: bool = False) -> FusedConv2d:
    """A convolution with the weights of another one that also computes what follows it.

    Args:
        conv (Conv2d): Stays as it is.
        activation (str, optional): See :class:`FusedConv2d`.
        adds_shortcut (bool): Likewise.

    Returns:
        FusedConv2d: With the parameters of ``conv``.
    """
    sizes = conv.in_channels, conv.out_channels, conv.kernel_size[0], 1, conv.groups
    with torch.device('meta'):  # without weights, to which it would draw random numbers
        fused = FusedConv2d(*sizes, bias=False, activation=activation, adds_shortcut=adds_shortcut)
    fused.weight, fused.bias = conv.weight, conv.bias
    for name in GEOMETRY:
        setattr(fused, name, getattr(conv, name))
    fused.backend, fused.laid_out = conv.backend, conv.laid_out
    return fused.train(conv.training)


def fuse_activation(module: nn.Module, conv: str, act: str) -> None:
    """Put an activation into the convolution before it, in place; ``nn.Identity`` keeps its place.

    Nothing changes where one of both is another module than the networks of this package have there.

    Args:
        module (nn.Module): Their parent.
        conv (str): Name of the convolution in it.
        act (str): Name of the activation.
    """
    source, activation = getattr(module, conv), FUSED.get(type(getattr(module, act)))
    if type(source) is Conv2d and activation:
        setattr(module, conv, fuse(source, activation))
        setattr(module, act, nn.Identity())


def keeps_channels(module: nn.Module) -> bool:
    """Whether a module is a depthwise convolution that keeps the size, with zeros around the map."""
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
    """A layer with the settings and mode of ``layer``, and these weights, in float64."""
    new = copy.deepcopy(layer)
    for name, value in dict(weight=weight, bias=bias).items():
        if value is not None:
            value = nn.Parameter(value.double().contiguous(), requires_grad=layer.weight.requires_grad)
        setattr(new, name, value)
    return new
