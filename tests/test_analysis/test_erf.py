"""Effective receptive fields of convolutions (by hand) and of the backbone in its forms, and all errors."""

import numpy as np
import pytest
import torch
from torch import nn

from mmmobilemamba import MobileMamba
from mmmobilemamba.analysis import (
    AnalysisError,
    effective_receptive_fields,
    open_residuals,
    square_sides,
)
from mmmobilemamba.analysis.erf import centre_gradient

from ..conftest import noise_for, relative_error
from ..helpers import SMALL, small

CENTRE = 4  # of 9 pixels


def conv(*channels, **kwargs):
    """3 x 3 convolutions that preserve the size."""
    layers = [nn.Conv2d(before, after, 3, padding=1) for before, after in zip(channels, channels[1:])]
    return nn.Sequential(*layers, **kwargs)


def support(field):
    """Height and width of the bounding box of non-zero pixels, and whether it is centred."""
    rows, columns = np.nonzero(field)
    around = (rows.min() + rows.max(), columns.min() + columns.max()) == (
        2 * (field.shape[0] // 2),
        2 * (field.shape[1] // 2),
    )
    return np.ptp(rows) + 1, np.ptp(columns) + 1, around


def field_of(extract, images):
    """The field of one network."""
    return effective_receptive_fields({'network': extract}, images)['network']


def test_a_convolution():
    """The field is the sum of the weights of positive outputs; absolute values are summed over inputs."""
    network, image = conv(2, 5), noise_for((1, 2, 9, 9), 0)
    field = field_of(network, [image])
    positive = network(image)[0, :, CENTRE, CENTRE] > 0
    assert 0 < positive.sum() < 5
    expected = network[0].weight.detach().double()[positive].sum(0).abs().sum(0)
    assert field.dtype == np.float64
    assert relative_error(field[CENTRE - 1 : CENTRE + 2, CENTRE - 1 : CENTRE + 2], expected) < 1e-6
    assert support(field) == (3, 3, True)
    assert square_sides(field, [0.99, 1.0]) == [3, 3]


def test_a_stack_of_convolutions():
    field = field_of(nn.Sequential(conv(1, 2, 2, 1), nn.Softplus()), [noise_for((1, 1, 17, 15), 0)])
    assert support(field) == (7, 7, True)


def test_is_the_mean_over_images_whatever_the_batches():
    def square(images):
        return conv_network(images).square()

    conv_network, images = conv(2, 3).double(), noise_for((3, 2, 9, 9), 1).double()
    single = np.stack([centre_gradient(square, image[None])[0] for image in images])
    assert relative_error(single[0], single[1]) > 0.1
    expected = single.mean(0)
    for batches in (images.split(1), images.split(2), [images]):
        assert relative_error(field_of(square, batches), expected) < 1e-12


def test_networks_are_beside_each_other():
    networks = {'first': conv(1, 4), 'second': conv(1, 4)}
    images = [noise_for((1, 1, 9, 9), 2)]
    both = effective_receptive_fields(networks, images)
    assert list(both) == ['first', 'second']
    for name, network in networks.items():
        assert both[name].shape == (9, 9) and np.array_equal(both[name], field_of(network, images))


@pytest.mark.parametrize('size', [(9, 9), (8, 8), (7, 12), (16, 5)])
def test_sides_by_brute_force(size):
    field = np.random.default_rng(0).random(size) ** 4
    shares = (0.01, 0.2, 0.3, 0.5, 0.99, 1.0)
    expected = []
    for share in shares:
        for radius in range(max(size)):
            square = field[
                max(size[0] // 2 - radius, 0) : size[0] // 2 + radius + 1,
                max(size[1] // 2 - radius, 0) : size[1] // 2 + radius + 1,
            ]
            if square.sum() >= share * field.sum() * (1 - 1e-12):
                expected.append(2 * radius + 1)
                break
    assert square_sides(field, shares) == expected


def test_a_single_pixel_is_a_square_of_one():
    field = np.zeros((8, 8))
    field[4, 4] = 2.0
    assert square_sides(field) == [1, 1, 1, 1]
    with pytest.raises(AnalysisError, match=r'over 0 and up to 1, not \[0.5, 1.5\]'):
        square_sides(field, [0.5, 1.5])


def test_stages_of_a_new_network():
    """Residual branches start at zero, so the field of stage 0 is the stem's, 1 + 2 (1 + 2 + 4 + 8) px."""
    backbone = MobileMamba(SMALL).eval()
    images = noise_for((1, 3, 128, 128), 3)

    def first(images):
        return backbone.extract(images, (0,))[0]

    def second(images):
        return backbone.extract(images, (1,))[0]

    new = effective_receptive_fields({'first': first, 'second': second}, [images])
    assert support(new['first']) == (31, 31, True)
    assert square_sides(new['second'], [0.5]) > square_sides(new['first'], [0.5])
    branches = 5 * sum(SMALL['depths']) + 2 * 2  # 5 per block, and the FFNs of each downsample
    assert open_residuals(backbone) == branches
    assert open_residuals(backbone) == 0
    opened = field_of(first, [images])
    assert (opened > 0).mean() > 0.9  # the scan covers the whole map


@pytest.fixture(scope='module')
def plain():
    """A small network in evaluation mode, images of two sizes, and its field in plain PyTorch."""
    images = noise_for((2, 3, 96, 128), 4)
    network = small(scan_backend='naive').eval()
    field = field_of(lambda batch: network(batch)[0], [images])
    return network.state_dict(), images, field


@pytest.mark.parametrize('change', ['auto', 'frozen', 'deployed', 'inference'])
def test_forms_and_backends_have_one_field(plain, change):
    """Frozen stages do not update their weights, but pass gradients to the image."""
    weights, images, expected = plain
    backbone = small(frozen_stages=3 if change == 'frozen' else -1)
    backbone.load_state_dict(weights)
    backbone.eval()
    if change == 'deployed':
        backbone.switch_to_deploy()
    with torch.inference_mode(change == 'inference'):
        field = field_of(lambda batch: backbone(batch)[0], [images])
    assert relative_error(field, expected) < 1e-4


@pytest.mark.parametrize(
    ('extract', 'words'),
    [
        (
            lambda x: x.flatten(2),
            r'returns no map \(N, C, H, W\) here, but of shape \(1, 3, 64\): use another',
        ),
        (lambda x: (x,), r'here, but tuple'),
        (
            lambda x: x[:, :, :1, :1],
            r'The map has 1 x 1 pixels for an image of 8 x 8, which is not larger than',
        ),
        (lambda x: x.detach(), r'No gradient of the map reaches the image: .* torch.no_grad\(\)'),
        (
            lambda x: x.detach() + torch.ones(1, requires_grad=True),
            r'No gradient of the map reaches the image',
        ),
        (lambda x: 0 * x, r'is zero in the whole image.* Load a checkpoint'),
        (lambda x: -x, r'is zero in the whole image: no value at its centre is positive'),
        (lambda x: x * float('inf'), r'not finite: the weights or the image'),
    ],
)
def test_what_has_no_field(extract, words):
    with pytest.raises(AnalysisError, match=f'network: .*{words}'):
        field_of(extract, [torch.rand(1, 3, 8, 8)])


def test_after_a_layer_norm():
    """The sum over channels is constant after a layer norm, so only positive values are summed."""
    norm = nn.GroupNorm(1, 4)
    field = field_of(lambda x: norm(x[:, :, :1, :1]).expand(-1, -1, 2, 2), [noise_for((1, 4, 3, 3), 5)])
    assert field[0, 0] > 0.1 and support(field)[:2] == (1, 1)


def test_no_images():
    with pytest.raises(AnalysisError, match='There are no images to average over'):
        field_of(nn.Identity(), [])


def test_an_image_that_is_not_larger_than_the_stride():
    backbone = small().eval()
    with pytest.raises(AnalysisError, match=r'map has 1 x 1 pixels for an image of 64 x 64.* earlier stage'):
        field_of(lambda images: backbone(images)[0], [torch.rand(1, 3, 64, 64)])
