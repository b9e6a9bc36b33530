"""Drawings of predictions: sizes, colours at known positions, and files of every codebase."""

import json
import pickle

import numpy as np
import pycocotools.mask
import pytest
import torch
from PIL import Image

from ..conftest import load_script

draw_predictions = load_script('tools/analysis_tools/draw_predictions.py')
GREY = (100, 100, 100)
RED, GREEN = draw_predictions.COLORS[:2]
CLASSES = ('zero', 'one')


def half(color, base=GREY):
    """``color`` half transparent over ``base``."""
    return tuple((a + b) / 2 for a, b in zip(color, base))


def assert_color(image, place, color):
    """Check that the pixel at ``place`` (x, y) has a colour, up to rounding."""
    assert np.abs(np.subtract(image.getpixel(place), color)).max() <= 1, (place, image.getpixel(place), color)


def grey(width=80, height=60):
    return Image.new('RGB', (width, height), GREY)


def box_mask(left, top, right, bottom, width=80, height=60):
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def test_instances():
    boxes, labels = np.array([[10.0, 20, 30, 40], [50, 30, 70, 50]]), np.array([0, 1])
    masks = [box_mask(12, 22, 20, 40), box_mask(50, 30, 60, 50)]
    image = draw_predictions.draw_instances(grey(), boxes, labels, CLASSES, 3, masks=masks)
    assert image.size == (240, 180)
    for place in ((30, 90), (90, 90), (60, 119), (60, 60)):  # the first box's four sides
        assert_color(image, place, RED)
    assert_color(image, (150, 120), GREEN)
    assert_color(image, (45, 90), half(RED))
    assert_color(image, (160, 120), half(GREEN))
    assert_color(image, (80, 90), GREY)  # in the box, outside the mask
    assert_color(image, (120, 150), GREY)  # outside both
    # Names are on the colour of their box, above the box.
    assert np.any(np.all(np.asarray(image)[42:58, 30:60] == RED, axis=-1))
    assert np.any(np.all(np.asarray(image)[72:88, 150:180] == GREEN, axis=-1))


def test_names_stay_inside():
    boxes, labels, scores = np.array([[70.0, 0, 79, 20]]), np.array([0]), np.array([0.5])
    image = np.asarray(draw_predictions.draw_instances(grey(), boxes, labels, CLASSES, 1, scores))
    columns = np.flatnonzero(np.all(image == RED, axis=-1).any(0))
    width = draw_predictions.FONT.getlength('zero 0.50')
    assert abs(columns.min() - (80 - width)) <= 2  # not 70, the edge of the box


def test_map():
    labels = np.zeros((60, 80), dtype=int)
    labels[10:30, 10:40] = 1
    labels[50:52, 70:72] = 2  # too small to be named
    labels[40:60, 0:20] = draw_predictions.IGNORED
    palette = [(9, 9, 9), RED, GREEN]
    image = draw_predictions.draw_map(grey(), labels, ('background', *CLASSES), palette, 2)
    assert image.size == (160, 120)
    assert_color(image, (60, 50), half(RED))
    assert_color(image, (141, 101), half(GREEN))
    assert_color(image, (10, 110), half((0, 0, 0)))
    assert_color(image, (120, 20), GREY)
    pixels = np.asarray(image)
    assert np.all(pixels == RED, axis=-1).sum() > 100  # background of the name
    assert np.all(pixels == GREEN, axis=-1).sum() == 0
    assert np.all(pixels == palette[0], axis=-1).sum() == 0


@pytest.mark.parametrize(
    ('predicted', 'color'), [('one', draw_predictions.RIGHT), ('zero', draw_predictions.WRONG)]
)
def test_class(predicted, color):
    image = draw_predictions.draw_class(grey(7, 7), 'one', predicted, 0.75, 2)
    assert image.size == (320, 342)
    for place in ((0, 22), (319, 341), (3, 180), (180, 338)):
        assert_color(image, place, color)
    for place in ((4, 26), (315, 337), (160, 180)):
        assert_color(image, place, GREY)
    assert_color(image, (318, 2), (255, 255, 255))


def test_sheets():
    pair = draw_predictions.side_by_side(Image.new('RGB', (50, 40), RED), Image.new('RGB', (50, 40), GREEN))
    assert pair.size == (108, 62)
    assert_color(pair, (0, 22), RED)
    assert_color(pair, (49, 61), RED)
    assert_color(pair, (58, 22), GREEN)
    assert_color(pair, (54, 40), (255, 255, 255))
    sheet = draw_predictions.overview([pair, pair, Image.new('RGB', (20, 10), RED)], 2)
    assert sheet.size == (2 * 116 + 8, 2 * 70 + 8)
    assert_color(sheet, (8, 30), RED)
    assert_color(sheet, (8 + 116 + 58, 30), GREEN)
    assert_color(sheet, (8, 78), RED)
    assert_color(sheet, (8, 90), (120, 120, 120))


def test_masks_of_every_kind():
    mask = box_mask(10, 20, 30, 50)
    packed = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    runs = [10 * 60 + 20]
    for _ in range(19):
        runs += [30, 30]
    runs += [30, mask.size - sum(runs) - 30]
    codes = [
        packed,
        {**packed, 'counts': packed['counts'].decode()},
        {'size': [60, 80], 'counts': runs},
        [[10, 20, 30, 20, 30, 50, 10, 50]],
        [[10, 20, 20, 20, 20, 50, 10, 50], [20, 20, 30, 20, 30, 50, 20, 50]],
    ]
    for code in codes:
        decoded = draw_predictions.decode_mask(code, 60, 80)
        assert decoded.dtype == bool
        assert np.array_equal(decoded, mask)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with one image of 80 x 60 px."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'images').mkdir()
    grey().save(tmp_path / 'images' / 'a.png')
    return tmp_path


def write_config(folder, scope, **dataset):
    text = f'default_scope = {scope!r}\ntest_dataloader = dict(dataset={dataset!r})\n'
    (folder / 'config.py').write_text(text)


def test_detector(folder):
    """Ground truth from the COCO file and predictions above the threshold, both with masks."""
    truth = {'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [10, 20, 20, 20], 'area': 400, 'iscrowd': 0}
    truth['segmentation'] = [[10, 20, 30, 20, 30, 40, 10, 40]]
    coco = {'images': [{'id': 1, 'file_name': 'a.png', 'width': 80, 'height': 60}], 'annotations': [truth]}
    coco['categories'] = [{'id': index, 'name': name} for index, name in enumerate(CLASSES, 1)]
    (folder / 'coco.json').write_text(json.dumps(coco))
    write_config(
        folder,
        'mmdet',
        type='CocoDataset',
        ann_file='coco.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
        test_mode=True,
        pipeline=[],
    )
    masks = [box_mask(50, 30, 70, 50), box_mask(10, 20, 30, 40)]
    codes = [pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    instances = {'bboxes': torch.tensor([[50.0, 30, 70, 50], [10, 20, 30, 40]]), 'masks': codes}
    instances.update(labels=torch.tensor([1, 0]), scores=torch.tensor([0.9, 0.2]))
    found = [{'img_id': 1, 'img_path': 'images/a.png', 'pred_instances': instances}]
    (folder / 'found.pkl').write_bytes(pickle.dumps(found))
    draw_predictions.main(['config.py', 'found.pkl', 'out', '--scale', '1', '--score-thr', '0.5'])
    assert sorted(path.name for path in (folder / 'out').iterdir()) == ['a.png', 'overview.png']
    image = Image.open(folder / 'out' / 'a.png')
    assert image.size == (2 * 80 + 8, 60 + 22)
    assert_color(image, (20, 30 + 22), half(RED))
    assert_color(image, (60, 45 + 22), GREY)  # no ground truth here
    assert_color(image, (88 + 60, 45 + 22), half(GREEN))
    assert_color(image, (88 + 20, 30 + 22), GREY)  # score below the threshold
    assert Image.open(folder / 'out' / 'overview.png').size == (2 * 176 + 8, 90 + 8)


@pytest.mark.parametrize('reduce_zero', [True, False])
def test_segmentor(folder, reduce_zero):
    """With classes from 1, both files have 0 for no class, which is only ignored in the ground truth."""
    first = 1 if reduce_zero else 0
    truth, found = (np.full((60, 80), first, dtype=np.uint8) for _ in range(2))
    truth[30:50, 10:30] = first + 1
    truth[:, 70:] = 0 if reduce_zero else 255
    found[30:50, 40:60] = first + 2
    for name, labels in (('truth', truth), ('found', found)):
        (folder / name).mkdir()
        Image.fromarray(labels).save(folder / name / 'a.png')
    write_config(
        folder,
        'mmseg',
        type='BaseSegDataset',
        img_suffix='.png',
        data_prefix=dict(img_path='images', seg_map_path='truth'),
        metainfo=dict(classes=('background', *CLASSES), palette=[(0, 0, 0), RED, GREEN]),
        reduce_zero_label=reduce_zero,
        pipeline=[],
    )
    draw_predictions.main(['config.py', 'found', 'out', '--scale', '1'])
    image = Image.open(folder / 'out' / 'a.png')
    assert image.size == (168, 82)
    assert_color(image, (20, 40 + 22), half(RED))
    assert_color(image, (50, 45 + 22), GREY)
    assert_color(image, (75, 40 + 22), half((0, 0, 0)))
    assert_color(image, (88 + 20, 40 + 22), GREY)
    assert_color(image, (88 + 50, 45 + 22), half(GREEN))
    assert_color(image, (88 + 75, 40 + 22), GREY)


def test_classifier(folder):
    for name in CLASSES:
        (folder / 'crops' / name).mkdir(parents=True)
        grey(9, 9).save(folder / 'crops' / name / f'{name}.png')
    write_config(folder, 'mmpretrain', type='CustomDataset', data_prefix='crops', pipeline=[])
    # In the order of folder names: one, zero.
    found = [
        {'img_path': 'crops/one/one.png', 'gt_label': torch.tensor([0]), 'pred_label': torch.tensor([0])},
        {'img_path': 'crops/zero/zero.png', 'gt_label': torch.tensor([1]), 'pred_label': torch.tensor([0])},
    ]
    (folder / 'found.pkl').write_bytes(
        pickle.dumps([{**each, 'pred_score': torch.tensor([0.7, 0.3])} for each in found])
    )
    draw_predictions.main(['config.py', 'found.pkl', 'out', '--scale', '1', '--columns', '1'])
    # At 160 px the caption has two lines.
    assert_color(Image.open(folder / 'out' / 'one.png'), (1, 44), draw_predictions.RIGHT)
    assert_color(Image.open(folder / 'out' / 'zero.png'), (1, 44), draw_predictions.WRONG)
    assert Image.open(folder / 'out' / 'overview.png').size == (176, 2 * (182 + 20 + 8) + 8)
    draw_predictions.main(['config.py', 'found.pkl', 'one', '--number', '1'])
    assert sorted(path.name for path in (folder / 'one').iterdir()) == ['one.png', 'overview.png']


def test_what_cannot_be_drawn(folder):
    """Error messages say what is missing and what to do."""
    dataset = dict(type='CustomDataset', data_prefix='.', pipeline=[])
    write_config(folder, 'mmpretrain', **dataset)
    with pytest.raises(SystemExit, match=r'There is no file found\.pkl; `mim test .* --out found\.pkl`'):
        draw_predictions.main(['config.py', 'found.pkl', 'out'])
    (folder / 'found.pkl').write_bytes(pickle.dumps([]))
    with pytest.raises(SystemExit, match=r'found\.pkl has no predictions for the images of config\.py'):
        draw_predictions.main(['config.py', 'found.pkl', 'out'])
    write_config(folder, 'mmpose', **dataset)
    with pytest.raises(SystemExit, match=r"default_scope 'mmpose'; known are mmdet, mmseg, mmpretrain"):
        draw_predictions.main(['config.py', 'found.pkl', 'out'])
    assert not (folder / 'out').exists()
