"""Class names from every source that datasets support, and pipelines of nested test data."""

import json

import pytest
from mmengine.config import Config
from PIL import Image
from torch import nn

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')

from mmmobilemamba.deployment import build, pipeline
from mmmobilemamba.deployment.datasets import datasets_of, labels_of
from mmmobilemamba.deployment.errors import DeploymentError

NAMES = ['cat', 'dog', 'pferd ä']
STEPS = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=8)]


def config_with(dataset, scope='mmpretrain'):
    return Config(dict(default_scope=scope, model=dict(), test_dataloader=dict(dataset=dataset)))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with one image per class, a file with class names, and two kinds of annotations."""
    root = tmp_path_factory.mktemp('data')
    for name in NAMES:
        (root / 'val' / name).mkdir(parents=True)
        Image.new('RGB', (4, 4)).save(root / 'val' / name / '1.png')
    (root / 'names.txt').write_text('\n'.join(NAMES) + '\n', encoding='utf-8')
    coco = dict(
        images=[dict(id=0, file_name='cat/1.png', width=4, height=4)],
        annotations=[dict(id=0, image_id=0, category_id=1, bbox=[0, 0, 2, 2], area=4, iscrowd=0)],
        categories=[dict(id=index, name=name) for index, name in enumerate(NAMES)],
    )
    (root / 'coco.json').write_text(json.dumps(coco))
    openmmlab = dict(metainfo=dict(classes=NAMES), data_list=[dict(img_path='cat/1.png', gt_label=0)])
    (root / 'openmmlab.json').write_text(json.dumps(openmmlab))
    return root


def folders(root, **kwargs):
    return dict(type='CustomDataset', data_root=str(root), data_prefix='val', pipeline=STEPS, **kwargs)


ROADS = dict(
    folders=lambda root: folders(root),
    metainfo=lambda root: folders(root, metainfo=dict(classes=NAMES)),
    classes=lambda root: folders(root, classes=NAMES),
    file_of_classes=lambda root: folders(root, classes=str(root / 'names.txt')),
    file_of_metainfo=lambda root: folders(root, metainfo=dict(classes=str(root / 'names.txt'))),
    annotations=lambda root: dict(
        type='mmpretrain.BaseDataset', ann_file='openmmlab.json', data_root=str(root), data_prefix='val'
    ),
    repeat=lambda root: dict(type='RepeatDataset', times=2, dataset=folders(root)),
    balanced=lambda root: dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=folders(root)),
    folds=lambda root: dict(type='KFoldDataset', fold=0, num_splits=3, dataset=folders(root)),
    concat=lambda root: dict(type='ConcatDataset', datasets=[folders(root), folders(root, classes=NAMES)]),
    nested=lambda root: dict(
        type='RepeatDataset', times=1, dataset=dict(type='ConcatDataset', datasets=[folders(root)])
    ),
)


@pytest.mark.parametrize('road', ROADS)
def test_names_of_classifiers(data, road):
    assert labels_of(config_with(ROADS[road](data))) == NAMES


@pytest.mark.parametrize('wrapped', [False, True])
def test_names_of_detectors(data, wrapped):
    dataset = dict(type='CocoDataset', data_root=str(data), ann_file='coco.json', pipeline=STEPS)
    dataset['metainfo'] = dict(classes=str(data / 'names.txt'))
    if wrapped:
        dataset = dict(type='MultiImageMixDataset', dataset=dataset, pipeline=[dict(type='Pad', size=(9, 9))])
    config = config_with(dataset, 'mmdet')
    assert labels_of(config) == NAMES
    assert [step['type'] for step in pipeline.resize_steps(pipeline.read_test_pipeline(config))] == [
        *('Resize', 'Pad')[: 1 + wrapped]
    ]


def test_names_of_segmentors(data):
    dataset = dict(type='BaseSegDataset', data_root=str(data), metainfo=dict(classes=NAMES), test_mode=True)
    assert labels_of(config_with(dataset, 'mmseg')) == NAMES
    assert labels_of(config_with(dict(type='ADE20KDataset'), 'mmseg'))[0] == 'wall'


def test_data_that_are_not_there(tmp_path):
    """Names come from the config, the training or the dataset class, in this order, with a warning."""
    absent = tmp_path / 'none'
    assert labels_of(config_with(folders(absent, classes=NAMES))) == NAMES  # needs no data
    with pytest.warns(UserWarning, match=r'cannot be opened .*those of the checkpoint'):
        assert labels_of(config_with(folders(absent)), trained=('a', 'b')) == ['a', 'b']
    with pytest.warns(UserWarning, match=r'cannot be opened .*are left out'):
        assert labels_of(config_with(folders(absent))) == []
    with pytest.warns(UserWarning, match=r'names.txt.*those of the checkpoint'):
        assert labels_of(config_with(folders(absent, classes='names.txt')), ['a']) == ['a']
    with pytest.raises(DeploymentError, match=r"'names.txt', which is neither a list of names nor a file"):
        labels_of(config_with(folders(absent, metainfo=dict(classes='names.txt'))))


def test_without_test_data():
    assert labels_of(Config(dict()), ['a']) == ['a'] and labels_of(Config(dict())) == []
    config = Config(dict(val_dataloader=dict(dataset=dict(pipeline=STEPS, metainfo=dict(classes=NAMES)))))
    assert labels_of(config) == NAMES and pipeline.read_test_pipeline(config) == STEPS


def test_several_test_sets(data):
    """They must agree in names and sizes, otherwise an error says which differ; also as a list of loaders."""
    other = folders(data, metainfo=dict(classes=['a', 'b', 'c']))
    for loaders in (
        dict(dataset=dict(type='ConcatDataset', datasets=[folders(data), other])),
        [dict(dataset=folders(data)), dict(dataset=other)],
    ):
        config = Config(dict(default_scope='mmpretrain', test_dataloader=loaders))
        assert len(datasets_of(config)) == 2
        with pytest.raises(DeploymentError, match='name different classes'):
            labels_of(config)
    larger = {**folders(data), 'pipeline': [STEPS[0], dict(type='Resize', scale=9)]}
    config = config_with(dict(type='ConcatDataset', datasets=[folders(data), larger]))
    with pytest.raises(DeploymentError, match='read or resize pictures differently'):
        pipeline.read_test_pipeline(config)


def test_as_many_names_as_the_head_has_classes(data):
    model, model.head = nn.Module(), nn.Module()
    model.head.num_classes = 3
    config = config_with(folders(data))
    assert build.describe(config, 'classification', model)['labels'] == NAMES
    model.head.num_classes = 4
    with pytest.warns(UserWarning, match=r"name 3 classes, such as 'cat', and the head has 4"):
        assert build.describe(config, 'classification', model)['labels'] == []


def test_loaders():
    """Metadata of loaders: arguments that do not affect pixels are dropped; unknown loaders are named."""
    assert pipeline.loader_of([]) == dict(type='LoadImageFromFile')
    step = dict(type='mmcv.LoadImageFromFile', color_type='grayscale', backend_args=None)
    assert pipeline.loader_of([step]) == dict(type='LoadImageFromFile', color_type='grayscale')
    assert pipeline.loader_of([dict(type='LoadBands', bands=object())]) == dict(type='LoadBands')
    assert pipeline.loader_of([dict(type='PackInputs')]) is None


def test_steps_that_change_pictures_otherwise():
    """Unknown steps are listed by name; steps that do not change the image are omitted."""
    steps = [
        *(
            dict(type=kind)
            for kind in ('LoadAnnotations', 'mmseg.Grayscale', 'RandomRotate', 'PackSegInputs')
        ),
        dict(type='RandomFlip', prob=0.0),
        dict(type='RandomFlip', prob=0.5),
        dict(type='Normalize', mean=[1]),
    ]
    found = pipeline.resize_steps(steps)
    assert found == [dict(type=kind) for kind in ('Grayscale', 'RandomRotate', 'RandomFlip', 'Normalize')]
    assert pipeline.unknown_steps(found) == ['Grayscale', 'RandomRotate', 'RandomFlip', 'Normalize']
    assert pipeline.resize((5, 6), found) == (5, 6)


@pytest.mark.parametrize(
    ('channels', 'settings', 'expected'),
    [
        (1, dict(mean=[5.0], std=[2.0]), ('gray', [5.0], [2.0])),
        (3, dict(mean=[5.0], std=[2.0], to_rgb=True), ('RGB', [5.0] * 3, [2.0] * 3)),
        (3, dict(), ('BGR', [0.0] * 3, [1.0] * 3)),
        (4, dict(mean=[1.0, 2.0, 3.0, 4.0], std=[1.0] * 4), ('BGRA', [1.0, 2.0, 3.0, 4.0], [1.0] * 4)),
        (5, dict(), ('5 channels', [0.0] * 5, [1.0] * 5)),
    ],
)
def test_channels(channels, settings, expected):
    config = Config(dict(model=dict(backbone=dict(in_channels=channels), data_preprocessor=settings)))
    about = build.describe(config, 'backbone')
    assert (about['channels'], about['mean'], about['std']) == expected


def test_means_of_other_channels():
    config = Config(dict(model=dict(backbone=dict(in_channels=4), data_preprocessor=dict(mean=[1, 2, 3]))))
    with pytest.raises(DeploymentError, match=r'has 3 values in mean, and .* in_channels=4: give as many'):
        build.describe(config, 'backbone')


def test_names_as_they_were_before_mmengine(data):
    with pytest.raises(DeploymentError, match=r'has CLASSES, which .* do not read: write classes'):
        labels_of(config_with(folders(data, metainfo=dict(CLASSES=NAMES))))
