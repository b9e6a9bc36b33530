"""Each mistake in a config that the check finds, and correct configs."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mmmobilemamba import MobileMamba
from mmmobilemamba.check.finding import config_lines
from mmmobilemamba.check.whole import check_config

from ..conftest import ROOT, authors_checkpoint
from ..helpers import SMALL
from .twins import DATASET, LOADERS, NAMES, TWINS

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')


def only(findings, level, subject):
    """Check level and subject of the only finding; returns its text and its config lines."""
    assert [(finding.level, finding.subject) for finding in findings] == [(level, subject)], findings
    return findings[0].text, config_lines(findings[0].mend)


@pytest.mark.parametrize('kind', TWINS)
def test_nothing_wrong(kind, check):
    assert check(kind, tests=True) == []


# Files.


def test_missing_annotations(check, scenes):
    text, _ = only(check(**{f'{DATASET}.ann_file': 'annotations/no.json'}), 'error', 'files')
    path = 'data/digits_scenes/coco/annotations/no.json'
    assert text == f'train_dataloader.dataset: there is no {path} here.'
    text, lines = only(check(tests=True, val_evaluator__ann_file='no.json'), 'error', 'files')
    assert text == 'val_evaluator: there is no no.json here.'
    right = 'data/digits_scenes/coco/annotations/instances_val.json'
    assert lines == [f'val_evaluator = dict(ann_file={right!r})']
    other = right.replace('val', 'train')
    text, lines = only(check(tests=True, val_evaluator__ann_file=other), 'error', 'files')
    assert text == f'val_evaluator compares with {other}, but the images are those of {right}.'
    assert lines == [f'val_evaluator = dict(ann_file={right!r})']
    several = [dict(type='CocoMetric', ann_file=other, metric='bbox'), dict(type='DumpDetResults')]
    findings = check(tests=True, val_evaluator=several)
    _, lines = only(findings, 'error', 'files')
    assert lines[1:3] == [
        f'    dict(_base_.val_evaluator[0], ann_file={right!r}),',
        '    _base_.val_evaluator[1],',
    ]
    assert check.again(findings) == []


def test_metrics_score_all_images(check):
    for indices in (3, [0, 1, 2]):  # of 4
        changes = dict(val_dataloader__dataset__indices=indices, test_dataloader__dataset__indices=indices)
        (first, _) = [each for each in check(tests=True, **changes) if each.subject == 'files']
        assert first.level == 'warning' and 'val_dataloader.dataset reads 3 of them (indices)' in first.text
        assert first.text.endswith('objects in the others count as missed.')
    no_file = dict(type='CocoMetric', ann_file=None, metric='bbox')  # scores the images that it is given
    assert not [
        each
        for each in check(tests=True, val_evaluator=no_file, test_evaluator=no_file, **changes)
        if each.subject == 'files'
    ]


def test_missing_images(check, scenes, tmp_path):
    """Two of the eight annotated images do not exist."""
    root = scenes / 'data/digits_scenes/coco'
    for number, image in enumerate(sorted((root / 'train').iterdir())):
        if number > 1:
            (tmp_path / image.name).symlink_to(image)
    text, _ = only(check(**{f'{DATASET}.data_prefix': dict(img=str(tmp_path))}), 'error', 'files')
    assert text.startswith('train_dataloader.dataset: 2 of 8 checked files')
    assert str(tmp_path) in text


@pytest.mark.parametrize(
    'wrapper', ['RepeatDataset', 'ClassBalancedDataset', 'ConcatDataset', 'MultiImageMixDataset']
)
def test_datasets_in_wrappers(wrapper, check, twins):
    inside = copy.deepcopy(twins['detector'].train_dataloader.dataset)
    wrapped = dict(_delete_=True, type=wrapper, dataset=inside)
    wrapped.update(
        dict(RepeatDataset=dict(times=2), ClassBalancedDataset=dict(oversample_thr=0.1)).get(wrapper, {})
    )
    place = f'{DATASET}.dataset'
    if wrapper == 'ConcatDataset':
        wrapped['datasets'] = [wrapped.pop('dataset'), copy.deepcopy(inside)]
        place = f'{DATASET}.datasets[0]'
    if wrapper == 'MultiImageMixDataset':
        wrapped.update(type='mmdet.MultiImageMixDataset', pipeline=[inside.pipeline.pop()])
    assert check(**{DATASET: copy.deepcopy(wrapped)}) == []
    inside.ann_file = 'no.json'
    text, _ = only(check(**{DATASET: wrapped}), 'error', 'files')
    assert text == f'{place}: there is no data/digits_scenes/coco/no.json here.'


def test_files_elsewhere(check, tmp_path):
    """Files that are downloaded, or read from a remote backend, are not reported as missing."""
    cifar = dict(_delete_=True, type='CIFAR10', data_prefix=str(tmp_path / 'cifar'), pipeline=[])
    assert check('classifier', **{DATASET: dict(cifar)}) == []
    assert not list(tmp_path.iterdir())
    text, _ = only(check('classifier', **{DATASET: dict(cifar, download=False)}), 'error', 'files')
    assert text == f'train_dataloader.dataset: there is no {tmp_path / "cifar"} here.'
    remote = dict(ann_file='no.json', backend_args=dict(_delete_=True, backend='lmdb', db_path='no'))
    (finding,) = check(**{DATASET: remote})
    assert finding.subject == 'data' and finding.text.startswith('train_dataloader cannot be built')


# Classes.


@pytest.mark.parametrize(('number', 'level'), [(3, 'error'), (80, 'warning')])
def test_heads_with_other_classes(number, level, check):
    text, lines = only(check(model__bbox_head__num_classes=number), level, 'classes')
    data = 'The data have 10 classes (zero, one, two, three, four and 5 more)'
    assert text == f'{data}, but the bbox_head has {number}.'
    assert lines == ['model = dict(bbox_head=dict(num_classes=10))']


def test_names_that_match_none(check):
    text, _ = only(check(**{f'{DATASET}.metainfo': dict(classes=('cat', 'dog'))}), 'error', 'data')
    assert 'is empty' in text
    findings = check(**{f'{DATASET}.metainfo': dict(classes=('cat', 'dog'))})
    lines = config_lines(findings[0].mend)
    assert ''.join(lines) == f'train_dataloader = dict(    dataset=dict(metainfo=dict(classes={NAMES!r})),)'
    assert check.again(findings) == []
    names = (*NAMES[:9], 'cat')
    text, lines = only(check(**{f'{DATASET}.metainfo': dict(classes=names)}), 'error', 'classes')
    assert text == 'train_dataloader.dataset: the annotations have 9 of 10 classes: not cat.'
    assert ''.join(lines) == (f'train_dataloader = dict(    dataset=dict(metainfo=dict(classes={NAMES!r})),)')


def test_names_as_before_mmengine(check):
    metainfo = dict(_delete_=True, CLASSES=NAMES)
    text, _ = only(check('classifier', **{f'{DATASET}.metainfo': metainfo}), 'error', 'classes')
    assert 'write metainfo=dict(classes=...)' in text


@pytest.mark.parametrize('kind', ['segmentor', 'classifier'])
def test_other_numbers_of_outputs(kind, check):
    """The data have 10 digits, and the masks a background."""
    name, right = dict(segmentor=('decode_head', 11), classifier=('head', 10))[kind]
    for number, level in ((3, 'error'), (150, 'warning')):
        findings = check(kind, **{f'model__{name}__num_classes': number})
        text, lines = only(findings, level, 'classes')
        assert text.startswith(f'The data have {right} classes (')
        assert text.endswith(f' more), but the {name} has {number}.')
        assert lines == [f'model = dict({name}=dict(num_classes={right}))']
        assert check.again(findings) == []


ZERO = 'reduce_zero_label'


def test_label_zero_in_dataset_and_pipeline(check):
    """One finding for all dataloaders, whose lines follow the labels: the rim of the scenes is 0."""
    findings = check('segmentor', tests=True, **{f'{name}.dataset.{ZERO}': False for name in LOADERS})
    text, lines = only(findings, 'error', 'masks')
    assert text == (
        'train_dataloader.dataset, val_dataloader.dataset, test_dataloader.dataset: LoadAnnotations has '
        'reduce_zero_label=True and the dataset False, so mmseg stops at the first image.'
    )
    assert lines == [f'{name} = dict(dataset=dict({ZERO}=True))' for name in LOADERS]
    assert findings[0].advice == 'The masks look as if label 0 is no class, and 1 the first one:'
    assert check.again(findings) == []


def test_label_zero_that_is_a_class(check, twins, scenes, tmp_path):
    """Masks with labels 0 to 10 for 11 classes: the background would be left out."""
    (tmp_path / 'images').symlink_to(scenes / 'data/digits_scenes/ade/images')
    for file in (scenes / 'data/digits_scenes/ade/annotations').rglob('*.png'):
        labels = np.array(Image.open(file)).clip(1) - 1
        labels[0, :11] = range(11)
        new = tmp_path / file.relative_to(scenes / 'data/digits_scenes/ade')
        new.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(new)
    findings = check('segmentor', **{f'{DATASET}.data_root': str(tmp_path)})
    text, lines = only(findings, 'warning', 'masks')
    assert text.endswith('no mask that was looked at has label 11, which would be the last.')
    assert ' '.join(' '.join(lines).split()) == (
        'train_dataloader = dict( dataset=dict(reduce_zero_label=False, '
        'pipeline=[_base_.train_dataloader.dataset.pipeline[0], '
        'dict(_base_.train_dataloader.dataset.pipeline[1], reduce_zero_label=False), '
        '_base_.train_dataloader.dataset.pipeline[2], _base_.train_dataloader.dataset.pipeline[3]]), )'
    )
    assert check.again(findings) == []
    findings = check('segmentor', **{f'{DATASET}.data_root': str(tmp_path), f'{DATASET}.{ZERO}': False})
    assert findings[0].advice == 'The masks look as if label 0 is the first class:'
    for file in (tmp_path / 'annotations').rglob('*.png'):
        Image.fromarray(np.array(Image.open(file)).clip(0, 3)).save(file)
    findings = check('segmentor', **{f'{DATASET}.data_root': str(tmp_path), f'{DATASET}.{ZERO}': False})
    assert findings[0].advice == 'If label 0 is no class, and 1 the first one:'


# Batches.


def test_no_iteration(check):
    loader = dict(batch_size=16, drop_last=True, batch_sampler=None)
    findings = check(train_dataloader=loader, auto_scale_lr=None)
    text, lines = only(findings, 'error', 'batches')
    assert '8 images, fewer than the batch_size of 16' in text
    assert lines == ['train_dataloader = dict(batch_size=8)']
    assert check.again(findings) == []


def test_fewer_images_than_a_batch(check):
    findings = check(train_dataloader__batch_size=16, auto_scale_lr=None)
    text, lines = only(findings, 'warning', 'batches')
    assert text == (
        'train_dataloader has 8 images, fewer than its batch_size of 16: an epoch is one batch of 8.'
    )
    assert lines == ['train_dataloader = dict(batch_size=8)']
    assert check.again(findings) == []
    text, _ = only(check('segmentor', train_dataloader__batch_size=16), 'warning', 'batches')
    assert text.endswith('fewer than its batch_size of 16: a batch has some of them twice.')


def test_batch_norm_with_one_value(check):
    """Batches of one image, a single image in the last batch, and a dataset of one image."""
    for size, images, expected in (
        (1, 20, ['train_dataloader = dict(batch_size=2)']),
        (2, 21, ['train_dataloader = dict(drop_last=True)']),
    ):
        loader = dict(batch_size=size, drop_last=False)
        changes = {f'{DATASET}.indices': range(images), 'train_dataloader': loader}
        findings = check('classifier', auto_scale_lr=None, **changes)
        error, *others = findings
        text, lines = only([error], 'error', 'batch norm')
        assert 'too few to train with' in text
        assert lines == expected
        assert {finding.subject for finding in others} <= {'classes'}  # the first images are of few classes
        assert check.again(findings) == others
    alone = check(
        'classifier', auto_scale_lr=None, **{f'{DATASET}.indices': 1, 'train_dataloader.drop_last': False}
    )
    assert [(finding.level, finding.subject) for finding in alone] == [
        ('error', 'batch norm'),
        ('warning', 'classes'),
        ('warning', 'batches'),
    ]
    assert alone[0].mend == alone[2].mend == {}
    assert alone[2].advice == 'One image needs to be repeated: RepeatDataset, or the same file twice.'


def test_batches_of_several_datasets(check, twins):
    """The loss of semi-supervised training needs an image of each dataset."""
    labelled = copy.deepcopy(twins['detector'].train_dataloader.dataset)
    pack = dict(type='PackDetInputs', meta_keys=('img_path', 'ori_shape', 'img_shape', 'homography_matrix'))
    branch = [dict(type='Resize', scale=(160, 160)), pack]
    load = dict(type='LoadImageFromFile')
    unlabelled = copy.deepcopy(labelled)
    fields = ['sup', 'unsup_teacher', 'unsup_student']
    sup = dict(type='MultiBranch', branch_field=fields, sup=[pack])
    unsup = dict(type='MultiBranch', branch_field=fields, unsup_teacher=branch, unsup_student=branch)
    size = dict(type='Resize', scale=(160, 160))
    labelled.pipeline = [load, dict(type='LoadAnnotations', with_bbox=True), size, sup]
    unlabelled.pipeline = [load, dict(type='LoadEmptyAnnotations'), unsup]
    model = dict(twins['detector'].model)
    inside = model.pop('data_preprocessor')
    semi = dict(
        _delete_=True,
        type='SemiBaseDetector',
        detector=dict(model, data_preprocessor=inside),
        semi_train_cfg=dict(freeze_teacher=True, cls_pseudo_thr=0.5),
        semi_test_cfg=dict(predict_on='teacher'),
        data_preprocessor=dict(type='MultiBranchDataPreprocessor', data_preprocessor=inside),
    )
    loader = dict(
        _delete_=True,
        batch_size=3,
        num_workers=0,
        sampler=dict(type='MultiSourceSampler', batch_size=3, source_ratio=[1, 2]),
        dataset=dict(type='ConcatDataset', datasets=[labelled, unlabelled]),
    )
    assert check(model=semi, train_dataloader=loader, auto_scale_lr=None) == []


def test_loss_that_is_not_finite(check):
    text, _ = only(check(model__data_preprocessor__std=[0, 0, 0]), 'error', 'loss')
    assert text.startswith('The loss of 2 images is not finite: loss_cls, loss_bbox')


def test_loss_that_cannot_be_computed(check):
    text, _ = only(check(model__bbox_head__loss_cls=dict(use_sigmoid=True, alpha='a')), 'error', 'loss')
    assert text.startswith('The loss of 2 images cannot be computed: TypeError')


# Checkpoints.


@pytest.fixture(scope='session')
def files(twins, tmp_path_factory):
    """Checkpoints of the detector, of its backbone, of another size, and of something else."""
    folder = tmp_path_factory.mktemp('files')
    init_default_scope('mmdet')
    weights = MODELS.build(twins['detector'].model).state_dict()
    coarse = {key: value for key, value in weights.items() if 'retina_cls' not in key}
    coarse['bbox_head.retina_cls.weight'] = torch.zeros(720, 64, 3, 3)
    coarse['bbox_head.retina_cls.bias'] = torch.zeros(720)
    contents = dict(
        whole=weights,
        classes=coarse,
        backbone=MobileMamba(SMALL).state_dict(),
        t2=MobileMamba('t2').state_dict(),
        b1=authors_checkpoint('b1'),
        other={'layer1.weight': torch.zeros(2)},
        resnet={f'backbone.{key}': torch.zeros(2) for key in ('conv1.weight', 'layer1.0.conv1.weight')}
        | {key: value for key, value in weights.items() if not key.startswith('backbone.')},
    )
    for name, content in contents.items():
        torch.save(dict(state_dict=content), folder / f'{name}.pth')
    return {name: str(folder / f'{name}.pth') for name in contents}


def test_load_from(check, files):
    assert check(load_from=files['whole']) == []
    text, _ = only(check(load_from='no.pth'), 'error', 'checkpoint')
    assert text == 'load_from: There is no checkpoint file no.pth.'
    text, lines = only(check(load_from=files['backbone']), 'error', 'checkpoint')
    assert 'has nothing for the backbone of this RetinaNet' in text
    init_cfg = f"dict(_delete_=True, type='Pretrained', checkpoint={files['backbone']!r})"
    assert lines == ['load_from = None', 'model = dict(', f'    backbone=dict(init_cfg={init_cfg}),', ')']
    findings = check(load_from=files['other'])
    text, lines = only(findings, 'error', 'checkpoint')
    assert 'it looks like no MobileMamba (its first keys: layer1.weight). Set load_from=None;' in text
    assert lines == ['load_from = None']  # the small backbone has no published weights
    assert check.again(findings) == []
    text, _ = only(check(load_from=files['classes']), 'warning', 'checkpoint')
    assert 'Initialised anew: bbox_head.retina_cls.weight (720, 64, 3, 3) instead of (80, 64, 3, 3)' in text


def test_load_from_of_another_network(check, files):
    """Weights of a ResNet, and of a detector with one, of which neck and heads would fit."""
    start = {'model.backbone.arch': 't2', 'model.neck.in_channels': [144, 272, 368]}
    for source in ('other', 'resnet'):
        findings = check(load_from=files[source], **start)
        text, lines = only(findings, 'error', 'checkpoint')
        assert 'no MobileMamba' in text
        assert lines == [
            'load_from = None',
            "model = dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', "
            "checkpoint='mobilemamba://t2')))",
        ]
        assert check.again(findings) == []
    assert 'the backbone in ' in text and 'Only neck and heads would be loaded' in text


def test_resume(check, files, tmp_path):
    assert check(load_from=files['whole'], resume=True) == []
    text, _ = only(check(load_from=files['classes'], resume=True), 'error', 'checkpoint')
    assert 'The checkpoint to resume is of another model' in text
    found = 'work_dirs/retinanet_mobilemamba-t2_fpn_2e_digits has no last_checkpoint'
    assert found in only(check(resume=True), 'warning', 'checkpoint')[0]  # the folder of the training tools
    text, _ = only(check(resume=True, work_dir=str(tmp_path)), 'warning', 'checkpoint')
    assert text == f'resume is set, but {tmp_path} has no last_checkpoint: the training starts from scratch.'


def test_init_cfg(check, files):
    def pretrained(source):
        return {
            'model.backbone.init_cfg': dict(_delete_=True, type='Pretrained', checkpoint=source),
            'model.backbone.arch': 't2',
        }

    assert check(**pretrained(files['t2'])) == []
    text, lines = only(check(**pretrained('torchvision://resnet50')), 'error', 'init_cfg')
    assert text == 'init_cfg: torchvision://resnet50 has weights of another network than MobileMamba.'
    init_cfg = "dict(_delete_=True, type='Pretrained', checkpoint='mobilemamba://t2')"
    assert lines == [f'model = dict(backbone=dict(init_cfg={init_cfg}))']
    text, _ = only(check(**pretrained(files['b1'])), 'error', 'init_cfg')
    assert 'It looks like a MobileMamba B1' in text
    findings = check(**pretrained(files['other']))
    text, lines = only(findings, 'error', 'init_cfg')
    assert text.endswith('The checkpoint looks like no MobileMamba (its first keys: layer1.weight).')
    assert lines == [f'model = dict(backbone=dict(init_cfg={init_cfg}))']
    assert check.again(findings) == []
    text, _ = only(check(**pretrained('no.pth')), 'error', 'init_cfg')
    assert text == 'init_cfg: There is no checkpoint file no.pth.'
    text, _ = only(check(**pretrained('mobilemamba://t3')), 'error', 'init_cfg')
    assert "'t3'" in text


def test_pixels_that_the_weights_do_not_expect(check):
    weights = dict(_delete_=True, type='Pretrained', checkpoint='mobilemamba://t2')
    start = {'model.backbone.init_cfg': weights, 'model.backbone.arch': 't2'}
    assert check(**start) == []
    yolox = dict(_delete_=True, type='DetDataPreprocessor', pad_size_divisor=32)
    text, lines = only(check(**start, model__data_preprocessor=yolox), 'warning', 'init_cfg')
    assert text == (
        "mobilemamba://t2 expects RGB images with ImageNet's mean and deviation, but data_preprocessor has "
        'mean=None, std=None, bgr_to_rgb=None.'
    )
    right = 'mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True'
    assert right in ' '.join(' '.join(lines).split()).replace('( ', '(')
    preprocessor = dict(_delete_=True, type='ClsDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3)
    findings = check('classifier', **start, data_preprocessor=preprocessor)
    text, _ = only(findings, 'warning', 'init_cfg')
    assert text.endswith('mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=None.')
    assert check.again(findings) == []
    caffe = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
    text, _ = only(check(**start, model__data_preprocessor=caffe), 'warning', 'init_cfg')
    assert text.endswith('mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False.')


def test_checkpoint_to_test(check, files):
    assert check(checkpoint=files['whole']) == []
    text, _ = only(check(checkpoint=files['classes']), 'error', 'checkpoint')
    assert 'The checkpoint does not fit this RetinaNet' in text
    text, _ = only(check(checkpoint=files['backbone']), 'error', 'checkpoint')
    assert 'has nothing for the backbone' in text


# Schedule.


WARM = dict(by_epoch=False, begin=0, end=500)


@pytest.mark.parametrize(
    ('schedulers', 'wrong', 'right'),
    [
        (
            [dict(type='LinearLR', start_factor=0.1, **WARM)],
            ['LinearLR warms up for 500 of 40 iterations, so the full value is never reached.'],
            ["dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)"],
        ),
        (
            [
                dict(type='ConstantLR', factor=0.01, **WARM),
                dict(type='PolyLR', power=0.9, by_epoch=False, begin=500, end=8000),
            ],
            [
                'ConstantLR warms up for 500 of 40 iterations, so the full value is never reached.',
                'PolyLR begins after 500 of 40 iterations, so it never does.',
            ],
            [
                "dict(type='ConstantLR', factor=0.01, by_epoch=False, begin=0, end=4)",
                "dict(type='PolyLR', power=0.9, by_epoch=False, begin=4, end=40)",
            ],
        ),
        (  # by epochs, converted to iterations; the training has 20 epochs of 2 iterations
            [
                dict(type='LinearLR', start_factor=0.1, end=30, convert_to_iter_based=True),
                dict(type='CosineAnnealingLR', T_max=270, begin=30, end=300),
            ],
            [
                'LinearLR warms up for 60 of 40 iterations, so the full value is never reached.',
                'CosineAnnealingLR begins after 30 of 20 epochs, so it never does.',
            ],
            [
                "dict(type='LinearLR', start_factor=0.1, end=2, convert_to_iter_based=True)",
                "dict(type='CosineAnnealingLR', T_max=18, begin=2, end=20)",
            ],
        ),
        (
            [dict(type='MultiStepLR', begin=0, end=120, milestones=[80, 110], gamma=0.1)],
            ['MultiStepLR steps after 80 of 20 epochs, so it never does.'],
            ["dict(type='MultiStepLR', begin=0, end=20, milestones=[13, 18], gamma=0.1)"],
        ),
        (  # YOLOX's: the decay begins where the warm-up, which is short enough, ends
            [
                dict(type='mmdet.QuadraticWarmupLR', begin=0, end=5, convert_to_iter_based=True),
                dict(type='CosineAnnealingLR', T_max=285, begin=5, end=285, convert_to_iter_based=True),
                dict(type='ConstantLR', factor=1, begin=285, end=300),
            ],
            [
                'ConstantLR begins after 285 of 20 epochs, so it never does.',
                'CosineAnnealingLR decays for 580 of 40 iterations, so the training ends before it does.',
            ],
            [
                "dict(type='mmdet.QuadraticWarmupLR', begin=0, end=5, convert_to_iter_based=True)",
                "dict(type='CosineAnnealingLR', T_max=14, begin=5, end=19, convert_to_iter_based=True)",
                "dict(type='ConstantLR', factor=1, begin=19, end=20)",
            ],
        ),
    ],
)
def test_schedulers_that_are_too_long(schedulers, wrong, right, check):
    findings = check(
        param_scheduler=schedulers,
        train_cfg__max_epochs=20,
        train_dataloader__batch_size=4,
        auto_scale_lr=None,
    )
    assert {finding.subject for finding in findings} == {'schedule'} and findings[0].level == 'error'
    assert [finding.text for finding in findings] == wrong
    text = ' '.join(config_lines(findings[0].mend)).replace('     ', ' ').replace(', ]', ']')
    assert text.replace('[ ', '[').replace(',]', ']') == f'param_scheduler = [{", ".join(right)}]'
    assert check.again(findings) == []


def test_a_warm_up_by_epochs_of_a_short_training(check):
    """Two epochs of one iteration: a tenth is less than an epoch."""
    warm = dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=5, convert_to_iter_based=True)
    findings = check(param_scheduler=[warm])
    text, lines = only(findings, 'error', 'schedule')
    assert text == 'LinearLR warms up for 5 of 2 iterations, so the full value is never reached.'
    assert lines == [
        "param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=1)]"
    ]
    assert check.again(findings) == []


def test_a_decay_that_is_too_long(check):
    decay = dict(type='PolyLR', power=0.9, by_epoch=False, begin=0, end=80000)
    findings = check(param_scheduler=[decay])
    text, lines = only(findings, 'warning', 'schedule')
    assert text == 'PolyLR decays for 80000 of 2 iterations, so the training ends before it does.'
    assert lines == ["param_scheduler = [dict(type='PolyLR', power=0.9, by_epoch=False, begin=0, end=2)]"]
    assert check.again(findings) == []


def test_no_validation(check):
    """mmengine (0.10.7) validates after the last epoch, however long the interval is."""
    assert check(tests=True, train_cfg__val_interval=10) == []
    findings = check(tests=True, train_cfg__val_begin=10)
    text, lines = only(findings, 'warning', 'schedule')
    assert text == 'Validation begins after 10 of 2 epochs, so it never runs.'
    assert lines == ['train_cfg = dict(val_begin=1)']
    assert check.again(findings) == []


def test_what_the_runner_needs_together(check):
    findings = check(tests=True, val_dataloader=None, test_cfg=None)
    assert [(finding.level, finding.text) for finding in findings] == [
        (
            'error',
            'The config has val_cfg and val_evaluator, but no val_dataloader: the Runner needs all or none '
            'of them.',
        ),
        (
            'error',
            'The config has test_dataloader and test_evaluator, but no test_cfg: the Runner needs all or '
            'none of them.',
        ),
    ]
    lines = [config_lines(finding.mend) for finding in findings]
    assert lines == [
        ['val_cfg = None', 'val_evaluator = None'],
        ["test_cfg = dict(_delete_=True, type='TestLoop')"],
    ]
    assert check.again(findings) == []
    text, lines = only(check(optim_wrapper=None), 'error', 'schedule')
    assert text.startswith('The config has train_dataloader and train_cfg, but no optim_wrapper')
    assert lines == []


def test_what_cannot_be_set_up(check):
    text, _ = only(check(optim_wrapper__optimizer__lr=-1.0), 'error', 'schedule')
    assert text.startswith('The training cannot be set up: ValueError: Invalid learning rate: -1.0')


def test_learning_rate(check):
    text, lines = only(check(gpus=4), 'warning', 'lr')
    assert text == 'The learning rate of 0.001 is for 8 images per step, but there are 4 x 8 images per step.'
    assert lines == ['auto_scale_lr = dict(enable=True)']
    assert check(gpus=4, auto_scale_lr__enable=True) == []


def test_learning_rate_of_accumulated_iterations(check):
    """Four iterations of two images are a step of eight; auto_scale_lr would take them for two images."""
    accumulated = dict(train_dataloader__batch_size=2, optim_wrapper__accumulative_counts=4)
    assert check(**accumulated) == []
    findings = check(gpus=2, **accumulated)
    text, lines = only(findings, 'warning', 'lr')
    assert text.endswith('is for 8 images per step, but there are 2 x 2 x 4 images per step.')
    assert lines == ['optim_wrapper = dict(optimizer=dict(lr=0.002))']
    findings = check(**accumulated, auto_scale_lr__enable=True)
    text, lines = only(findings, 'warning', 'lr')
    assert text == (
        'There are 1 x 2 x 4 images per step, but auto_scale_lr ignores that 4 iterations are accumulated.'
    )
    assert lines == ['auto_scale_lr = dict(enable=False)', 'optim_wrapper = dict(optimizer=dict(lr=0.001))']
    assert check.again(findings) == []


def in_other_order(scenes, folder, *first):
    """Write annotations whose categories begin with other ones; returns the path."""
    content = json.loads((scenes / 'data/digits_scenes/coco/annotations/instances_val.json').read_text())
    content['categories'].sort(key=lambda each: first.index(each['name']) if each['name'] in first else 9)
    path = folder / 'annotations.json'
    path.write_text(json.dumps(content))
    return str(path)


def test_order_of_the_classes(check, scenes, tmp_path):
    """mmdet's labels follow the annotations, so the names in the metainfo change no label, only its name."""
    swapped = ('one', 'zero', *NAMES[2:])
    findings = check(tests=True, val_dataloader__dataset__metainfo=dict(classes=swapped))
    text, lines = only(findings, 'error', 'classes')
    assert text == (
        'val_dataloader.dataset: label 0 is zero, and metainfo calls it one. Labels have the order of the '
        'categories in the annotations, or of the folders.'
    )
    assert f'classes={NAMES!r}' in ''.join(lines)
    assert check.again(findings) == []
    other = in_other_order(scenes, tmp_path, 'one', 'zero')
    changes = dict(val_dataloader__dataset__ann_file=other, val_evaluator__ann_file=other)
    findings = check(tests=True, val_dataloader__dataset__metainfo=dict(classes=swapped), **changes)
    text, lines = only(findings, 'error', 'classes')
    assert text == (
        'val_dataloader.dataset: label 0 is one, but zero in the training data; predictions would be scored '
        'as other classes.'
    )
    assert lines == [] and 'give both datasets the same ones' in findings[0].advice


def test_categories_of_the_same_name(check, scenes, tmp_path):
    """Such as of exports with a super-category of the same name: the second one is a label too many."""
    content = json.loads((scenes / 'data/digits_scenes/coco/annotations/instances_train.json').read_text())
    content['categories'].append(dict(id=99, name='nine'))
    (tmp_path / 'twice.json').write_text(json.dumps(content))
    text, _ = only(check(**{f'{DATASET}.ann_file': str(tmp_path / 'twice.json')}), 'error', 'classes')
    assert text == (
        'train_dataloader.dataset: several categories of the annotations have the same name: nine. Each of '
        'them is a label of its own, and there are 10 classes.'
    )


def test_folders_of_classes(check, scenes, tmp_path):
    """A folder that the validation data lack shifts the labels of those after it."""
    names = sorted(NAMES)
    for name in names[1:]:
        (tmp_path / name).symlink_to(scenes / 'data/digits_scenes/imagenet/val' / name)
    loader = dict(data_root='', data_prefix=str(tmp_path), metainfo=dict(_delete_=True))
    findings = check('classifier', tests=True, val_dataloader__dataset=loader)
    text, lines = only(findings, 'error', 'classes')
    assert text.startswith('val_dataloader.dataset: label 0 is five, but eight in the training data;')
    assert lines == []
    findings = check('classifier', **{f'{DATASET}.metainfo.classes': NAMES})
    text, lines = only(findings, 'error', 'classes')
    assert text.startswith('train_dataloader.dataset: label 0 is eight, and metainfo calls it zero.')
    assert check.again(findings) == []


def test_classes_forgotten_for_validation(check):
    """mmseg fails after the first epochs, in the metric."""
    findings = check('segmentor', tests=True, val_dataloader__dataset__metainfo=dict(_delete_=True))
    text, _ = only(findings, 'error', 'classes')
    assert text == 'val_dataloader.dataset has no class names, which the metrics of mmseg need.'
    assert check.again(findings) == []


def test_datasets_of_other_classes(check, twins):
    """mmdet's ConcatDataset takes them, with a list as metainfo."""
    inside = copy.deepcopy(twins['detector'].train_dataloader.dataset)
    other = copy.deepcopy(inside)
    other.metainfo.classes = NAMES[1:]
    both = dict(_delete_=True, type='ConcatDataset', datasets=[inside, other])
    text, _ = only(check(**{DATASET: both}), 'error', 'classes')
    assert text.startswith(f'{DATASET}.datasets[1]: label 0 is one, but zero in the training data;')


def test_settings_of_another_dataset(check):
    (finding,) = check('classifier', **{f'{DATASET}.split': 'train'})
    assert finding.text.endswith("BaseDataset.__init__() got an unexpected keyword argument 'split'")
    assert finding.advice.startswith('Settings of the previous dataset are inherited')
    finding, rate = check(train_dataloader=dict(_delete_=True, batch_size=2))
    assert rate.subject == 'lr'
    assert finding.text == "train_dataloader cannot be built: KeyError: 'dataset'"


def test_objects_that_the_pipeline_drops(check, twins):
    """Masks of the digits are run lengths, which mmdet reads as polygons if it is told to."""
    pipeline = copy.deepcopy(twins['detector'].train_dataloader.dataset.pipeline)
    pipeline[1] = dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)
    text, _ = only(check(**{f'{DATASET}.pipeline': pipeline}), 'error', 'data')
    assert re.fullmatch(
        r'The first 8 images have \d+ objects, but the pipeline keeps none of them, so that nothing would be '
        r'learnt\.',
        text,
    )
    pipeline[1]['poly2mask'] = True
    assert check(**{f'{DATASET}.pipeline': pipeline}) == []


# The model.


def test_kernels(check):
    text, _ = only(check(model__backbone__scan_backend='triton'), 'error', 'kernels')
    assert 'it is for cuda' in text


def test_imports(check):
    _, lines = only(check(custom_imports=dict(imports=['json'])), 'warning', 'imports')
    assert lines == ["custom_imports = dict(imports=['json', 'mmmobilemamba.mmdet'])"]


def test_models_that_cannot_be_built(check):
    text, lines = only(check(model__backbone__depth=50), 'error', 'model')
    assert "unexpected keyword argument 'depth'" in text
    assert lines[1].startswith("    backbone=dict(_delete_=True, type='MobileMamba', arch=")
    text, lines = only(check('segmentor', model__pretrained='open-mmlab://resnet50_v1c'), 'error', 'model')
    assert lines == ['model = dict(pretrained=None)']
    text, lines = only(check(model__neck__type='NoSuchNeck'), 'error', 'model')
    assert 'NoSuchNeck is not in the' in text
    assert lines == []  # the package is imported
    changes = dict(model__neck__type='NoSuchNeck', custom_imports=dict(imports=['json', 'mmmobilemamba']))
    _, lines = only(check(**changes), 'error', 'model')
    assert lines == ["custom_imports = dict(imports=['json', 'mmmobilemamba.mmdet'])"]


def test_settings_of_the_backbone_before(check):
    """Of a ResNet, whose stages and weights do not fit."""
    resnet = dict(depth=50, out_indices=(0, 1, 2, 3))
    resnet.update(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='torchvision://resnet50'))
    findings = check(model__backbone=resnet)
    _, lines = only(findings, 'error', 'model')
    assert 'out_indices=(0, 1, 2)' in ''.join(lines) and 'torchvision' not in ''.join(lines)
    assert check.again(findings) == []
    findings = check(model__backbone=dict(out_indices=(0, 1, 2, 3)))
    text, lines = only(findings, 'error', 'model')
    assert 'names a stage that does not exist' in text
    assert lines == ['model = dict(backbone=dict(out_indices=(0, 1, 2)))']
    assert check.again(findings) == []


def test_a_project_that_is_not_installed(check):
    (finding,) = check(default_scope='mmnothing')
    assert finding.text == 'The config needs mmnothing, which is not installed.'
    assert finding.advice == 'Install it: mim install mmnothing'


def test_other_backbones(check):
    head = dict(type='LinearClsHead', num_classes=10, in_channels=512)
    model = dict(_delete_=True, type='ImageClassifier', backbone=dict(type='ResNet', depth=18))
    model.update(neck=dict(type='GlobalAveragePooling'), head=head)
    text, _ = only(check('classifier', model=model), 'warning', 'model')
    assert text == 'ImageClassifier contains no MobileMamba, so its feature maps were not checked.'


def test_pure_python_style(scenes, monkeypatch):
    monkeypatch.chdir(scenes)
    path = ROOT / 'mmmobilemamba/configs/retinanet/retinanet_mobilemamba_b1_fpn_1x_coco.py'
    report = check_config(Config.fromfile(path))
    assert report.python_style and report.model == 'RetinaNet'
    wrong = {(finding.level, finding.subject) for finding in report.findings if finding.level != 'ok'}
    assert wrong == {('error', 'files'), ('warning', 'lr')}  # one process instead of eight


# Without the data.


def without_data(check, kind='detector', **changes):
    """Check a twin whose training annotations or folders are missing; returns findings of other subjects."""
    missing = {f'{DATASET}.ann_file': 'no.json'} if kind == 'detector' else {f'{DATASET}.data_root': 'no/'}
    findings = check(kind, **missing, **changes)
    assert ('error', 'files') in {(each.level, each.subject) for each in findings}
    return [each for each in findings if each.subject != 'files']


@pytest.mark.parametrize('kind', ['detector', 'segmentor', 'classifier'])
def test_twins_without_data(kind, check):
    assert without_data(check, kind) == []


def test_schedulers_without_data(check):
    """Those by epochs, also if they would be converted; the length of an epoch is unknown."""
    converted = dict(by_epoch=True, convert_to_iter_based=True)
    schedulers = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500),
        dict(type='CosineAnnealingLR', T_max=295, begin=5, end=300, **converted),
        dict(type='MultiStepLR', by_epoch=True, begin=0, end=300, milestones=[200], gamma=0.1),
    ]
    findings = without_data(check, param_scheduler=schedulers, train_cfg__max_epochs=30)
    assert [(each.level, each.text) for each in findings] == [
        ('error', 'MultiStepLR steps after 200 of 30 epochs, so it never does.'),
        (
            'warning',
            'CosineAnnealingLR decays for 300 of 30 epochs, so the training ends before it does.',
        ),
    ]
    text = ' '.join(line.strip() for line in config_lines(findings[0].mend))
    assert "dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500)" in text
    assert 'convert_to_iter_based=True' in text and 'T_max=30' in text and 'milestones=[20]' in text


def test_a_short_warm_up_without_data(check):
    """How many iterations a tenth of two epochs has is unknown, so there is no line."""
    warm = dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=5)
    (finding,) = without_data(check, param_scheduler=[warm])
    assert finding.text == 'LinearLR warms up for 5 of 2 epochs, so the full value is never reached.'
    assert finding.mend == {}


def test_iterations_without_data(check):
    decay = dict(type='PolyLR', power=0.9, by_epoch=False, begin=0, end=80000)
    loop = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=1000, val_interval=500)
    (finding,) = without_data(check, 'segmentor', param_scheduler=[decay], train_cfg=loop)
    assert finding.text == 'PolyLR decays for 80000 of 1000 iterations, so the training ends before it does.'
    assert 'end=1000' in ''.join(config_lines(finding.mend))


def test_heads_and_rates_without_data(check):
    (finding,) = without_data(check, model__bbox_head__num_classes=3)
    assert (finding.level, finding.subject) == ('error', 'classes')
    assert finding.text.endswith('but the bbox_head has 3.')
    (finding,) = without_data(check, gpus=4)
    assert finding.text.endswith('is for 8 images per step, but there are 4 x 8 images per step.')
    (finding,) = without_data(check, optim_wrapper__optimizer__lr=-1.0)
    assert finding.text.startswith('The training cannot be set up: ValueError: Invalid learning rate: -1.0')


def test_a_model_that_cannot_be_built_hides_no_rate(check):
    findings = check(model__neck__type='NoSuchNeck', gpus=4)
    assert [(each.level, each.subject) for each in findings] == [('error', 'model'), ('warning', 'lr')]


# Padding.


def test_size_or_divisor(check):
    """mmseg asserts that one of them is given, in the first batch of a training or validation."""
    key = 'model__data_preprocessor'
    given = check.twins['segmentor'].model.data_preprocessor
    assert given.size == (224, 224) and 'size_divisor' not in given
    text, lines = only(check('segmentor', **{key: dict(size_divisor=32)}), 'error', 'sides')
    assert text == (
        'model.data_preprocessor has both size and size_divisor, so mmseg stops at the first batch of the '
        'training: it needs one of them.'
    )
    assert lines == ['model = dict(data_preprocessor=dict(size_divisor=None))']
    text, lines = only(check('segmentor', **{key: dict(size=None)}), 'error', 'sides')
    assert 'has neither size nor size_divisor' in text
    assert lines == ['model = dict(data_preprocessor=dict(size_divisor=32))']
    both = dict(size=(224, 224), size_divisor=32)
    text, lines = only(check('segmentor', **{key: dict(test_cfg=both)}), 'error', 'sides')
    assert text.startswith('model.data_preprocessor.test_cfg has both size and size_divisor')
    assert 'the first batch of a validation' in text


def test_a_crop_that_is_larger(check, twins):
    """mmseg pads to ``size``, and leaves larger images as they are: only equal ones can be stacked."""
    from mmseg.utils import stack_batch

    stacked, _ = stack_batch([torch.zeros(3, 96, 96)] * 2, size=(64, 64))
    assert stacked.shape == (2, 3, 96, 96)
    with pytest.raises(RuntimeError, match='stack expects each tensor to be equal size'):
        stack_batch([torch.zeros(3, 96, 96), torch.zeros(3, 80, 80)], size=(64, 64))
    load, annotations, *_, pack = twins['segmentor'].train_dataloader.dataset.pipeline
    crop = dict(type='RandomCrop', crop_size=(96, 128))
    changes = {
        f'{DATASET}.pipeline': [load, annotations, crop, pack],
        'model.data_preprocessor.size': (96, 96),
    }
    findings = check('segmentor', **changes)
    text, lines = only(findings, 'warning', 'sides')
    assert text == (
        'RandomCrop produces up to 96 x 128 (height x width), but model.data_preprocessor.size is 96 x 96: '
        'larger images stay larger, and those of several sizes cannot be stacked.'
    )
    assert lines == ['model = dict(data_preprocessor=dict(size=(96, 128)))']
    assert check.again(findings) == []
