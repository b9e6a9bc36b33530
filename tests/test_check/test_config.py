"""Each mistake in a config that the check finds, and correct configs."""

import copy
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmobilemamba import MobileMamba
from mmmobilemamba.check.finding import config_lines
from mmmobilemamba.check.whole import check_config

from ..conftest import ROOT, authors_checkpoint
from ..helpers import SMALL

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')

SGD = dict(_delete_=True, type='SGD', lr=1e-3, weight_decay=1e-4)
TWINS = dict(
    detector='retinanet/retinanet_mobilemamba-t2_fpn_2e_digits.py',
    segmentor='sem_fpn/mobilemamba-t2_fpn_1xb4-2k_digits-224x224.py',
    classifier='mobilemamba/mobilemamba-t2_1xb64-4e_digits-64px.py',
)
# Fast to check: few small images, a small network, no copies of the annotations, and a cheap optimizer.
QUICK = dict(train_dataloader=dict(dataset=dict(serialize_data=False)), optim_wrapper=dict(optimizer=SGD))
SHORT = dict(
    detector=dict(train_dataloader=dict(batch_size=8), param_scheduler=[]),
    segmentor=dict(train_dataloader=dict(batch_size=2), param_scheduler=[]),
    classifier=dict(train_dataloader=dict(batch_size=8), auto_scale_lr=dict(base_batch_size=8)),
)
NAMES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
DATASET = 'train_dataloader.dataset'


@pytest.fixture(scope='session')
def twins(scenes):
    """Correct configs of three codebases on the digits scenes."""
    configs = {}
    for kind, path in TWINS.items():
        config = Config.fromfile(ROOT / 'configs' / path)
        config.merge_from_dict(copy.deepcopy(QUICK))
        config.merge_from_dict(copy.deepcopy(SHORT[kind]))
        config.model.backbone.update(arch=SMALL if kind != 'classifier' else 't2', init_cfg=None)
        configs[kind] = config
    return configs


@pytest.fixture
def check(twins, scenes, monkeypatch):
    """Return findings other than 'ok' for a config with changes; its tests are checked on request."""
    monkeypatch.chdir(scenes)

    def run(kind='detector', checkpoint=None, gpus=1, tests=False, **changes):
        config = copy.deepcopy(twins[kind])
        for name in [] if tests else ['val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator']:
            config.pop(name)
        for key, value in changes.items():
            config.merge_from_dict({key.replace('__', '.'): value})
        report = check_config(config, checkpoint, gpus)
        findings = [finding for finding in report.findings if finding.level != 'ok']
        assert report.failed == any(finding.level == 'error' for finding in findings)
        return findings

    return run


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
    assert text == f'val_evaluator compares with {other}, and the images are those of {right}.'
    assert lines == [f'val_evaluator = dict(ann_file={right!r})']


def test_missing_images(check, scenes, tmp_path):
    """Two of the eight annotated images do not exist."""
    root = scenes / 'data/digits_scenes/coco'
    for number, image in enumerate(sorted((root / 'train').iterdir())):
        if number > 1:
            (tmp_path / image.name).symlink_to(image)
    text, _ = only(check(**{f'{DATASET}.data_prefix': dict(img=str(tmp_path))}), 'error', 'files')
    assert text.startswith('train_dataloader.dataset: 2 of 8 files')
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
    assert text == f'{data}, and the bbox_head has {number}.'
    assert lines == ['model = dict(bbox_head=dict(num_classes=10))']


def test_names_that_match_none(check):
    text, _ = only(check(**{f'{DATASET}.metainfo': dict(classes=('cat', 'dog'))}), 'error', 'data')
    assert 'is empty' in text
    (finding,) = check(**{f'{DATASET}.metainfo': dict(classes=('cat', 'dog'))})
    assert finding.advice == f'Its annotations have the classes {", ".join(NAMES)}.'
    names = (*NAMES[:9], 'cat')
    text, lines = only(check(**{f'{DATASET}.metainfo': dict(classes=names)}), 'error', 'classes')
    assert text == 'train_dataloader.dataset: the annotations have 9 of 10 classes: not cat.'
    assert ''.join(lines) == (f'train_dataloader = dict(    dataset=dict(metainfo=dict(classes={NAMES!r})),)')


def test_names_as_before_mmengine(check):
    metainfo = dict(_delete_=True, CLASSES=NAMES)
    text, _ = only(check('classifier', **{f'{DATASET}.metainfo': metainfo}), 'error', 'classes')
    assert 'write metainfo=dict(classes=...)' in text


def test_fewer_outputs_of_a_classifier(check):
    text, _ = only(check('classifier', model__head__num_classes=3), 'error', 'classes')
    assert 'The training data have 10 classes' in text and 'set model.head.num_classes=10' in text


def test_masks(check):
    findings = check('segmentor', model__decode_head__num_classes=4)
    assert [(finding.level, finding.subject) for finding in findings] == [
        ('error', 'classes'),
        ('error', 'masks'),
    ]
    assert 'set model.decode_head.num_classes=11' in findings[0].text
    assert 'and the decode_head has 4 classes, 0 to 3; 255 is ignored' in findings[1].text


# Batches.


def test_no_iteration(check):
    loader = dict(batch_size=16, drop_last=True, batch_sampler=None)
    text, _ = only(check(train_dataloader=loader, auto_scale_lr=None), 'error', 'batches')
    assert '8 images, fewer than the batch_size of 16' in text


def test_batch_norm_with_one_value(check):
    text, _ = only(
        check('classifier', train_dataloader__batch_size=1, auto_scale_lr=None), 'error', 'batch norm'
    )
    assert 'too few to train with' in text


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
    text, _ = only(check(load_from=files['other']), 'error', 'checkpoint')
    assert 'it looks like no MobileMamba (its first keys: layer1.weight)' in text
    text, _ = only(check(load_from=files['classes']), 'warning', 'checkpoint')
    assert 'These start anew: bbox_head.retina_cls.weight (720, 64, 3, 3) instead of (80, 64, 3, 3)' in text


def test_resume(check, files, tmp_path):
    assert check(load_from=files['whole'], resume=True) == []
    text, _ = only(check(load_from=files['classes'], resume=True), 'error', 'checkpoint')
    assert 'The checkpoint to resume is of another model' in text
    text, _ = only(check(resume=True, work_dir=str(tmp_path)), 'warning', 'checkpoint')
    assert text == f'resume is set, and {tmp_path} has no last_checkpoint: the training would start anew.'


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
        "mobilemamba://t2 expects RGB images with ImageNet's mean and deviation, and data_preprocessor has "
        'mean=None, std=None, bgr_to_rgb=None.'
    )
    right = 'mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True'
    assert right in ' '.join(' '.join(lines).split()).replace('( ', '(')
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


def linear(**changes):
    return dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, **changes)


def test_warm_up_longer_than_the_training(check):
    text, _ = only(check(param_scheduler=[linear(end=500)]), 'error', 'schedule')
    assert text == 'LinearLR warms up for 500 of 2 iterations, so the full value is never reached.'


def test_constant_warm_up(check):
    """It ends after the training."""
    constant = dict(type='ConstantLR', factor=0.01, by_epoch=False, begin=0, end=500)
    text, _ = only(check(param_scheduler=[constant]), 'error', 'schedule')
    assert text == 'ConstantLR warms up for 500 of 2 iterations, so the full value is never reached.'
    assert check(param_scheduler=[dict(constant, end=1)]) == []


def test_steps_after_the_end(check):
    steps = dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11])
    text, _ = only(check(param_scheduler=[steps]), 'error', 'schedule')
    assert text == 'MultiStepLR steps after 8 of 2 epochs, which is never.'


def test_no_validation(check):
    text, lines = only(check(train_cfg__val_interval=10), 'warning', 'schedule')
    assert text == 'Validation is every 10 epochs, and there are 2: it never runs.'
    assert lines == ['train_cfg = dict(val_interval=2)']


def test_what_cannot_be_set_up(check):
    text, _ = only(check(optim_wrapper__optimizer__lr=-1.0), 'error', 'schedule')
    assert text.startswith('The training cannot be set up: ValueError: Invalid learning rate: -1.0')


def test_learning_rate(check):
    text, lines = only(check(gpus=4), 'warning', 'lr')
    assert (
        text == 'The learning rate of 0.001 is meant for 8 images a step, and there are 4 x 8 images a step.'
    )
    assert lines == ['auto_scale_lr = dict(enable=True)']
    assert check(gpus=4, auto_scale_lr__enable=True) == []


def test_order_of_the_classes(check):
    """Names of the validation data in another order would be other labels."""
    swapped = ('one', 'zero', *NAMES[2:])
    findings = check(tests=True, val_dataloader__dataset__metainfo=dict(classes=swapped))
    text, lines = only(findings, 'error', 'classes')
    assert text == (
        'val_dataloader.dataset: label 0 is one, but zero in the training data; '
        'predictions would be scored as other classes.'
    )
    assert ''.join(lines).replace(' ', '').startswith('val_dataloader=dict(')
    assert "classes=('zero','one','two'" in ''.join(lines).replace(' ', '')


def test_objects_that_the_pipeline_drops(check, twins):
    """Masks of the digits are run lengths, which mmdet reads as polygons if it is told to."""
    pipeline = copy.deepcopy(twins['detector'].train_dataloader.dataset.pipeline)
    pipeline[1] = dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)
    text, _ = only(check(**{f'{DATASET}.pipeline': pipeline}), 'error', 'data')
    assert re.fullmatch(
        r'The first 2 images have \d+ objects, and the pipeline keeps none of them, so that nothing would be '
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
    assert lines == ["custom_imports = dict(imports=['mmmobilemamba.mmdet'])"]


def test_a_project_that_is_not_installed(check):
    (finding,) = check(default_scope='mmnothing')
    assert finding.text == 'The config needs mmnothing, which is not installed.'
    assert finding.advice == 'Install it: mim install mmnothing'


def test_other_backbones(check):
    head = dict(type='LinearClsHead', num_classes=10, in_channels=512)
    model = dict(_delete_=True, type='ImageClassifier', backbone=dict(type='ResNet', depth=18))
    model.update(neck=dict(type='GlobalAveragePooling'), head=head)
    text, _ = only(check('classifier', model=model), 'warning', 'model')
    assert text == 'ImageClassifier has no MobileMamba: the checks of maps are for that backbone.'


def test_pure_python_style(scenes, monkeypatch):
    monkeypatch.chdir(scenes)
    path = ROOT / 'mmmobilemamba/configs/retinanet/retinanet_mobilemamba_b1_fpn_1x_coco.py'
    report = check_config(Config.fromfile(path))
    assert report.python_style and report.model == 'RetinaNet'
    wrong = {(finding.level, finding.subject) for finding in report.findings if finding.level != 'ok'}
    assert wrong == {('error', 'files')}
