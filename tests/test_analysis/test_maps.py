"""Principal component colours against NumPy, sub-bands against PyWavelets, and the inputs of both."""

import copy

import numpy as np
import pytest
import pywt
import torch

from mmmobilemamba.analysis import AnalysisError, find_global_branch, global_input, pca_colors, sub_bands
from mmmobilemamba.analysis.maps import OUTLIERS
from mmmobilemamba.models.layers import FoldedWTEMamba, WTEMamba, fold
from mmmobilemamba.models.layers.fold import round_weights
from mmmobilemamba.ops import haar_idwt

from ..conftest import noise_for, relative_error
from ..helpers import SMALL, randomise, small

MAPS = noise_for((2, 6, 5, 7), 0) * torch.arange(1, 7).view(1, 6, 1, 1)


def test_colours_are_the_components_of_numpy():
    colors, shares = pca_colors(MAPS)
    samples = MAPS.double().numpy().transpose(0, 2, 3, 1).reshape(-1, 6)
    samples = samples - samples.mean(0)
    _, sizes, components = np.linalg.svd(samples, full_matrices=False)
    assert relative_error(shares, sizes[:3] ** 2 / (sizes**2).sum()) < 1e-9
    for index, component in enumerate(components[:3]):
        scores = samples @ (component * np.sign(component[np.abs(component).argmax()]))
        low, high = np.quantile(scores, [OUTLIERS, 1 - OUTLIERS])
        expected = np.clip((scores - low) / (high - low), 0, 1).reshape(2, 5, 7)
        assert relative_error(colors[..., index], expected) < 1e-6
    assert colors.shape == (2, 5, 7, 3) and colors.min() == 0 and colors.max() == 1


def test_a_map_of_fewer_channels():
    colors, shares = pca_colors(MAPS[:, :1])
    assert shares.tolist() == pytest.approx([1, 0, 0])
    assert (colors[..., 1:] == 0.5).all()
    brighter = MAPS[0, 0, 0, 0] > MAPS[0, 0, 0, 1]
    assert (colors[0, 0, 0, 0] > colors[0, 0, 1, 0]) == brighter


def test_maps_without_components():
    with pytest.raises(AnalysisError, match='All pixels of the map are equal'):
        pca_colors(torch.ones(2, 3, 4, 4))
    with pytest.raises(AnalysisError, match='All pixels of the map are equal'):
        pca_colors(MAPS[:1, :, :1, :1])
    with pytest.raises(AnalysisError, match='not finite'):
        pca_colors(MAPS / 0)


@pytest.fixture(scope='module')
def branch():
    return randomise(WTEMamba(8, 5, dict(type='BN')))


def test_sub_bands_are_those_of_pywavelets(branch):
    x = noise_for((2, 8, 6, 10), 1)
    before, _ = sub_bands(branch, x)
    average, details = pywt.dwt2(x.numpy(), 'haar')
    for index, expected in enumerate((average, *details)):
        assert relative_error(before[:, index], np.ascontiguousarray(expected)) < 1e-6


@pytest.mark.parametrize('form', ['plain', 'deployed'])
@torch.no_grad()
def test_filtered_bands_are_what_is_added_to_the_scan(branch, form):
    x = noise_for((2, 8, 6, 10), 2)
    expected = branch(x) - branch.base_scale * branch.ss2d(x)
    wte = branch
    if form == 'deployed':
        wte = fold(copy.deepcopy(branch))
        round_weights(wte, torch.float32)
        assert isinstance(wte, FoldedWTEMamba)
    _, after = sub_bands(wte, x)
    average, rows, columns, diagonal = after.double().unbind(1)
    found = pywt.idwt2((average.numpy(), (rows.numpy(), columns.numpy(), diagonal.numpy())), 'haar')
    assert relative_error(found, expected) < 1e-5
    bands = after.flatten(1, 2) / 2
    assert relative_error(haar_idwt(bands, torch.zeros_like(x)), expected) < 1e-5


def test_input_of_a_block():
    """It is the first channels of the mixer's input, in the given stage and block."""
    backbone, images = small().eval(), noise_for((2, 3, 96, 128), 3)
    taken = {}
    mixer = backbone.stages[1].blocks[1].mixer.fn
    mixer.register_forward_pre_hook(lambda module, inputs: taken.update(x=inputs[0]))
    found = global_input(backbone, images, 1, 1)
    assert torch.equal(found, taken['x'][:, : mixer.splits[0]])
    assert find_global_branch(backbone, 1, 1) is mixer.global_op
    assert not mixer.global_op._forward_pre_hooks
    backbone.switch_to_deploy()
    assert relative_error(global_input(backbone, images, 1, 1), found) < 1e-4


@pytest.mark.parametrize('place', [(0, 1), (3, 0), (-1, 0)])
def test_no_such_block(place):
    depths = ', '.join(f'{depth} in stage {index}' for index, depth in enumerate(SMALL['depths']))
    words = f'no block {place[1]} in a stage {place[0]}: the network has {depths}, from 0 up'
    with pytest.raises(AnalysisError, match=words):
        find_global_branch(small(), *place)
