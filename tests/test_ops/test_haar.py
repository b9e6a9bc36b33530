"""The Haar transform: inversion, equality with PyWavelets' db1, and C++ against PyTorch."""

import numpy as np
import pytest
import pywt
import torch

from mmmobilemamba.ops import cpu, haar, haar_dwt, haar_idwt

from ..conftest import noise_for, relative_error
from ..helpers import needs_torch

SIZES = [(2, 2), (8, 6), (1, 1), (7, 8), (9, 5), (64, 33)]
SETS = cpu.INSTRUCTION_SETS[: 1 + (0 if cpu.why_not() else cpu.load()[1])]
needs_cpp = pytest.mark.skipif(cpu.why_not() is not None, reason=str(cpu.why_not()))


def channels_last(*maps):
    return [x.contiguous(memory_format=torch.channels_last) for x in maps]


@pytest.mark.parametrize('backend', ['torch', 'auto'])
@pytest.mark.parametrize('size', SIZES)
def test_perfect_reconstruction(size, backend):
    x, base = channels_last(noise_for((2, 5, *size), 0), noise_for((2, 5, *size), 1))
    back = haar_idwt(haar_dwt(x, backend), base, backend)
    torch.testing.assert_close(back, base + 4 * x, rtol=0, atol=4e-6)


def test_equals_pywavelets_db1():
    x = noise_for((2, 3, 10, 6), 1)
    average, (rows, columns, diagonal) = pywt.dwt2(x.numpy(), 'db1')
    bands = haar_dwt(x).unflatten(1, (4, 3)) / 2
    for index, expected in enumerate((average, rows, columns, diagonal)):
        assert relative_error(bands[:, index], np.ascontiguousarray(expected)) < 1e-6
    back = pywt.idwt2((average, (rows, columns, diagonal)), 'db1')
    assert relative_error(haar_idwt(haar_dwt(x), torch.zeros_like(x)) / 4, back) < 1e-6


@pytest.mark.parametrize('backend', ['torch', 'auto'])
def test_bands_of_one_patch(backend):
    """The bands are the averages of all channels, then top - bottom, left - right, and the diagonals."""
    patch = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    (x,) = channels_last(torch.stack([patch, 10 * patch])[None])
    expected = torch.tensor([15.0, -9.0, -5.0, 3.0])
    bands = torch.stack([expected, 10 * expected], dim=1).flatten()
    assert torch.equal(haar_dwt(x, backend).flatten(), bands)


def test_orthogonal():
    x, bands = noise_for((1, 4, 12, 12), 2), noise_for((1, 16, 6, 6), 3)
    torch.testing.assert_close((haar_dwt(x) * bands).sum(), (x * haar_idwt(bands, torch.zeros_like(x))).sum())
    torch.testing.assert_close(haar_dwt(x).norm(), 2 * x.norm())


@pytest.mark.parametrize('backend', ['torch', 'auto'])
def test_same_in_either_memory_format(backend):
    x, bands = noise_for((2, 8, 6, 10), 4), noise_for((2, 32, 3, 5), 5)
    expected = haar_dwt(x, backend), haar_idwt(bands, x, backend)
    x, bands = channels_last(x, bands)
    found = haar_dwt(x, backend), haar_idwt(bands, x, backend)
    assert all(torch.equal(one, other) for one, other in zip(found, expected))
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in found)


@needs_cpp
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('channels', [1, 7, 16, 33])
@pytest.mark.parametrize('name', SETS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_cpp_is_pytorch(name, channels, size, dtype):
    """Also on slices of wider maps. Forward results are bit-identical."""
    wide = noise_for((2, 2 * channels + 3, *size), 6).to(dtype).contiguous(memory_format=torch.channels_last)
    x, base = wide[:, 3 : 3 + channels], wide[:, -channels:]
    bands = haar.haar_dwt_cpp(x, name)
    assert torch.equal(bands, haar_dwt(x, 'torch'))
    torch.testing.assert_close(haar.haar_idwt_cpp(bands, base, name), haar_idwt(bands, base, 'torch'))


@needs_cpp
@needs_torch('2.3')
def test_cpp_is_chosen_where_nothing_is_to_be_learnt(monkeypatch):
    calls = []
    monkeypatch.setattr(haar, 'haar_dwt_cpp', lambda x: calls.append(x))
    x = noise_for((1, 4, 6, 6), 0).contiguous(memory_format=torch.channels_last)
    haar_dwt(x)
    haar_dwt(x, 'cpp')
    assert len(calls) == 2
    for other in (x.clone().requires_grad_(), x.bfloat16(), x.to('meta'), x.contiguous(), torch._neg_view(x)):
        assert haar_dwt(other).shape == (1, 16, 3, 3)
    with pytest.raises(ValueError, match="backend 'fast' is not one of"):
        haar_dwt(x, 'fast')
    haar_dwt(x, 'torch')
    assert len(calls) == 2
    with torch.no_grad():
        haar_dwt(x.clone().requires_grad_())
    assert len(calls) == 3


@needs_cpp
def test_bands_of_another_map():
    base = noise_for((1, 4, 6, 6), 0).contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match=r'bands must have shape \(1, 16, 3, 3\) beside base of'):
        haar_idwt(noise_for((1, 16, 3, 2), 0), base)
