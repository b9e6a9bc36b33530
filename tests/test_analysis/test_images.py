"""Images from files and folders, cropped and resized, and random images."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmmobilemamba.analysis import AnalysisError
from mmmobilemamba.analysis.images import SUFFIXES, find_pictures, random_image, read_picture

from ..conftest import load_script


@pytest.fixture
def folder(tmp_path):
    """Five images in a nested folder."""
    (tmp_path / 'a').mkdir()
    for index in range(5):
        Image.new('RGB', (8, 6), (40 * index, 0, 255)).save(tmp_path / 'a' / f'{index}.png')
    return tmp_path


def test_pictures_are_spread_over_a_folder(folder):
    assert [path.name for path in find_pictures([folder], 2)] == ['0.png', '2.png']
    assert len(find_pictures([folder], 9)) == 5
    both = find_pictures([folder / 'a/3.png', folder], 3)
    assert [path.name for path in both] == ['3.png', '0.png', '1.png']


def test_what_are_no_pictures(folder):
    (folder / 'empty').mkdir()
    with pytest.raises(AnalysisError, match=r'folder .*empty has no images'):
        find_pictures([folder / 'empty'], 2)
    with pytest.raises(AnalysisError, match=r'no picture or folder .*none\.png'):
        find_pictures([folder / 'none.png'], 2)
    (folder / 'a/5.png').write_text('text')
    with pytest.raises(AnalysisError, match=r'5.png is not a readable picture'):
        find_pictures([folder / 'a/5.png'], 2)
    with pytest.raises(AnalysisError, match=r'5.png is a picture that cannot be read: repair or remove it'):
        find_pictures([folder], 9)


def test_a_picture_is_cut_around_its_centre_and_resized(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = (255, 0, 51)
    path = tmp_path / 'a.png'
    Image.fromarray(pixels).save(path)
    image = read_picture(path, (4, 4))
    assert image.shape == (1, 3, 4, 4) and image.dtype == torch.float32
    assert (image - torch.tensor([1.0, 0, 0.2]).view(1, 3, 1, 1)).abs().max() < 0.1  # bicubic
    gray = read_picture(path, (2, 6), channels=1)
    assert gray.shape == (1, 1, 2, 6) and gray.std() > 0.1
    with pytest.raises(AnalysisError, match='have 1 or 3 channels, but the network takes 4: omit --images'):
        read_picture(path, (4, 4), channels=4)


def test_a_picture_is_turned_upright(tmp_path):
    picture = Image.new('RGB', (4, 4))
    picture.putpixel((0, 0), (255, 255, 255))
    exif = picture.getexif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / 'a.png', exif=exif)
    image = read_picture(tmp_path / 'a.png', (4, 4))
    assert image[0, :, 3, 3].tolist() == [1, 1, 1] and image.sum() == 3


def test_random_images():
    image = random_image((30, 20), 4, seed=3)
    assert image.shape == (1, 4, 30, 20) and torch.equal(image, random_image((30, 20), 4, seed=3))
    assert not torch.equal(image, random_image((30, 20), 4, seed=4))
    assert image.min() >= 0 and image.max() < 1 and abs(image.mean() - 0.5) < 0.02


def test_endings_are_those_of_the_other_tools():
    assert load_script('tools/deployment/pictures.py').SUFFIXES == SUFFIXES
