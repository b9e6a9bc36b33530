"""The confusion matrix of segmentors, by hand: labels, ignored pixels, the table, and both output files."""

import csv

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

pytest.importorskip('mmseg')

from ..conftest import load_script

tool = load_script('tools/analysis_tools/confusion_matrix_seg.py')

CONFIG = """
default_scope = 'mmseg'
test_dataloader = dict(
    dataset=dict(
        type='BaseSegDataset',
        data_root='data',
        data_prefix=dict(img_path='images', seg_map_path='maps'),
        img_suffix='.png',
        metainfo=dict(classes=('sky', 'sea', 'sand', 'ship'), palette=[[0, 0, 0]] * 4),
        reduce_zero_label={reduce},
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    )
)
"""
IGNORED = 255
TRUTH = {'a': [[0, 0, 0, 1], [1, 1, 1, IGNORED]], 'b': [[0, 0, 0, 2], [2, 2, 2, IGNORED]]}
PREDICTED = {'a': [[0, 0, 0, 1], [1, 2, 2, 0]], 'b': [[0, 1, 2, 2], [2, 2, 2, 3]]}
# Sky: 4 correct, 1 sea, 1 sand. Sea: 2 correct, 2 sand. Sand: 4 correct. No ship.
MATRIX = [[4, 1, 1, 0], [0, 2, 2, 0], [0, 0, 4, 0], [0, 0, 0, 0]]


def save(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(labels, np.uint8)).save(path)


@pytest.fixture(params=[False, True], ids=['plain', 'reduced'])
def folder(request, tmp_path, monkeypatch):
    """Two images of 4 x 2 px; with reduce_zero_label, files have 0 for ignored pixels and classes from 1."""
    for name, truth in TRUTH.items():
        truth, predicted = np.array(truth), np.array(PREDICTED[name])
        if request.param:
            truth, predicted = np.where(truth == IGNORED, 0, truth + 1), predicted + 1
        save(tmp_path / f'data/images/{name}.png', np.zeros((2, 4, 3)))
        save(tmp_path / f'data/maps/{name}.png', truth)
        save(tmp_path / f'found/{name}.png', predicted)
    (tmp_path / 'config.py').write_text(CONFIG.format(reduce=request.param))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_and_table(folder, capsys):
    tool.main(['config.py', 'found', 'out'])
    with open('out/confusion_matrix.csv', newline='') as file:
        rows = list(csv.reader(file))
    assert rows == [
        ['true class', 'pixels', 'sky', 'sea', 'sand', 'ship'],
        ['sky', '6', '66.67', '16.67', '16.67', '0.00'],
        ['sea', '4', '0.00', '50.00', '50.00', '0.00'],
        ['sand', '4', '0.00', '0.00', '100.00', '0.00'],
        ['ship', '0', '', '', '', ''],
    ]
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if not line.startswith('Matrix')]
    assert lines[-6:] == [
        ['class', 'pixels', 'found,', '%', 'mostly', 'taken', 'for,', '%'],
        ['sky', '6', '66.67', 'sea', '16.67'],
        ['sea', '4', '50.00', 'sand', '50.00'],
        ['sand', '4', '100.00'],
        ['ship', '0'],
        ['all', '14', '71.43'],
    ]
    picture = np.asarray(Image.open('out/confusion_matrix.png').convert('RGB'))
    assert picture.shape == (600, 600, 3)
    # Sky's and sand's cells are two rows and two columns apart; the colour bar is to the right of both.
    sky, sand = (box_of(picture[:, :500], share) for share in (200 / 3, 100))
    side = sand[1] - sand[0]
    assert side > 80 and sand - sky == pytest.approx(2 * side, abs=6)


def test_config_in_python(folder):
    """With classes as types."""
    classes = ('BaseSegDataset', 'LoadAnnotations', 'PackSegInputs', 'LoadImageFromFile')
    text = (folder / 'config.py').read_text()
    for name in classes:
        text = text.replace(f"'{name}'", name)
    imports = 'from mmcv.transforms import LoadImageFromFile\nfrom mmseg.datasets import BaseSegDataset\n'
    imports += 'from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs\n'
    (folder / 'python.py').write_text(imports + text)
    for name in ('config', 'python'):
        tool.main([f'{name}.py', 'found', name])
    tables = [(folder / name / 'confusion_matrix.csv').read_text() for name in ('config', 'python')]
    assert tables[0] == tables[1] and 'sky,6,66.67' in tables[0]


def box_of(picture, share):
    """First and last row, first and last column of the cells with the colour of a percentage."""
    color = colormaps['Blues'](share / 100, bytes=True)[:3]
    places = np.argwhere((picture == color).all(axis=2))
    (top, left), (bottom, right) = places.min(axis=0), places.max(axis=0)
    return np.array([top, bottom, left, right])


def test_a_part_of_the_images(folder):
    """Only the part of the dataset that the config selects."""
    (folder / 'found/b.png').unlink()
    with pytest.raises(
        SystemExit, match=r'1 of 2 images have no prediction in found, such as b\.png; `mim te'
    ):
        tool.main(['config.py', 'found', 'out'])
    assert not (folder / 'out').exists()
    tool.main(['config.py', 'found', 'out', '--cfg-options', 'test_dataloader.dataset.indices=1'])
    line = (folder / 'out/confusion_matrix.csv').read_text().splitlines()[1]
    assert line == 'sky,3,100.00,0.00,0.00,0.00'


def test_what_does_not_fit(folder):
    save(folder / 'found/b.png', np.full((2, 4), 7))
    with pytest.raises(
        SystemExit, match=r'found/b\.png: the prediction has labels [67] to [67], the config 4'
    ):
        tool.main(['config.py', 'found', 'out'])
    save(folder / 'found/b.png', np.zeros((4, 4)))
    with pytest.raises(SystemExit, match=r'ground truth has \(2, 4\) pixels, the prediction \(4, 4\)'):
        tool.main(['config.py', 'found', 'out'])
    with pytest.raises(SystemExit, match='does not load annotations'):
        tool.main(['config.py', 'found', 'out', '--cfg-options', 'test_dataloader.dataset.pipeline=[]'])


def test_counts_do_not_overflow():
    """Labels are 8-bit, and 150 classes have 22,500 pairs."""
    truth, predicted = np.array([[149, 149, 3, 255]], np.uint8), np.array([[149, 2, 3, 9]], np.uint8)
    matrix = tool.count(truth, predicted, 150, 255)
    assert {tuple(pair): int(matrix[tuple(pair)]) for pair in np.argwhere(matrix)} == {
        (149, 149): 1,
        (149, 2): 1,
        (3, 3): 1,
    }


def test_many_classes_make_a_picture_of_bounded_size(tmp_path):
    tool.draw(tmp_path / 'many.png', np.eye(150, dtype=np.int64), [f'class {i}' for i in range(150)])
    assert Image.open(tmp_path / 'many.png').size == (4000, 4000)


def test_matrix():
    pairs = [(np.array(TRUTH[name]), np.array(PREDICTED[name])) for name in TRUTH]
    assert sum(tool.count(*pair, 4, IGNORED) for pair in pairs).tolist() == MATRIX
