"""Loading with Pillow: as in mmcv, and 16-bit gray images as with OpenCV."""

import numpy as np
import pytest

pytest.importorskip('mmpretrain')

from mmengine.registry import TRANSFORMS, init_default_scope
from PIL import Image

import mmmobilemamba.datasets  # noqa: F401, registers the loader


def read(path, **kwargs):
    init_default_scope('mmpretrain')
    return TRANSFORMS.build({'type': 'PillowLoadImageFromFile', **kwargs})(dict(img_path=str(path)))['img']


def ramp(bits):
    values = np.arange(256, dtype=np.uint16).reshape(8, 32)
    return Image.fromarray(values.astype(np.uint8) if bits == 8 else values * 256 + 77)


@pytest.mark.parametrize('suffix', ['png', 'tif'])
@pytest.mark.parametrize('color', ['color', 'color_ignore_orientation', 'grayscale'])
def test_the_higher_of_16_bits(tmp_path, suffix, color):
    ramp(16).save(tmp_path / f'deep.{suffix}')
    ramp(8).save(tmp_path / f'plain.{suffix}')
    deep, plain = (read(tmp_path / f'{name}.{suffix}', color_type=color) for name in ('deep', 'plain'))
    assert deep.dtype == np.uint8 and deep.shape == (8, 32) + (3,) * (color != 'grayscale')
    assert np.array_equal(deep, plain) and len(np.unique(deep)) == 256
    stock = read(tmp_path / f'deep.{suffix}', type='LoadImageFromFile', imdecode_backend='pillow')
    assert (stock == 255).mean() > 0.99  # the reason for our own loader
    opencv = read(tmp_path / f'deep.{suffix}', type='LoadImageFromFile', color_type='color')
    assert np.array_equal(deep if deep.ndim == 3 else deep[..., None].repeat(3, 2), opencv)


@pytest.mark.parametrize('color', ['color', 'color_ignore_orientation', 'grayscale', 'unchanged'])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', 'RGBA', 'LA', '1', 'I;16'])
def test_all_else_as_mmcv(tmp_path, mode, color):
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    picture = ramp(16) if mode == 'I;16' else Image.fromarray(noise).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / 'a.png', exif=exif)
    mine = read(tmp_path / 'a.png', color_type=color)
    if mode == 'I;16' and color != 'unchanged':
        assert mine.shape[:2] == ((8, 32) if color == 'color_ignore_orientation' else (32, 8))
        return
    stock = read(tmp_path / 'a.png', type='LoadImageFromFile', imdecode_backend='pillow', color_type=color)
    assert mine.dtype == stock.dtype and np.array_equal(mine, stock)


def test_what_has_no_range(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / 'a.tif')
    with pytest.raises(ValueError, match=r'a.tif: A TIFF of mode F has 32-bit values, whose range'):
        read(tmp_path / 'a.tif')
    with pytest.raises(FileNotFoundError):
        read(tmp_path / 'none.png')
    init_default_scope('mmpretrain')
    lenient = TRANSFORMS.build(dict(type='PillowLoadImageFromFile', ignore_empty=True))
    assert lenient(dict(img_path=str(tmp_path / 'a.tif'))) is None
    Image.new('RGB', (2, 3)).save(tmp_path / 'a.png')
    assert read(tmp_path / 'a.png', to_float32=True).dtype == np.float32
