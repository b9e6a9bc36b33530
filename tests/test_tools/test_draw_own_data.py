"""Drawing predictions on users' data: names, labels, sizes, and incomplete annotations."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
import torch
from mmengine.config import Config
from PIL import Image

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

from mmmobilemamba.utils.test_results import Sample, to_picture

from ..conftest import load_script
from .test_draw_predictions import GREEN, GREY, RED, assert_color, box_mask, grey, half

draw_predictions = load_script('tools/analysis_tools/draw_predictions.py')
confusion = load_script('tools/analysis_tools/confusion_matrix_seg.py')


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_for(scope, dataset, **more):
    Config(dict(default_scope=scope, test_dataloader=dict(dataset=dataset), **more)).dump('config.py')


def draw(found, *options):
    """Draw predictions, given as a list or a path; returns the images by name."""
    if not isinstance(found, str):
        with open('found.pkl', 'wb') as file:
            pickle.dump(found, file)
        found = 'found.pkl'
    draw_predictions.main(['config.py', found, 'out', '--scale', '1', *options])
    paths = Path('out').glob('*.png')
    return {path.stem: Image.open(path) for path in paths if path.stem != 'overview'}


def test_file_names():
    names = draw_predictions.file_names
    assert names(['d/x/1.jpg', 'd/y/2.png', 'd/3.png']) == ['1', '2', '3']
    assert names(['d/a/0.jpg', 'd/b/0.jpg']) == ['a_0', 'b_0']
    assert names(['/d/0.jpg', '/d/b/0.jpg', '/d/b/c/0.jpg']) == ['0', 'b_0', 'b_c_0']
    assert names(['d/0.jpg', 'd/0.png']) == ['0.jpg', '0.png']
    assert names(['d/a/x/0.jpg', 'd/a_x/0.jpg']) == ['0_0', '1_0']
    assert names(['d/A.jpg', 'd/a.jpg']) == ['0_A', '1_a']  # the same file on case-insensitive file systems
    assert names(['d/overview.jpg', 'd/b.jpg']) == ['overview.jpg', 'b.jpg']
    assert names([None, None]) == ['image_0', 'image_1']
    deep = names([f'{name}{"x" * 150}/{"y" * 150}/0.jpg' for name in 'ab'])
    assert deep == ['0_0', '1_0']


def images_in(*paths):
    for path in paths:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        grey(80, 60).save(path)


@pytest.mark.parametrize('labelled', [True, False])
def test_classes_with_images_of_the_same_name(labelled):
    paths = [f'crops/{name}/{i}.png' for name in ('cat', 'dog') for i in range(2)]
    images_in(*paths)
    config_for(
        'mmpretrain',
        dict(
            type='CustomDataset',
            data_prefix='crops',
            with_label=labelled,
            metainfo=dict(classes=('cat', 'dog')),
            pipeline=[],
        ),
    )
    score = torch.tensor([0.7, 0.3])
    found = [dict(img_path=path, pred_score=score, pred_label=torch.tensor([0])) for path in paths]
    if labelled:
        for index, each in enumerate(found):
            each['gt_label'] = torch.tensor([index // 2])
    pictures = draw(found, '--columns', '4')
    assert sorted(pictures) == ['cat_0', 'cat_1', 'dog_0', 'dog_1']
    colors = [draw_predictions.RIGHT, draw_predictions.WRONG] if labelled else [draw_predictions.UNKNOWN] * 2
    for name, color in zip(('cat_1', 'dog_1'), colors):
        assert_color(pictures[name], (1, pictures[name].height - 2), color)
        # The whole image, in its own aspect ratio.
        assert_color(pictures[name], (80, pictures[name].height - 80), GREY)
        assert_color(pictures[name], (80, pictures[name].height - 8), (255, 255, 255))


def test_several_classes_in_an_image():
    images_in('a.png', 'b.png')
    data = dict(
        metainfo=dict(classes=['cat', 'dog', 'ox']),
        data_list=[dict(img_path=f'{name}.png', gt_label=[0, 2]) for name in 'ab'],
    )
    with open('list.json', 'w') as file:
        json.dump(data, file)
    config_for('mmpretrain', dict(type='MultiLabelDataset', ann_file='list.json', pipeline=[]))
    score = torch.tensor([0.9, 0.2, 0.8])
    found = [
        dict(
            img_path='a.png', gt_label=torch.tensor([0, 2]), pred_label=torch.tensor([0, 2]), pred_score=score
        ),
        dict(img_path='b.png', gt_label=torch.tensor([0, 2]), pred_label=torch.tensor([]), pred_score=score),
    ]
    captions = []
    with pytest.MonkeyPatch.context() as patch:
        framed = draw_predictions.draw_framed
        patch.setattr(
            draw_predictions, 'draw_framed', lambda *args: captions.append(args[1:3]) or framed(*args)
        )
        draw(found)
    right, wrong = draw_predictions.RIGHT, draw_predictions.WRONG
    assert captions == [
        ('cat, ox: predicted cat 0.90, ox 0.80', right),
        ('cat, ox: predicted nothing', wrong),
    ]


def coco(name, folder, instances, images=('a.png',), size=(80, 60)):
    """A COCO file with annotations of its first image only."""
    listed = [dict(id=i, file_name=each, width=size[0], height=size[1]) for i, each in enumerate(images)]
    notes = [
        {
            'id': i,
            'image_id': 0,
            'category_id': 1,
            'area': 400,
            'iscrowd': 0,
            'bbox': [10, 20, 20, 20],
            **each,
        }
        for i, each in enumerate(instances)
    ]
    content = dict(images=listed, annotations=notes, categories=[dict(id=1, name='cat')])
    with open(name, 'w') as file:
        json.dump(content, file)
    return dict(
        type='CocoDataset',
        ann_file=name,
        data_prefix=dict(img=folder),
        metainfo=dict(classes=('cat',)),
        test_mode=True,
        pipeline=[],
    )


def boxes_found(path, number, boxes, scores=None, **more):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores = torch.full((len(boxes),), 0.9) if scores is None else torch.tensor(scores)
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    return dict(
        img_path=path, img_id=number, pred_instances=dict(bboxes=boxes, labels=labels, scores=scores, **more)
    )


def test_annotations_that_lack_something(capsys):
    """Missing and invalid polygons, RLE of crowds, non-finite boxes, and no boxes."""
    images_in('img/a.png', 'img/b.png')
    crowd = pycocotools.mask.encode(np.asfortranarray(box_mask(50, 10, 70, 30).astype(np.uint8)))
    crowd = dict(size=[60, 80], counts=crowd['counts'].decode())
    dataset = coco(
        'coco.json',
        'img/',
        [
            dict(),
            dict(bbox=[40, 40, 10, 10], segmentation=[[1, 2, 3, 4]]),
            dict(bbox=[50, 10, 20, 20], segmentation=crowd, iscrowd=1),
        ],
        images=('a.png', 'b.png'),
    )
    config_for('mmdet', dataset)
    nan = float('nan')
    masks = [box_mask(30, 30, 60, 50), box_mask(0, 0, 1, 1), box_mask(0, 0, 1, 1)]
    codes = [pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    boxes = [[30, 30, 60, 50], [nan, 0, 5, 5], [0, 0, 5, 5]]
    found = [
        boxes_found('img/a.png', 0, boxes, [0.9, 0.9, nan], masks=codes),
        boxes_found('img/b.png', 1, [], masks=[]),
    ]
    pictures = draw(found)
    assert 'boxes or scores that are not finite (NaN) are not drawn (img/a.png)' in capsys.readouterr().err
    assert_color(pictures['a'], (10, 30 + 22), RED)  # boxes without masks
    assert_color(pictures['a'], (20, 35 + 22), GREY)
    assert not draw_predictions.decode_mask([[1, 2, 3, 4]], 60, 80).any()
    assert_color(pictures['a'], (66, 25 + 22), half(RED))
    assert_color(pictures['a'], (88 + 45, 45 + 22), half(RED))
    assert np.all(np.asarray(pictures['b'])[22:, :80] == GREY)
    assert np.all(np.asarray(pictures['b'])[22:, 88:] == GREY)


def test_masks_as_arrays_and_a_box_from_a_mask():
    images_in('img/a.png')
    config_for('mmdet', coco('coco.json', 'img/', [dict()]))
    found = boxes_found(
        'img/a.png', 0, [[30, 30, 60, 50]], masks=torch.tensor(box_mask(30, 30, 60, 50))[None]
    )
    assert_color(draw([found])['a'], (88 + 45, 45 + 22), half(RED))
    image = draw_predictions.draw_truth(
        grey(),
        [dict(mask=[[10, 20, 30, 20, 30, 40, 10, 40]], bbox_label=0)],
        ('cat',),
        draw_predictions.Style(scale=1),
        True,
    )
    assert_color(image, (29, 30), RED)
    assert_color(image, (20, 30), half(RED))


def test_without_ground_truth():
    """Only predictions are drawn if no test image has annotations."""
    images_in('img/a.png')
    config_for('mmdet', coco('coco.json', 'img/', []))
    assert draw([boxes_found('img/a.png', 0, [[30, 30, 60, 50]])])['a'].size == (80, 82)


def test_test_sets_with_the_same_ids_and_names():
    images_in('one/a.png', 'two/a.png')
    sets = [
        coco('one.json', 'one/', [dict()]),
        coco('two.json', 'two/', [dict(bbox=[40, 30, 30, 20])]),
    ]
    config_for('mmdet', dict(type='ConcatDataset', datasets=sets))
    found = [boxes_found(f'{name}/a.png', 0, []) for name in ('two', 'one')]  # in any order
    pictures = draw(found)
    assert_color(pictures['one_a'], (10, 30 + 22), RED)
    assert_color(pictures['one_a'], (40, 40 + 22), GREY)
    assert_color(pictures['two_a'], (40, 40 + 22), RED)
    with pytest.raises(SystemExit, match=r'image three/a\.png, which is not in the test data'):
        draw([boxes_found('three/a.png', 5, [])])


@pytest.mark.parametrize('ignored', [True, False])
def test_turned_photos(ignored):
    """Images are drawn in the orientation of the config's loader, with matching boxes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = grey()
    picture.paste((200, 200, 200), (0, 0, 80, 10))  # the top of the stored image
    os.mkdir('img')
    picture.save('img/a.png', exif=exif)
    dataset = coco('coco.json', 'img/', [dict(bbox=[20, 20, 10, 10])])
    color = 'color_ignore_orientation' if ignored else 'color'
    dataset['pipeline'] = [dict(type='LoadImageFromFile', color_type=color), dict(type='PackDetInputs')]
    config_for('mmdet', dataset)
    found = boxes_found('img/a.png', 0, [[20, 20, 30, 30]])
    found['ori_shape'] = (60, 80) if ignored else (80, 60)
    image = draw([found])['a']
    width = 80 if ignored else 60
    assert image.size == (2 * width + 8, (60 if ignored else 80) + 22)
    assert_color(image, (width + 8 + 20, 25 + 22), RED)
    # After rotation, the stored top is on the right.
    assert_color(image, (50, 5 + 22) if ignored else (55, 40 + 22), (200, 200, 200))
    found['ori_shape'] = found['ori_shape'][::-1]
    with pytest.raises(SystemExit, match=r'img/a\.png: The picture that the model has seen of shape'):
        draw([found])


def test_what_can_be_shown_of_pixels():
    """16-bit images, floats, and one to five channels."""
    deep = np.array([[0, 4095], [2048, 1024]], np.uint16)
    assert np.asarray(to_picture(deep))[..., 1].tolist() == [[0, 255], [127, 63]]
    pixels = np.zeros((2, 2, 5), np.uint8)
    pixels[..., :3] = (1, 2, 3)
    assert to_picture(pixels).getpixel((0, 0)) == (3, 2, 1)
    assert to_picture(pixels[..., :2], reverse=False).getpixel((0, 0)) == (1, 1, 1)
    assert to_picture(pixels[..., :3].astype(np.float32)).getpixel((0, 0)) == (3, 2, 1)
    unit = np.array([[0, 0.5], [1, np.nan]], np.float32)
    assert np.asarray(to_picture(unit))[..., 0].tolist() == [[0, 127], [255, 0]]
    # Datasets with in-memory pixels store RGB.
    assert Sample(object(), dict(img=pixels[..., :3])).read().getpixel((0, 0)) == (1, 2, 3)


def segments(truth, found, classes=('sky', 'sea'), pipeline=(dict(type='LoadAnnotations'),), **dataset):
    """Data of one image with ground truth (array or None) and a prediction."""
    images_in('img/a.png')
    for name, labels in (('truth', truth), ('found', found)):
        Path(name).mkdir(exist_ok=True)
        if labels is not None:
            image = Image.fromarray(labels.astype(np.uint8))
            image.putpalette([7, 7, 7, *RED, *GREEN] + [5] * 759)
            image.save(f'{name}/a.png')
    prefix = dict(img_path='img', **({} if truth is None else dict(seg_map_path='truth')))
    more = dict(metainfo=dict(classes=classes, palette=[RED, GREEN, (9, 9, 9)][: len(classes)]))
    more.update(type='BaseSegDataset', img_suffix='.png', data_prefix=prefix, pipeline=list(pipeline))
    return {**more, **dataset}


def test_labels_that_are_no_class(capsys):
    """Palette images, 255 and another ignore_index, and labels beyond the number of classes."""
    truth = np.zeros((60, 80))
    truth[:, 20:40], truth[:, 40:60], truth[:30, 60:], truth[30:, 60:] = 1, 255, 7, 3
    found = np.ones((60, 80))
    config_for('mmseg', segments(truth, found), test_evaluator=dict(type='IoUMetric', ignore_index=3))
    image = draw('found')['a']
    note = 'ground-truth labels outside the classes are drawn black: 7 (img/a.png)'
    assert note in capsys.readouterr().err
    for x, y, color in ((10, 50, RED), (30, 35, GREEN), (50, 50, (0, 0, 0)), (70, 28, (0, 0, 0))):
        assert_color(image, (x, y + 22), half(color))
    assert_color(image, (88 + 40, 50 + 22), half(GREEN))
    with pytest.raises(
        SystemExit, match=r'labels 0 to 7, the config 2 classes, 0 to 1: 7 is none of them.*truth/a\.png'
    ):
        confusion.main(['config.py', 'found', 'matrix'])
    truth[truth == 7] = 3
    config_for('mmseg', segments(truth, found), test_evaluator=dict(type='IoUMetric', ignore_index=3))
    matrix, _ = confusion.gather(Config.fromfile('config.py'), Path('found'))
    assert matrix.tolist() == [[0, 1200], [0, 1200]]


def test_maps_without_ground_truth():
    config_for('mmseg', segments(None, np.zeros((60, 80)), pipeline=[]))
    assert draw('found')['a'].size == (80, 82)


def test_maps_of_another_size():
    config_for('mmseg', segments(np.zeros((60, 80)), np.zeros((80, 60))))
    with pytest.raises(SystemExit, match=r'a\.png: The predicted map of shape \(80, 60\) does not fit'):
        draw('found')
    config_for('mmseg', segments(np.zeros((30, 80)), np.zeros((60, 80))))
    with pytest.raises(SystemExit, match=r'a\.png: The ground truth of shape \(30, 80\) does not fit'):
        draw('found')


def test_maps_that_overwrite_each_other():
    """mmseg names maps by file name only; a file of DumpResults has all of them."""
    dataset = segments(None, np.zeros((60, 80)), pipeline=[])
    images_in('img/deep/a.png')
    config_for('mmseg', dataset)
    for tool, out in ((draw_predictions, 'out'), (confusion, 'matrix')):
        with pytest.raises(SystemExit, match=r'img/a\.png and img/deep/a\.png into the same.*DumpResults'):
            tool.main(['config.py', 'found', out])
    maps = [torch.full((1, 60, 80), label) for label in (0.0, 1.0)]  # floats, from a head with one output
    found = [
        dict(img_path=path, pred_sem_seg=dict(data=labels))
        for path, labels in zip(('img/a.png', 'img/deep/a.png'), maps)
    ]
    pictures = draw(found)
    assert_color(pictures['a'], (40, 70), half(RED))
    assert_color(pictures['deep_a'], (40, 70), half(GREEN))
    Path('truth/deep').mkdir()
    for path in ('truth/a.png', 'truth/deep/a.png'):
        Image.fromarray(np.ones((60, 80), np.uint8)).save(path)
    dataset.update(
        data_prefix=dict(img_path='img', seg_map_path='truth'), pipeline=[dict(type='LoadAnnotations')]
    )
    config_for('mmseg', dict(type='ConcatDataset', datasets=[dataset]))
    matrix, _ = confusion.gather(Config.fromfile('config.py'), Path('found.pkl'))
    assert matrix.tolist() == [[0, 0], [4800, 4800]]


def test_maps_that_are_no_classes():
    config_for(
        'mmseg',
        segments(np.zeros((60, 80)), np.zeros((60, 80))),
        test_evaluator=dict(type='CityscapesMetric'),
    )
    with pytest.raises(SystemExit, match=r'CityscapesMetric writes .* label ids'):
        draw('found')
    many = tuple(f'class {i}' for i in range(256))
    dataset = segments(np.zeros((60, 80)), np.zeros((60, 80)), classes=many, reduce_zero_label=True)
    dataset['metainfo'].pop('palette')
    config_for('mmseg', dataset)
    with pytest.raises(SystemExit, match='mmseg writes labels of 8 bits, and 256 classes need more'):
        draw('found')


def test_colors_without_a_palette():
    colors = draw_predictions.colors_of(dict(classes=tuple('abcdef'), palette=[RED]))
    assert colors[0] == RED and len(set(colors)) == 6


def test_configs_of_pure_python():
    """Without a default scope, and with classes as types."""
    from mmpretrain.datasets import CustomDataset

    from mmmobilemamba.utils.test_results import ResultsError, check_codebase

    known = list(draw_predictions.READERS)
    inner = dict(type=CustomDataset, data_prefix='crops')
    for dataset in (inner, dict(type='RepeatDataset', dataset=inner, times=2)):
        assert check_codebase(Config(dict(test_dataloader=dict(dataset=dataset))), known) == 'mmpretrain'
    assert check_codebase(Config(dict(test_dataloader=dict(dataset=dict(type='mmdet.X')))), known) == 'mmdet'
    with pytest.raises(ResultsError, match='default_scope None; known are'):
        check_codebase(Config(dict()), known)


def test_names_in_any_script(capsys, monkeypatch):
    """Characters that no font has are reported once, and a given font is used."""
    from mmmobilemamba.utils import fonts

    from ..test_utils.test_fonts import make_font

    monkeypatch.setattr(fonts.font_manager, 'findSystemFonts', list)
    truth = np.zeros((60, 80))
    config_for('mmseg', segments(truth, truth, classes=('犬', 'Riß $x$')))
    font = str(make_font(Path('Dog.ttf'), '犬'))
    plain = {}
    for options in ((), ('--font', font)):
        plain[options] = np.asarray(draw('found', *options)['a'])
        confusion.main(['config.py', 'found', 'matrix', *options])
        plain['matrix', options] = np.asarray(Image.open('matrix/confusion_matrix.png'))
        errors = capsys.readouterr().err
        missing = '犬' if not options else 'ß'
        assert errors.count(f'no font for {missing}, as in the name') == (2 if not options else 1)
        assert 'Glyph' not in errors
    # The block glyph of our font is larger than the box for missing glyphs.
    drawn = [(plain[options][22:45] > 200).all(-1).sum() for options in ((), ('--font', font))]
    assert drawn[1] > 1.5 * drawn[0] > 0
    assert (plain['matrix', ()] != plain['matrix', ('--font', font)]).any()
    with pytest.raises(SystemExit, match=r'config\.py is no TrueType or OpenType font'):
        draw('found', '--font', 'config.py')


def test_large_images_are_not_enlarged():
    style = draw_predictions.Style()
    assert style.factor(grey(480, 640)) == 3
    assert style.factor(grey(4000, 100)) == 0.5
    sheet = draw_predictions.overview([grey(9000, 100)] * 4, 2)
    assert sheet.width <= draw_predictions.LARGEST_OVERVIEW + 100
