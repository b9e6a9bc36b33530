"""Depthwise convolution as custom operators of PyTorch, ``torch.ops.mmmobilemamba.depthwise_conv*``.

The operators are opaque to ``torch.compile``. On GPUs they run the Triton kernels of :mod:`.depthwise`, which
is imported at first use; on CPUs, PyTorch's convolution. The convolution and its two gradients are
derivatives of each other, so derivatives of any order exist.
"""

import importlib
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backends import AS_OPERATOR

ARGUMENTS = 'Tensor x, Tensor weight, Tensor? bias, int stride'
SCHEMAS = dict(
    depthwise_conv=f'({ARGUMENTS}) -> Tensor',
    depthwise_conv_act=f'({ARGUMENTS}, str? activation, Tensor? shortcut) -> Tensor',
    depthwise_conv_grad_input='(Tensor grad, Tensor weight, SymInt[] size, int stride) -> Tensor',
    depthwise_conv_grad_weight='(Tensor grad, Tensor x, int kernel_size, int stride) -> Tensor',
)


def _kernels():
    return importlib.import_module('.depthwise', __package__)


def empty_channels_last(like: Tensor, batch: int, channels: int, height: int, width: int) -> Tensor:
    """Uninitialised map (N, C, H, W) in channels-last, with the dtype and device of ``like``."""
    return like.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)


def _copy_channels_last(x):
    return empty_channels_last(x, *x.shape).copy_(x)


def _forward_cuda(x, weight, bias, stride, activation=None, shortcut=None):
    return _kernels().forward(x, weight, bias, stride, activation, shortcut)


def _grad_input_cuda(grad, weight, size, stride):
    return _kernels().grad_input(grad, weight, size, stride)


def _grad_weight_cuda(grad, x, kernel_size, stride):
    return _kernels().grad_weight(grad, x, kernel_size, stride)


def _forward_cpu(x, weight, bias, stride, activation=None, shortcut=None):
    bias = bias if bias is None else bias.to(x.dtype)
    out = F.conv2d(x, weight.to(x.dtype), bias, stride, weight.shape[2] // 2, groups=x.shape[1])
    out = out if activation is None else getattr(F, activation)(out)
    return _copy_channels_last(out if shortcut is None else out + shortcut)


def _grad_input_cpu(grad, weight, size, stride):
    size, padding, groups = (*grad.shape[:2], *size), weight.shape[2] // 2, grad.shape[1]
    weight = weight.to(grad.dtype)
    return _copy_channels_last(torch.nn.grad.conv2d_input(size, weight, grad, stride, padding, groups=groups))


def _grad_weight_cpu(grad, x, kernel_size, stride):
    size, padding = (x.shape[1], 1, kernel_size, kernel_size), kernel_size // 2
    dtype = torch.promote_types(x.dtype, torch.float32)
    x, grad = x.to(dtype), grad.to(dtype)
    return torch.nn.grad.conv2d_weight(x, size, grad, stride, padding, groups=size[0]).contiguous()


def _fake_forward(x, weight, bias, stride, activation=None, shortcut=None):
    batch, channels, height, width = x.shape
    return empty_channels_last(x, batch, channels, (height - 1) // stride + 1, (width - 1) // stride + 1)


def _fake_grad_input(grad, weight, size, stride):
    return empty_channels_last(grad, *grad.shape[:2], *size)


def _fake_grad_weight(grad, x, kernel_size, stride):
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty((x.shape[1], 1, kernel_size, kernel_size), dtype=dtype)


def _save_forward(ctx, inputs, output):
    x, weight, bias, ctx.stride = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad):
    x, weight = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grad_x = _grad_input(grad, weight, x, ctx.stride) if needs[0] else None
    grad_weight = _grad_weight(grad, x, weight, ctx.stride) if needs[1] else None
    grad_bias = grad.sum((0, 2, 3)).to(ctx.bias_dtype) if needs[2] else None
    return grad_x, grad_weight, grad_bias, None


def _save_gradient(ctx, inputs, output):
    *tensors, _, ctx.stride = inputs
    ctx.save_for_backward(*tensors)


def _backward_grad_input(ctx, upstream):
    grad, weight = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grad_grad = depthwise_conv(upstream, weight, None, ctx.stride) if needs[0] else None
    grad_weight = _grad_weight(grad, upstream, weight, ctx.stride) if needs[1] else None
    return grad_grad, grad_weight, None, None


def _backward_grad_weight(ctx, upstream):
    grad, x = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grad_grad = depthwise_conv(x, upstream, None, ctx.stride) if needs[0] else None
    grad_x = _grad_input(grad, upstream, x, ctx.stride) if needs[1] else None
    return grad_grad, grad_x, None, None


def _grad_input(grad, weight, x, stride):
    return torch.ops.mmmobilemamba.depthwise_conv_grad_input(grad, weight, x.shape[2:], stride)


def _grad_weight(grad, x, weight, stride):
    side = weight.shape[2]
    return torch.ops.mmmobilemamba.depthwise_conv_grad_weight(grad, x, side, stride).to(weight.dtype)


# Kernels for CPU and GPU and the fake kernel; of differentiable operators, also setup_context and backward.
OPERATORS = dict(
    depthwise_conv=(_forward_cpu, _forward_cuda, _fake_forward, _save_forward, _backward),
    depthwise_conv_act=(_forward_cpu, _forward_cuda, _fake_forward),
    depthwise_conv_grad_input=(
        _grad_input_cpu, _grad_input_cuda, _fake_grad_input, _save_gradient, _backward_grad_input,
    ),
    depthwise_conv_grad_weight=(
        _grad_weight_cpu, _grad_weight_cuda, _fake_grad_weight, _save_gradient, _backward_grad_weight,
    ),
)  # fmt: skip


def register() -> torch.library.Library:
    """Define the operators and their gradients. They exist as long as the returned library is referenced."""
    library = torch.library.Library('mmmobilemamba', 'FRAGMENT')
    for name, (on_cpu, on_gpu, fake, *derivative) in OPERATORS.items():
        library.define(name + SCHEMAS[name])
        library.impl(name, on_cpu, 'CPU')
        library.impl(name, on_gpu, 'CUDA')
        torch.library.register_fake(f'mmmobilemamba::{name}', fake, lib=library)
        if derivative:
            save, backward = derivative
            torch.library.register_autograd(
                f'mmmobilemamba::{name}', backward, setup_context=save, lib=library
            )
    return library


LIBRARY = register() if AS_OPERATOR else None


class DepthwiseConv(torch.autograd.Function):
    """:func:`depthwise_conv` on a GPU without the overhead of ``torch.library``, about 15 us per forward."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _save_forward(ctx, inputs, None)
        return _forward_cuda(*inputs)

    backward = staticmethod(_backward)


def depthwise_conv(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, stride: int = 1) -> Tensor:
    """Depthwise convolution with padding ``k // 2``; needs PyTorch 2.4 or newer.

    Args:
        x (Tensor): (N, C, H, W). Of any memory format; channels-last is not copied.
        weight (Tensor): (C, 1, k, k), k odd; rounded to the dtype of ``x``.
        bias (Tensor, optional): (C). Defaults to None.
        stride (int): Stride of rows and columns. Defaults to 1.

    Returns:
        Tensor: (N, C, ceil(H / stride), ceil(W / stride)), channels-last, in the dtype of ``x``.
    """
    return torch.ops.mmmobilemamba.depthwise_conv(x, weight, bias, stride)


def depthwise_conv_act(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: int = 1,
    activation: Optional[str] = None,
    shortcut: Optional[Tensor] = None,
) -> Tensor:
    """:func:`depthwise_conv` followed by an activation and the addition of a shortcut, without gradients.

    Args:
        x, weight, bias, stride: As in :func:`depthwise_conv`.
        activation (str, optional): ``'relu'`` or ``'silu'``. Defaults to None.
        shortcut (Tensor, optional): (N, C, ceil(H / stride), ceil(W / stride)), in the dtype of ``x``.
            Defaults to None.

    Returns:
        Tensor: (N, C, ceil(H / stride), ceil(W / stride)), channels-last, in the dtype of ``x``.
    """
    return torch.ops.mmmobilemamba.depthwise_conv_act(x, weight, bias, stride, activation, shortcut)
