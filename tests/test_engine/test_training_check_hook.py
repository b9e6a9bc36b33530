"""Errors and warnings before a training that would fail, and settings that are accepted."""

import copy
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, DefaultSampler, InfiniteSampler
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmmobilemamba.engine import PortableRunner, TrainingCheckHook, WarmupCosineLR
from mmmobilemamba.engine.training_check_hook import check_classes, check_iterations, smallest_batch
from mmmobilemamba.models.checkpoint import CheckpointError

from ..conftest import authors_checkpoint
from ..helpers import small

BY_ITERATION = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)


class Pooled(BaseModel):
    """A minimal classifier: a map with a batch norm, and another batch norm after pooling if ``pooled``."""

    def __init__(self, pooled=True, channels=4):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.BatchNorm1d(channels) if pooled else nn.Identity()

    def forward(self, inputs, mode='tensor'):
        x = self.head(self.norm(torch.stack(inputs)).mean((2, 3)))
        return dict(loss=x.square().mean()) if mode == 'loss' else list(x)


class Noisy:
    """Images that differ each time they are loaded, like augmented ones."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return self.images

    def __getitem__(self, index):
        return dict(inputs=torch.rand(4, 3, 3) + np.random.rand() + random.random())


class Count(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return dict(images=sum(results))


def loader(images, batch_size, drop_last=False, sampler='DefaultSampler'):
    return dict(
        dataset=Noisy(images),
        batch_size=batch_size,
        drop_last=drop_last,
        sampler=dict(type=sampler, shuffle=True),
    )


def build(work_dir, train_dataloader, model=None, kind=Runner, validate=None, **kwargs):
    """A Runner with the hook, for two epochs."""
    if validate is not None:
        kwargs.update(val_dataloader=validate, val_cfg=dict(), val_evaluator=Evaluator([Count()]))
    settings = dict(
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(training_check=dict(type='TrainingCheckHook')),
        randomness=dict(seed=0),
        default_scope='mmengine',
        log_level='ERROR',
    )
    return kind(
        model=model or Pooled(),
        work_dir=str(work_dir),
        train_dataloader=train_dataloader,
        experiment_name=f'{work_dir.name}_{random.random()}',
        **{**settings, **kwargs},
    )


@pytest.mark.parametrize('kind', [Runner, PortableRunner])
@pytest.mark.parametrize('scheduler', [None, BY_ITERATION])
def test_fewer_images_than_a_batch(tmp_path, kind, scheduler):
    runner = build(tmp_path, loader(5, 8, drop_last=True), kind=kind, param_scheduler=scheduler)
    message = r'5 images, fewer than the batch_size of 8.*batch_size=5 or less.*drop_last=False.*times=2'
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert not list(tmp_path.glob('*.pth'))


CONVERTED = dict(by_epoch=True, convert_to_iter_based=True)


@pytest.mark.parametrize(
    'scheduler',
    [
        dict(type='WarmupCosineLR', warmup=1, T_max=2, **CONVERTED),
        dict(type='LinearLR', start_factor=0.1, begin=0, end=1, **CONVERTED),
        dict(type='CosineAnnealingLR', T_max=2, **CONVERTED),
        dict(type='OneCycleLR', eta_max=0.1, **CONVERTED),
        dict(type='LinearLR', start_factor=0.1, by_epoch=False),
        dict(type='PolyLR', by_epoch=False),
    ],
    ids=str,
)
def test_it_is_said_before_schedulers_divide_by_it(tmp_path, scheduler):
    runner = build(tmp_path, loader(5, 8, drop_last=True), kind=PortableRunner, param_scheduler=scheduler)
    with pytest.raises(ValueError, match='There is no iteration in an epoch'):
        runner.train()


def test_the_schedule_of_the_recipe_says_it_in_any_runner(tmp_path):
    scheduler = dict(type='WarmupCosineLR', warmup=1, T_max=2, **CONVERTED)
    with pytest.raises(ValueError, match=r'An epoch has no iteration: .*drop_last=True'):
        build(tmp_path, loader(5, 8, drop_last=True), param_scheduler=scheduler).train()
    with pytest.raises(ValueError, match='An epoch has no iteration'):
        WarmupCosineLR.build_iter_from_epoch(warmup=1, T_max=2, epoch_length=0)


@pytest.mark.parametrize(
    ('images', 'size', 'drop_last', 'sampler', 'smallest'),
    [
        (5, 8, False, DefaultSampler, 5),
        (17, 8, False, DefaultSampler, 1),
        (16, 8, False, DefaultSampler, 8),
        (17, 8, True, DefaultSampler, 8),
        (5, 8, True, InfiniteSampler, 8),
        (17, 8, False, InfiniteSampler, 8),
        (3, 1, False, InfiniteSampler, 1),
    ],
)
def test_what_can_be_trained_on(images, size, drop_last, sampler, smallest):
    dataset = Noisy(images)
    data = DataLoader(dataset, batch_size=size, drop_last=drop_last, sampler=sampler(dataset))
    check_iterations(data)
    assert smallest_batch(data) == smallest


def test_a_sampler_that_mixes_datasets():
    """mmdet's samplers of several datasets are infinite, and no InfiniteSampler."""

    class Mixed(DefaultSampler):
        source_ratio = (1, 4)

    dataset = Noisy(17)
    data = DataLoader(dataset, batch_size=8, sampler=Mixed(dataset))
    assert smallest_batch(data) == 8


def test_a_list_of_metainfo():
    """That of mmdet's ConcatDataset, of datasets with other classes."""
    model, dataset = nn.Module(), Noisy(2)
    model.head = nn.Module()
    model.head.num_classes = 1
    dataset.metainfo = [dict(classes=('a', 'b')), dict(classes=('c', 'd'))]
    with pytest.raises(
        ValueError, match=r'The training data have 2 classes \(a, b, ...\) and the head has 1'
    ):
        check_classes(model, dataset)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_batch_larger_than_the_dataset_trains(tmp_path, by_epoch):
    cfg = dict(by_epoch=True, max_epochs=2) if by_epoch else dict(by_epoch=False, max_iters=2)
    runner = build(tmp_path, loader(5, 8), train_cfg=cfg)
    runner.train()
    assert runner.iter == 2


def test_few_images_by_iteration(tmp_path):
    """mmengine raises a StopIteration; with an infinite sampler, all batches are full."""
    by_iteration = dict(train_cfg=dict(by_epoch=False, max_iters=2))
    with pytest.raises(ValueError, match='There is no iteration in an epoch'):
        build(tmp_path, loader(5, 8, drop_last=True), **by_iteration).train()
    runner = build(tmp_path, loader(5, 8, drop_last=True, sampler='InfiniteSampler'), **by_iteration)
    runner.train()
    assert runner.iter == 2


@pytest.mark.parametrize(
    ('images', 'size', 'words'),
    [(3, 1, 'Batches have one image'), (9, 4, 'The last batch of an epoch has one')],
)
@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
def test_one_value_a_channel(tmp_path, images, size, words, sampler):
    runner = build(
        tmp_path, loader(images, size, sampler=sampler), train_cfg=dict(by_epoch=False, max_iters=4)
    )
    if sampler == 'InfiniteSampler' and size > 1:
        runner.train()  # no smaller last batch
        return
    with pytest.raises(
        ValueError, match=f'{words}.* batch norm head sees one value.*batch_size to 2 or more'
    ):
        runner.train()
    assert runner.iter == 0


def test_one_image_is_enough_for_a_map(tmp_path):
    """The check changes neither random states nor statistics."""
    first = []

    class First(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            first.append(data_batch['inputs'][0])

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            first.append(copy.deepcopy(runner.model.norm.running_mean))
            runner.train_loop.stop_training = True

    for hooks in (dict(training_check=dict(type='TrainingCheckHook')), {}):
        runner = build(
            tmp_path, loader(3, 1), Pooled(pooled=False), default_hooks=hooks, custom_hooks=[First()]
        )
        runner.train()
        assert runner.model.norm.num_batches_tracked == 3
    half = len(first) // 2
    assert all(torch.equal(*pair) for pair in zip(first[:half], first[half:]))


def test_norms_in_evaluation_take_one_image(tmp_path):
    model = Pooled()
    model.head.train = lambda mode=True: model.head  # like norm_eval
    model.head.training = False
    build(tmp_path, loader(3, 1), model).train()


@pytest.mark.parametrize('kind', [Runner, PortableRunner])
def test_nothing_to_train_or_validate_on(tmp_path, kind):
    with pytest.raises(ValueError, match=r'Noisy is empty.*data_prefix'):
        build(tmp_path, loader(0, 8), kind=kind).train()
    with pytest.raises(ValueError, match='Noisy is empty'):
        build(tmp_path, loader(8, 4), kind=kind, validate=loader(0, 4)).train()
    with pytest.raises(ValueError, match=r'no iteration in a validation.*drop_last=False'):
        build(tmp_path, loader(8, 4), kind=kind, validate=loader(3, 4, drop_last=True)).train()
    assert not list(tmp_path.glob('*.pth'))


def test_a_dataset_that_was_filtered_away(tmp_path):
    """When mmengine serialises it, NumPy's error is about arrays to concatenate."""
    dataset = dict(type=BaseDataset, data_root=str(tmp_path), ann_file='empty.json', pipeline=[])
    (tmp_path / 'empty.json').write_text('{"metainfo": {}, "data_list": []}')
    train = dict(dataset=dataset, batch_size=2, sampler=dict(type='DefaultSampler'))
    with pytest.raises(
        ValueError, match=r'(?s)A dataset is empty: .*empty.json.*metainfo.classes.*filter_cfg'
    ):
        build(tmp_path, train, kind=PortableRunner).train()


def test_validation_later_than_the_training(tmp_path):
    """mmengine always validates after the last epoch."""
    runner = build(
        tmp_path,
        loader(8, 4),
        validate=loader(3, 4),
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=9),
    )
    runner.train()
    assert runner.message_hub.get_scalar('val/images').data[0].tolist() == [3]


def warnings_of(runner, monkeypatch):
    found = []
    monkeypatch.setattr(runner.logger, 'warning', lambda text, *args: found.append(text))
    return found


@pytest.mark.parametrize(
    ('scheduler', 'expected'),
    [
        (
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=500),
            'LinearLR warms up for 500 of 4 iter',
        ),
        (
            [BY_ITERATION, dict(type='CosineAnnealingLR', T_max=6, begin=6, end=12)],
            'CosineAnnealingLR begins after 6 of 2 epochs, so it never does',
        ),
        ([BY_ITERATION, dict(type='CosineAnnealingLR', T_max=2)], None),
        (dict(type='LinearLR', start_factor=1.0, end_factor=0.1, by_epoch=False, end=500), None),
        (dict(type='WarmupCosineLR', warmup=0, T_max=2), None),
        (None, None),
    ],
)
def test_schedules_longer_than_the_training(tmp_path, monkeypatch, scheduler, expected):
    runner = build(tmp_path, loader(8, 4), param_scheduler=scheduler)
    found = warnings_of(runner, monkeypatch)
    runner.train()
    told = [text for text in found if 'Shorten param_scheduler' in text]
    assert len(told) == (expected is not None)
    assert expected is None or expected in told[0]


# Checkpoints.


class Detector(BaseModel):
    """A backbone with a head."""

    def __init__(self, classes=3):
        super().__init__()
        self.backbone = small()
        self.bbox_head = nn.Linear(64, classes)

    def forward(self, inputs, mode='tensor'):
        x = self.bbox_head(self.backbone(torch.stack(inputs)[:, :3])[-1].mean((2, 3)))
        return dict(loss=x.square().mean()) if mode == 'loss' else list(x)


FOREIGN = {
    'bare': lambda: small().state_dict(),
    'authors': lambda: authors_checkpoint('t2'),
    'resnet': lambda: {'conv1.weight': torch.zeros(64, 3, 7, 7), 'fc.bias': torch.zeros(9)},
    'other_backbone': lambda: {'backbone.conv1.weight': torch.zeros(64, 3, 7, 7)},
}


@pytest.mark.parametrize('name', FOREIGN)
def test_nothing_for_the_backbone(tmp_path, name):
    torch.save(dict(state_dict=FOREIGN[name]()), tmp_path / 'file.pth')
    runner = build(tmp_path, loader(4, 2), Detector(), load_from=str(tmp_path / 'file.pth'))
    with pytest.raises(CheckpointError, match=r'looks like (no|a) MobileMamba'):
        runner.train()
    if name != 'other_backbone':  # reported by the backbone itself
        with pytest.raises(
            CheckpointError, match=r'file.pth has nothing for the backbone of this Detector.*init_cfg'
        ):
            runner.load_checkpoint(str(tmp_path / 'file.pth'))


def test_a_student_and_a_teacher(tmp_path):
    """mmdet's semi-supervised detectors convert the keys of a plain detector after this hook."""
    model = BaseModel.__new__(Detector)
    nn.Module.__init__(model)
    model.student, model.teacher = Detector(), Detector()
    hook = TrainingCheckHook()
    weights = Detector().state_dict()

    class Run:
        _resume, _load_from, hooks = False, 'plain.pth', []

    Run.model = model
    hook.after_load_checkpoint(Run, dict(state_dict=weights))
    hook.after_load_checkpoint(Run, {f'module.{key}': value for key, value in weights.items()})
    with pytest.raises(CheckpointError, match=r'has nothing for the student\.backbone'):
        hook.after_load_checkpoint(Run, dict(state_dict={'fc.bias': torch.zeros(1)}))


def test_resumed_with_other_classes(tmp_path, monkeypatch):
    """Fine-tuning loads matching weights only, whereas resuming requires equal shapes."""
    settings = dict(train_cfg=dict(by_epoch=True, max_epochs=1), custom_hooks=[])
    first = build(tmp_path, loader(4, 2), Detector(), **settings)
    first.train()
    file = str(tmp_path / 'epoch_1.pth')
    resumed = build(tmp_path, loader(4, 2), Detector(classes=5), load_from=file, resume=True, **settings)
    message = r'of another model: bbox_head.weight \(3, 64\) instead of \(5, 64\).*load_from, and no --resume'
    with pytest.raises(CheckpointError, match=message):
        resumed.train()
    tuned = build(tmp_path, loader(4, 2), Detector(classes=5), load_from=file, **settings)
    tuned.load_or_resume()
    for name, value in tuned.model.backbone.state_dict().items():
        assert torch.equal(value, first.model.backbone.state_dict()[name]), name


def test_resumed_without_the_average(tmp_path, monkeypatch):
    average = [dict(type='EMAHook')]
    build(tmp_path, loader(8, 4), custom_hooks=average).train()
    for hooks, told in ((average, 0), ([], 1)):
        runner = build(tmp_path, loader(8, 4), custom_hooks=hooks, resume=True)
        found = warnings_of(runner, monkeypatch)
        runner.train()
        assert sum('continues from the averaged weights' in text for text in found) == told


class Named(Noisy):
    """A dataset with a ``metainfo``."""

    def __init__(self, **metainfo):
        super().__init__(8)
        self.metainfo = metainfo


class Headed(Pooled):
    """A model with a head of three outputs, optionally in a list."""

    def __init__(self, name, several=False):
        super().__init__()
        head = nn.Module()
        head.num_classes = 3
        setattr(self, name, nn.ModuleList([head]) if several else head)


@pytest.mark.parametrize(('name', 'several'), [('decode_head', False), ('auxiliary_head', True)])
def test_more_classes_than_a_head_has(tmp_path, name, several):
    batches = dict(batch_size=4, sampler=dict(type='DefaultSampler', shuffle=True))
    four = dict(batches, dataset=Named(classes=('a', 'b', 'c', 'd')))
    message = rf'have 4 classes \(a, b, c, ...\) and the {name} has 3: set model.{name}.num_classes=4'
    with pytest.raises(ValueError, match=message):
        build(tmp_path, four, Headed(name, several)).train()
    build(tmp_path, dict(batches, dataset=Named(classes=('a', 'b'))), Headed(name, several)).train()


def test_classes_as_they_were_before_mmengine(tmp_path):
    batches = dict(batch_size=4, sampler=dict(type='DefaultSampler', shuffle=True))
    with pytest.raises(ValueError, match=r'\(CLASSES=...\), .* write metainfo=dict\(classes=...\)'):
        build(tmp_path, dict(batches, dataset=Named(CLASSES=('a', 'b')))).train()
    # mmpose 1.3.2 adds this key to its datasets.
    build(tmp_path, dict(batches, dataset=Named(CLASSES=('person',), num_keypoints=17))).train()
