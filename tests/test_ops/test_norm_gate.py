"""The gate after the scan: C++ against PyTorch."""

import pytest
import torch
import torch.nn.functional as F

from mmmobilemamba.ops import cpu, norm_gate
from mmmobilemamba.ops.cpu.norm_gate import norm_gate_cpp

from ..conftest import relative_error

SETS = cpu.INSTRUCTION_SETS[: 1 + (0 if cpu.why_not() else cpu.load()[1])]
needs_cpp = pytest.mark.skipif(cpu.why_not() is not None, reason=str(cpu.why_not()))


def arguments(batch, length, channels, dtype=torch.float64):
    """y, weight, bias, eps, and z as the second half of a projection's output."""
    y, wide = torch.randn(batch, length, channels) + 2, 3 * torch.randn(batch, length, 2 * channels)
    weight, bias = torch.rand(channels), torch.randn(channels)
    y, weight, bias, wide = (x.to(dtype) for x in (y, weight, bias, wide))
    return y, weight, bias, 1e-5, wide[..., channels:]


def test_formula():
    y, weight, bias, eps, z = arguments(2, 9, 12)
    normed = (y - y.mean(2, keepdim=True)) / (y.var(2, keepdim=True, unbiased=False) + eps).sqrt()
    expected = (normed * weight + bias) * z * torch.sigmoid(z)
    for backend in ('torch', 'auto'):
        assert relative_error(norm_gate(y, weight, bias, eps, z, backend), expected) < 1e-13


@needs_cpp
@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 9, 5), (3, 17, 16), (1, 40, 70), (2, 33, 448)])
@pytest.mark.parametrize('name', SETS)
@pytest.mark.parametrize(('dtype', 'bound'), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_every_instruction_set(name, shape, dtype, bound):
    exact_args = arguments(*shape)
    exact = norm_gate(*exact_args, 'torch')
    args = [x.to(dtype) if torch.is_tensor(x) else x for x in exact_args]
    scale = max(exact.abs().max().item(), 1e-3)
    assert (norm_gate_cpp(*args, name) - exact).abs().max().item() < bound * scale


@needs_cpp
def test_any_strides():
    y, _, _, eps, z = arguments(2, 9, 448, torch.float32)
    weight, bias, y = torch.rand(896)[::2], torch.randn(896)[::2], y.mT.contiguous().mT
    expected = norm_gate(y, weight, bias, eps, z, 'torch')
    torch.testing.assert_close(norm_gate_cpp(y, weight, bias, eps, z), expected)
    by_time = z.transpose(0, 1).contiguous().transpose(0, 1)  # its pixels have no common stride
    torch.testing.assert_close(norm_gate(y, weight, bias, eps, by_time), expected)


@needs_cpp
def test_large_gates():
    """Values for which exp overflows are clamped, so the gate is fully open or closed."""
    y, weight, bias, eps, _ = arguments(1, 4, 8, torch.float32)
    z = torch.tensor([-1e4, -100.0, 100.0, 1e4]).view(1, 4, 1).repeat(1, 1, 8)
    normed = F.layer_norm(y, (8,), weight, bias, eps)
    expected = normed * torch.tensor([0, 0, 100.0, 1e4]).view(1, 4, 1)
    torch.testing.assert_close(norm_gate_cpp(y, weight, bias, eps, z), expected, rtol=1e-5, atol=1e-30)


def test_types_and_gradients():
    """Under autocast, y is float32 and z is not; gradients are computed by PyTorch."""
    y, weight, bias, eps, z = arguments(2, 5, 6, torch.float32)
    out = norm_gate(y, weight, bias, eps, z.bfloat16())
    assert out.dtype == torch.bfloat16
    assert relative_error(out, norm_gate(y, weight, bias, eps, z)) < 2e-2
    args = [x.double().requires_grad_() for x in (y, weight, bias, z.contiguous())]
    assert torch.autograd.gradcheck(lambda y, weight, bias, z: norm_gate(y, weight, bias, eps, z), args)


@needs_cpp
def test_shapes():
    y, weight, bias, eps, z = arguments(2, 5, 6)
    with pytest.raises(ValueError, match=r'must have one shape \(N, L, E\).*\(2, 5, 6\), \(1, 5, 6\)'):
        norm_gate(y, weight, bias, eps, z[:1])
