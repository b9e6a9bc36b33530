"""Things and stuff of mmdet's panoptic segmentors, compared with the data."""

import copy
import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from torch.utils.data import DataLoader

pytest.importorskip('mmdet')

from mmmobilemamba.check.build import build_model
from mmmobilemamba.check.finding import change, config_lines, merge
from mmmobilemamba.check.panoptic import check_order_of_things, check_things, counting_heads
from mmmobilemamba.check.whole import check_config

from .test_maps import BACKBONE, WIDTHS

FOLDER = Path(import_module('mmdet').__file__).parent / '.mim/configs'
STOCK = dict(
    mask2former='mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',
    panoptic_fpn='panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
    instances='mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
)
CATEGORIES = (('car', 1), ('dog', 1), ('grass', 0))


def write(folder, categories):
    """Write panoptic annotations of one image; returns the path."""
    content = dict(
        images=[dict(id=1, file_name='1.jpg', height=8, width=8)],
        annotations=[],
        categories=[
            dict(id=index, name=name, isthing=thing) for index, (name, thing) in enumerate(categories)
        ],
    )
    path = folder / 'panoptic.json'
    path.write_text(json.dumps(content))
    return str(path)


def load(name, folder, categories=CATEGORIES, **metainfo):
    """A stock config on such annotations, and its training dataset."""
    config = Config.fromfile(FOLDER / STOCK[name])
    init_default_scope('mmdet')
    config.model.backbone = {key: value for key, value in BACKBONE.items() if key != '_delete_'}
    if 'neck' in config.model:
        config.model.neck.in_channels = WIDTHS
    if categories is not None:
        metainfo = dict(classes=tuple(name for name, _ in categories), **metainfo)
        config.train_dataloader.dataset.update(
            data_root='', ann_file=write(folder, categories), metainfo=metainfo, pipeline=[]
        )
    return config


def findings_of(config):
    """Compare the heads of a config with its training dataset."""
    with torch.device('meta'):
        model = build_model(config)
    assert counting_heads(model)
    settings = config.train_dataloader.dataset
    dataset = DATASETS.build(dict(copy.deepcopy(settings), filter_cfg=None))
    return check_things(model, dataset, settings, config)


@pytest.mark.parametrize(
    ('name', 'heads', 'lines'),
    [
        (
            'mask2former',
            ['panoptic_head', 'panoptic_fusion_head'],
            [
                'panoptic_head=dict(num_things_classes=2, num_stuff_classes=1, '
                'loss_cls=dict(class_weight=[1.0, 1.0, 1.0, 0.1]))',
                'panoptic_fusion_head=dict(num_things_classes=2, num_stuff_classes=1)',
            ],
        ),
        (
            'panoptic_fpn',
            ['panoptic_fusion_head', 'semantic_head', 'roi_head.bbox_head', 'roi_head.mask_head'],
            [
                'panoptic_fusion_head=dict(num_things_classes=2, num_stuff_classes=1)',
                'semantic_head=dict(num_things_classes=2, num_stuff_classes=1)',
                'roi_head=dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=2))',
            ],
        ),
    ],
)
def test_numbers(name, heads, lines, tmp_path):
    """Two things and one stuff class, for heads of COCO's 80 and 53."""
    config = load(name, tmp_path)
    findings = findings_of(config)
    things = 'The data have 2 things and 1 stuff classes (car, dog, grass), but the'
    assert [(each.level, each.text) for each in findings] == [
        ('warning', f'{things} {head} has 80, for things.')
        if head.startswith('roi_head')
        else ('error', f'{things} {head} has 80 and 53.')
        for head in heads
    ]
    printed = ' '.join(line.strip() for line in config_lines(merge(each.mend for each in findings)))
    assert all(line in printed for line in lines)
    assert findings_of(change(config, merge(each.mend for each in findings))) == []


def test_levels(tmp_path):
    """More classes than the data are no error unless stuff would be taken for things."""
    config = load('mask2former', tmp_path)
    right = dict(num_things_classes=2, num_stuff_classes=1)
    config.model.panoptic_fusion_head.update(right)
    for things, stuff, level in ((2, 4, 'warning'), (3, 1, 'error'), (1, 2, 'error'), (2, 0, 'error')):
        config.model.panoptic_head.update(num_things_classes=things, num_stuff_classes=stuff)
        config.model.panoptic_head.loss_cls.class_weight = [1.0] * (things + stuff) + [0.1]
        assert [each.level for each in findings_of(config)] == [level], (things, stuff)


def test_instances_have_no_stuff(tmp_path):
    """Instance segmentation with the same heads."""
    config = load('instances', tmp_path, (('car', 1), ('dog', 1)))
    first, second = findings_of(config)
    assert first.level == second.level == 'warning'
    assert first.text == (
        'The data have 2 things and 0 stuff classes (car, dog), but the panoptic_head has 80 and 0.'
    )
    assert findings_of(change(config, merge([first.mend, second.mend]))) == []


def order(config):
    """Check the order of things and stuff."""
    dataset = DATASETS.build(dict(copy.deepcopy(config.train_dataloader.dataset), filter_cfg=None))
    return check_order_of_things('train_dataloader', DataLoader(dataset), config)


def test_stuff_before_things(tmp_path):
    config = load('mask2former', tmp_path, (('car', 1), ('grass', 0), ('dog', 1)))
    (finding,) = order(config)
    assert finding.text == (
        'train_dataloader.dataset: label 1, grass, is stuff, and labels after it are things. Heads take the '
        'first labels for things.'
    )
    assert finding.level == 'error' and finding.mend == {}


def test_names_of_things(tmp_path):
    """The metric takes thing_classes of the metainfo for things, which are COCO's if no others are given."""
    config = load('mask2former', tmp_path, (('wolf', 1), ('dog', 1), ('moor', 0)))
    (finding,) = order(config)
    assert finding.text == (
        'train_dataloader.dataset: metainfo names 1 of 2 things and 0 of 1 stuff classes, and the metric '
        'takes only those for things.'
    )
    assert config_lines(finding.mend) == [
        "train_dataloader = dict(dataset=dict(metainfo=dict(thing_classes=('wolf', 'dog'), "
        "stuff_classes=('moor',))))"
    ]
    assert order(change(config, finding.mend)) == []


@pytest.mark.parametrize('name', STOCK)
def test_stock_configs_pass(name, tmp_path, monkeypatch):
    """Without COCO, only its files are missing; 80 and 53 classes are those of the dataset."""
    monkeypatch.chdir(tmp_path)
    report = check_config(load(name, tmp_path, None))
    wrong = {(each.level, each.subject) for each in report.findings if each.level != 'ok'}
    assert 'classes' not in {subject for _, subject in wrong}
    assert ('error', 'files') in wrong
