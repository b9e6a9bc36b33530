"""The Haar transform: inverse of itself, and PyWavelets' db1."""

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
    back = haar_idwt(haar_dwt(padded))[..., :height, :width]
    torch.testing.assert_close(back, x, rtol=0, atol=1e-6)


def test_equals_pywavelets_db1():
    x = noise_for((2, 3, 10, 6), 1)
    average, (rows, columns, diagonal) = pywt.dwt2(x.numpy(), 'db1')
    bands = haar_dwt(x).unflatten(1, (3, 4))
    for index, expected in enumerate((average, rows, columns, diagonal)):
        assert relative_error(bands[:, :, index], np.ascontiguousarray(expected)) < 1e-6
    back = pywt.idwt2((average, (rows, columns, diagonal)), 'db1')
    assert relative_error(haar_idwt(haar_dwt(x)), back) < 1e-6


def test_bands_of_one_patch():
    """Channel c keeps its bands at 4c..4c+3: average, top - bottom, left - right, diagonal."""
    patch = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    x = torch.stack([patch, 10 * patch])[None]
    expected = torch.tensor([7.5, -4.5, -2.5, 1.5])
    assert torch.equal(haar_dwt(x).flatten(), torch.cat([expected, 10 * expected]))


def test_orthonormal():
    x, bands = noise_for((1, 4, 12, 12), 2), noise_for((1, 16, 6, 6), 3)
    torch.testing.assert_close((haar_dwt(x) * bands).sum(), (x * haar_idwt(bands)).sum())
    torch.testing.assert_close(haar_dwt(x).norm(), x.norm())
