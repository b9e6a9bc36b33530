"""The crop: its interpolations, sizes and pixels."""

import numpy as np
import pytest

pytest.importorskip('mmpretrain')

from mmengine.registry import TRANSFORMS, init_default_scope
from mmpretrain.datasets.transforms import RandomResizedCrop
from PIL import Image

from mmmobilemamba.datasets import RandomResizedCropAndInterpolation

RESAMPLING = dict(bilinear=Image.Resampling.BILINEAR, bicubic=Image.Resampling.BICUBIC)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def build(**kwargs):
    init_default_scope('mmpretrain')
    return TRANSFORMS.build(dict(type='RandomResizedCropAndInterpolation', **kwargs))


def test_both_interpolations_have_a_chance_of_one_half(image):
    transform = build(scale=8)
    np.random.seed(0)
    drawn = []
    for _ in range(1000):
        transform(dict(img=image))
        drawn.append(transform.interpolation)
    assert set(drawn) == {'bilinear', 'bicubic'}
    assert 440 < drawn.count('bicubic') < 560  # 3.8 standard deviations


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('size', [24, (20, 30), 90])
def test_pixels_are_pillows(image, interpolation, size, monkeypatch):
    transform = build(scale=size)
    monkeypatch.setattr(transform, 'rand_crop_params', lambda img: (7, 11, 40, 50))
    monkeypatch.setattr(transform, 'rand_interpolation', lambda: interpolation)
    height, width = (size, size) if isinstance(size, int) else size
    crop = Image.fromarray(image).crop((11, 7, 11 + 50, 7 + 40))
    expected = np.asarray(crop.resize((width, height), RESAMPLING[interpolation]))
    results = transform(dict(img=image))
    assert results['img'].dtype == np.uint8 and results['img_shape'][:2] == (height, width)
    np.testing.assert_array_equal(results['img'], expected)


def test_is_the_stock_crop_with_either_interpolation(image):
    """With the same seed, the crop equals that of mmpretrain's transform with one of the interpolations."""
    transform = RandomResizedCropAndInterpolation(32)
    used = set()
    for seed in range(20):
        np.random.seed(seed)
        found = transform(dict(img=image))['img']
        np.random.seed(seed)
        interpolation = transform.rand_interpolation()
        stock = RandomResizedCrop(32, interpolation=interpolation, backend='pillow')
        np.testing.assert_array_equal(found, stock(dict(img=image))['img'])
        used.add(interpolation)
        np.random.seed(seed)
        np.testing.assert_array_equal(found, transform(dict(img=image))['img'])  # deterministic
    assert used == {'bilinear', 'bicubic'}


def test_crops_have_the_recipes_areas_and_ratios(monkeypatch):
    transform = build(scale=4)
    image = np.zeros((400, 400, 3), np.uint8)
    np.random.seed(0)
    sizes = np.array([transform.rand_crop_params(image)[2:] for _ in range(4000)], float)
    areas, ratios = sizes.prod(1) / 400**2, sizes[:, 1] / sizes[:, 0]
    assert 0.079 < areas.min() < 0.09 and 0.97 < areas.max() <= 1
    assert 0.74 < ratios.min() < 0.76 and 1.32 < ratios.max() < 1.35
    assert np.log(ratios).mean() == pytest.approx(0, abs=0.01)
