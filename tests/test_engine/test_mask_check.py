"""Invalid masks are reported before training or testing, without changing random states."""

import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData
from torch import nn

from mmmobilemamba.engine import TrainingCheckHook
from mmmobilemamba.engine.mask_check import MASKS, check_masks


class Masks:
    """A dataset of masks, (H, W) or (H, W, C), packed as by PackSegInputs."""

    def __init__(self, *masks, ori_shape=None):
        self.masks, self.read, self.ori_shape = masks, [], ori_shape

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, index):
        self.read.append(index)
        random.random(), np.random.rand(), torch.rand(1)
        mask = torch.as_tensor(self.masks[index])
        sample = BaseDataElement(metainfo=dict(seg_map_path=f'{index}.png', ori_shape=self.ori_shape))
        sample.gt_sem_seg = PixelData(data=mask[None] if mask.ndim == 2 else mask)
        return dict(inputs=torch.zeros(3, 4, 4), data_samples=sample)


def segmentor(classes=3, ignore_index=255, cascade=False):
    head = nn.Module()
    head.num_classes, head.ignore_index = classes, ignore_index
    model = nn.Module()
    model.decode_head = nn.ModuleList([nn.Module(), head]) if cascade else head
    return model


SOUND = np.array([[0, 1], [2, 255]])
HIGH = np.array([[0, 7], [9, 255]])
COLOURS = np.zeros((2, 2, 3), int)


@pytest.mark.parametrize('cascade', [False, True])
def test_labels(cascade):
    model = segmentor(cascade=cascade)
    assert check_masks(model, Masks(SOUND, SOUND)) is None
    data = Masks(SOUND, HIGH)
    message = r'mask 1\.png has the labels 7, 9, and the decode_head has 3 classes, 0 to 2; 255 is ignored\. '
    with pytest.raises(ValueError, match=message + 'Set num_classes of the heads.*reduce_zero_label=True'):
        check_masks(model, data)
    assert 'Metrics of mmseg count such pixels as wrong' in check_masks(model, data, training=False)
    assert check_masks(segmentor(10, cascade=cascade), data) is None


def test_the_label_that_is_ignored():
    """Losses ignore the ``ignore_index`` of the head; metrics also ignore 255."""
    with pytest.raises(ValueError, match=r'has the labels 255, .* 7 is ignored'):
        check_masks(segmentor(ignore_index=7), Masks(np.array([[0, 7], [1, 255]])))
    assert check_masks(segmentor(ignore_index=7), Masks(SOUND), training=False) is None


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('channels', [2, 3, 4])
def test_colours(training, channels):
    """torch's message is "only batches of spatial targets supported", mmseg's "too many indices"."""
    mask = np.zeros((5, 6, channels), int)
    with pytest.raises(ValueError, match=rf'mask 0\.png has the shape \(5, 6, {channels}\): .* one channel'):
        check_masks(segmentor(), Masks(mask), training)


@pytest.mark.parametrize('training', [True, False])
def test_black_and_white(training):
    """Masks of 0 and 255, as written by drawing programs, have a single class in mmseg."""
    data = Masks(np.array([[0, 255], [255, 0]]), np.array([[255, 255]]))
    message = check_masks(segmentor(2), data, training)
    assert 'have only the labels 0, 255, and 255 is ignored' in message
    assert message.endswith('If 255 is a class, convert it to 1.')
    assert check_masks(segmentor(2), Masks(*data.masks, np.array([[1]])), training) is None
    assert check_masks(segmentor(2), Masks(np.array([[0, 0]])), training) is None  # no ignored pixels


def test_size_of_the_picture():
    """Metrics compare masks pixel by pixel, so sizes must match in tests; training pipelines may crop."""
    data = Masks(SOUND, ori_shape=(3, 2))
    message = check_masks(segmentor(), data, training=False)
    assert message.startswith('The mask 0.png has 2 x 2 px (height x width) and its picture 3 x 2:')
    assert check_masks(segmentor(), data) is None
    assert check_masks(segmentor(), Masks(SOUND, ori_shape=(2, 2, 3)), training=False) is None


def test_few_are_read_and_no_random_numbers_used():
    data = Masks(*[SOUND] * 100)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    check_masks(segmentor(), data)
    assert len(data.read) == MASKS and data.read[0] == 0 and data.read[-1] == 99
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states


@pytest.mark.parametrize(
    ('model', 'data'),
    [
        (nn.Identity(), Masks(COLOURS)),  # not a segmentor
        (segmentor(), [dict(inputs=torch.zeros(3, 4, 4), data_samples=BaseDataElement())]),  # no masks
        (segmentor(), [torch.zeros(3)]),
        (segmentor(), iter([])),
        (segmentor(), []),
    ],
)
def test_what_is_left_alone(model, data):
    assert check_masks(model, data) is None


def test_before_a_test(caplog):
    """Invalid labels cause a warning, colours an error."""
    logger = logging.getLogger('mask_check')
    runner = SimpleNamespace(model=segmentor(), logger=logger)
    runner.test_dataloader = SimpleNamespace(dataset=Masks(HIGH))
    with caplog.at_level('WARNING', 'mask_check'):
        TrainingCheckHook().before_test(runner)
    assert 'mask 0.png has the labels 7, 9' in caplog.text
    runner.test_dataloader.dataset = Masks(COLOURS)
    with pytest.raises(ValueError, match='one channel, of labels'):
        TrainingCheckHook().before_test(runner)
