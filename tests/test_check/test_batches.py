"""Batch sizes of several datasets, and samplers that know the batch size themselves."""

import copy
import json

import pytest

pytest.importorskip('mmdet')

from mmmobilemamba.check.finding import config_lines
from mmmobilemamba.engine.training_check_hook import batch_sizes, check_iterations, smallest_batch


def texts(findings):
    """Levels, subjects and texts of findings."""
    return [(finding.level, finding.subject, finding.text) for finding in findings]


@pytest.fixture
def two(twins):
    """A dataloader of two datasets with a batch size each, and a function to change it."""
    dataset = copy.deepcopy(twins['detector'].train_dataloader.dataset)
    both = dict(type='ConcatDataset', datasets=[dataset, copy.deepcopy(dataset)])

    def loader(batch_size, **batch_sampler):
        return dict(
            _delete_=True,
            batch_size=batch_size,
            num_workers=0,
            sampler=dict(type='MultiDataSampler', dataset_ratio=[1, 1]),
            batch_sampler=dict(type='MultiDataAspectRatioBatchSampler', num_datasets=2, **batch_sampler),
            dataset=both,
        )

    return loader


def test_a_batch_size_for_each_dataset(check, two):
    findings = check(train_dataloader=two([2, 4]))
    assert texts(findings) == [
        (
            'warning',
            'lr',
            'The learning rate of 0.001 is for 8 images per step, but there are 1 x 2 or 4.',
        )
    ]
    assert check(train_dataloader=two([2, 4]), auto_scale_lr=None) == []
    assert check(train_dataloader=two([4, 4]), gpus=2) == []


def test_several_batch_sizes_and_auto_scale_lr(check, two):
    """mmengine (0.10.7) multiplies the list by the number of processes and fails."""
    findings = check(train_dataloader=two([2, 4]), auto_scale_lr__enable=True)
    assert texts(findings) == [
        (
            'error',
            'lr',
            'auto_scale_lr needs one batch_size, but there are 2 or 4: the training would not start.',
        )
    ]
    assert config_lines(findings[0].mend) == ['auto_scale_lr = dict(enable=False)']


def test_no_iteration_with_several_batch_sizes(check, two):
    findings = check(train_dataloader=two([32, 64], drop_last=True), auto_scale_lr=None)
    assert texts(findings)[0][:2] == ('error', 'batches')
    assert 'no dataset has as many images as its batch_size, of 32, 64' in findings[0].text
    assert config_lines(findings[0].mend) == ['train_dataloader = dict(batch_size=[8, 8])']


def test_batches_of_one_image_among_several_sizes():
    """The smallest batch is known if one of the sizes is 1, or if smaller ones are dropped."""

    class Batches:
        sampler = range(8)

        def __init__(self, batch_size, drop_last):
            self.batch_size, self.drop_last = batch_size, drop_last

        def __len__(self):
            return 0

    class Loader:
        dataset, sampler = range(8), None

        def __init__(self, *arguments):
            self.batch_sampler = Batches(*arguments)

    assert batch_sizes(Loader([2, 4], True)) == [2, 4] and batch_sizes(Loader(3, True)) == [3]
    assert smallest_batch(Loader([2, 4], True)) == 2
    assert smallest_batch(Loader([2, 1], False)) == 1
    assert smallest_batch(Loader([2, 4], False)) is None  # as many as the sampler happens to draw
    assert smallest_batch(Loader(3, False)) == 2
    with pytest.raises(ValueError, match='of 2, 4, and drop_last=True'):
        check_iterations(Loader([2, 4], True))


@pytest.fixture
def mixed(twins):
    """A dataloader whose batches have images of two datasets."""
    dataset = copy.deepcopy(twins['detector'].train_dataloader.dataset)
    other = copy.deepcopy(dataset)

    def loader(kind, size, ann_file=None):
        other.ann_file = ann_file or dataset.ann_file
        return dict(
            _delete_=True,
            batch_size=4,
            num_workers=0,
            sampler=dict(type=kind, batch_size=size, source_ratio=[1, 1]),
            dataset=dict(type='ConcatDataset', datasets=[dataset, other]),
        )

    return loader


@pytest.mark.parametrize('kind', ['MultiSourceSampler', 'GroupMultiSourceSampler'])
def test_a_sampler_with_another_batch_size(kind, check, mixed):
    findings = check(train_dataloader=mixed(kind, 8), auto_scale_lr=None)
    assert texts(findings) == [
        (
            'error',
            'batches',
            f'train_dataloader has a batch_size of 4, but its {kind} fills batches of 8: a batch '
            f'would have images of only one dataset.',
        )
    ]
    assert config_lines(findings[0].mend) == ['train_dataloader = dict(sampler=dict(batch_size=4))']
    assert check.again(findings) == []


def test_a_group_without_images(check, mixed, scenes, tmp_path):
    """The second dataset has only portraits, so the sampler would search for landscapes forever."""
    content = json.loads((scenes / 'data/digits_scenes/coco/annotations/instances_train.json').read_text())
    for image in content['images']:
        image['width'] = image['height'] - 1
    (tmp_path / 'portraits.json').write_text(json.dumps(content))
    loader = mixed('GroupMultiSourceSampler', 4, str(tmp_path / 'portraits.json'))
    findings = check(train_dataloader=loader, auto_scale_lr=None)
    assert texts(findings) == [
        (
            'error',
            'batches',
            'train_dataloader.dataset.datasets[0] has no portrait images, but GroupMultiSourceSampler takes '
            '2 per batch: it would search for them forever.',
        ),
        (
            'error',
            'batches',
            'train_dataloader.dataset.datasets[1] has no landscape or square images, but '
            'GroupMultiSourceSampler takes 2 per batch: it would search for them forever.',
        ),
    ]
