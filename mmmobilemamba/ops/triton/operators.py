"""The Haar transform and the gated norm as custom operators, ``torch.ops.mmmobilemamba.haar_dwt`` and others.

The operators are opaque to ``torch.compile`` and ``torch.export``. Their GPU kernels are in Triton and
imported at first use. Their CPU kernels are in PyTorch, so graphs that contain them also run on CPUs.
"""

import importlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shapes import check_gate
from .common import empty_bands, empty_gate, empty_inverse

GATE_INPUTS = 'Tensor y, Tensor weight, Tensor bias, float eps, Tensor z'


def _kernels(name):
    return importlib.import_module(f'.{name}', __package__)


def register_haar(
    dwt: Callable[[Tensor], Tensor], idwt: Callable[[Tensor, Tensor], Tensor]
) -> torch.library.Library:
    """Define the operators of the Haar transform. They exist as long as the returned library is referenced.

    ``haar_dwt(x, dtype)`` and ``haar_idwt(bands, base, height, width, dtype)`` return tensors of ``dtype``,
    in the memory format of ``x`` and ``base``. Without a base, the inverse alone is returned, in the memory
    format of the bands. Each operator is the gradient of the other, so derivatives of any order exist.

    Args:
        dwt (Callable): CPU kernel, x -> bands.
        idwt (Callable): CPU kernel, (bands, base) -> map.

    Returns:
        torch.library.Library: The library with the operators.
    """
    library = torch.library.Library('mmmobilemamba', 'FRAGMENT')
    library.define('haar_dwt(Tensor x, ScalarType dtype) -> Tensor')
    library.define(
        'haar_idwt(Tensor bands, Tensor? base, SymInt height, SymInt width, ScalarType dtype) -> Tensor'
    )

    def dwt_on_cpu(x, dtype):
        return empty_bands(x, dtype).copy_(dwt(x))

    def idwt_on_cpu(bands, base, height, width, dtype):
        out = empty_inverse(bands, base, (height, width), dtype)
        return out.copy_(idwt(bands, bands.new_zeros(out.shape) if base is None else base))

    library.impl('haar_dwt', dwt_on_cpu, 'CPU')
    library.impl('haar_dwt', lambda x, dtype: _kernels('haar').haar_dwt(x, dtype), 'CUDA')
    library.impl('haar_idwt', idwt_on_cpu, 'CPU')
    library.impl('haar_idwt', _run_haar_idwt, 'CUDA')
    _register('haar_dwt', empty_bands, _dwt_backward, _save_for_dwt, library)
    _register('haar_idwt', _fake_haar_idwt, _idwt_backward, _save_for_idwt, library)
    return library


def _register(name, fake, backward, setup_context, library):
    name = f'mmmobilemamba::{name}'
    torch.library.register_fake(name, fake, lib=library)
    torch.library.register_autograd(name, backward, setup_context=setup_context, lib=library)


def _run_haar_idwt(bands, base, height, width, dtype):
    return _kernels('haar').haar_idwt(bands, base, (height, width), dtype)


def _fake_haar_idwt(bands, base, height, width, dtype):
    return empty_inverse(bands, base, (height, width), dtype)


def _save_for_dwt(ctx, inputs, output):
    x, _ = inputs
    ctx.size, ctx.dtype = x.shape[2:], x.dtype


def _dwt_backward(ctx, grad):
    return torch.ops.mmmobilemamba.haar_idwt(grad, None, *ctx.size, ctx.dtype), None


def _save_for_idwt(ctx, inputs, output):
    bands, base, *_ = inputs
    ctx.dtypes = bands.dtype, None if base is None else base.dtype


def _idwt_backward(ctx, grad):
    needs_bands, needs_base, *_ = ctx.needs_input_grad
    dtype, base_dtype = ctx.dtypes
    grad_bands = torch.ops.mmmobilemamba.haar_dwt(grad, dtype) if needs_bands else None
    return grad_bands, grad.to(base_dtype) if needs_base else None, None, None, None


def register_norm_gate(norm_gate: Callable[..., Tensor]) -> torch.library.Library:
    """Define the operator ``norm_gate`` and its gradient, which has no derivative itself.

    They exist as long as the returned library is referenced.

    Args:
        norm_gate (Callable): CPU kernel, (y, weight, bias, eps, z) -> output.

    Returns:
        torch.library.Library: The library with the operators.
    """
    library = torch.library.Library('mmmobilemamba', 'FRAGMENT')
    library.define(f'norm_gate({GATE_INPUTS}) -> Tensor')
    library.define(f'norm_gate_backward(Tensor grad, {GATE_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)')

    def norm_gate_on_cpu(y, weight, bias, eps, z):
        return _fake_norm_gate(y, weight, bias, eps, z).copy_(norm_gate(y, weight, bias, eps, z))

    library.impl('norm_gate', norm_gate_on_cpu, 'CPU')
    library.impl('norm_gate', lambda *inputs: _kernels('norm_gate').norm_gate(*inputs), 'CUDA')
    library.impl('norm_gate_backward', _norm_gate_backward_on_cpu, 'CPU')
    library.impl(
        'norm_gate_backward', lambda *inputs: _kernels('norm_gate').norm_gate_backward(*inputs), 'CUDA'
    )
    _register('norm_gate', _fake_norm_gate, _norm_gate_backward, _save_for_norm_gate, library)
    _register('norm_gate_backward', _fake_norm_gate_backward, _refuse, None, library)
    return library


def _fake_norm_gate(y, weight, bias, eps, z):
    check_gate(y, weight, bias, z)
    return z.new_empty(z.shape)


def _fake_norm_gate_backward(grad, y, weight, bias, eps, z):
    return y.new_empty(y.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape), empty_gate(z)


def _save_for_norm_gate(ctx, inputs, output):
    y, weight, bias, ctx.eps, z = inputs
    ctx.save_for_backward(y, weight, bias, z)


def _norm_gate_backward(ctx, grad):
    y, weight, bias, z = ctx.saved_tensors
    *grads, grad_z = torch.ops.mmmobilemamba.norm_gate_backward(grad, y, weight, bias, ctx.eps, z)
    return *grads, None, grad_z


def _refuse(ctx, *grads):
    raise RuntimeError("This gate has no second derivative; that of backend='torch' has one.")


def _norm_gate_backward_on_cpu(grad, y, weight, bias, eps, z):
    check_gate(y, weight, bias, z)
    parameters = weight.to(y.dtype), bias.to(y.dtype)
    normed, mean, scale = torch.native_layer_norm(y, weight.shape, *parameters, eps)
    grad_z = torch.ops.aten.silu_backward(grad * normed.to(z.dtype), z)
    grad_normed = (grad * F.silu(z)).to(y.dtype)
    grad_y, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
        grad_normed, y, weight.shape, mean, scale, *parameters, [True] * 3
    )
    grads = grad_y.contiguous(), grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)
    return *grads, empty_gate(z).copy_(grad_z)
