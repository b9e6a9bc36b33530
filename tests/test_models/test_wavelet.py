"""The Haar transform: inverse of itself, and PyWavelets' db1, each to a factor of 2."""

import numpy as np
import pytest
import pywt
import torch

from mmmobilemamba.models.layers import haar_dwt, haar_idwt, pad_to_even

from ..conftest import noise_for, relative_error


@pytest.mark.parametrize('size', [(2, 2), (8, 6), (1, 1), (7, 8), (9, 5), (64, 33)])
def test_perfect_reconstruction(size):
    x = noise_for((2, 5, *size), 0)
    padded = pad_to_even(x)
    assert padded.shape[2] % 2 == padded.shape[3] % 2 == 0
    height, width = size
    assert torch.equal(padded[..., :height, :width], x)
    assert padded.count_nonzero() == x.count_nonzero()
    back = haar_idwt(haar_dwt(padded))[..., :height, :width] / 4
    torch.testing.assert_close(back, x, rtol=0, atol=1e-6)


def test_equals_pywavelets_db1():
    x = noise_for((2, 3, 10, 6), 1)
    average, (rows, columns, diagonal) = pywt.dwt2(x.numpy(), 'db1')
    bands = haar_dwt(x).unflatten(1, (4, 3)) / 2
    for index, expected in enumerate((average, rows, columns, diagonal)):
        assert relative_error(bands[:, index], np.ascontiguousarray(expected)) < 1e-6
    back = pywt.idwt2((average, (rows, columns, diagonal)), 'db1')
    assert relative_error(haar_idwt(haar_dwt(x)) / 4, back) < 1e-6


def test_bands_of_one_patch():
    """First the averages of all channels, then top - bottom, left - right, and the diagonals."""
    patch = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    x = torch.stack([patch, 10 * patch])[None]
    expected = torch.tensor([15.0, -9.0, -5.0, 3.0])
    assert torch.equal(haar_dwt(x).flatten(), torch.stack([expected, 10 * expected], dim=1).flatten())


def test_orthogonal():
    x, bands = noise_for((1, 4, 12, 12), 2), noise_for((1, 16, 6, 6), 3)
    torch.testing.assert_close((haar_dwt(x) * bands).sum(), (x * haar_idwt(bands)).sum())
    torch.testing.assert_close(haar_dwt(x).norm(), 2 * x.norm())


@pytest.mark.parametrize('transform', [haar_dwt, haar_idwt])
def test_same_in_either_memory_format(transform):
    x = noise_for((2, 8, 6, 10), 4)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(transform(channels_last), transform(x))
    assert transform(channels_last).is_contiguous(memory_format=torch.channels_last)
