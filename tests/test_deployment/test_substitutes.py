"""Substituted layers are equivalent to the originals."""

import pytest
import torch
from torch import nn

from mmmobilemamba.deployment.substitutes import AdaptiveAvgPool, substitute


@pytest.mark.parametrize('size', [(7, 9), (8, 8), (3, 28), (13, 21), (1, 2)])
@pytest.mark.parametrize('output_size', [2, 3, 6, (4, 7)])
def test_adaptive_pool(size, output_size):
    """Overlapping bins, bins of different sizes, and more bins than positions."""
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = nn.AdaptiveAvgPool2d(output_size)(x)
    torch.testing.assert_close(AdaptiveAvgPool(output_size)(x), expected, rtol=0, atol=1e-12)


def test_only_pools_of_several_bins_are_replaced():
    """Pooling to one bin is a standard ONNX operator."""
    model = nn.ModuleList(
        [nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1)), nn.AdaptiveAvgPool2d((1, 2))]
    )
    substitute(model)
    assert [type(module).__name__ for module in model] == [*['AdaptiveAvgPool2d'] * 2, 'AdaptiveAvgPool']
    assert model[2].output_size == (1, 2)
