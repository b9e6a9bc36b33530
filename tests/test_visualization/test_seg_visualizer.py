"""Visualisation of segmentors: drawn with the model's classes, or an error."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData

pytest.importorskip('mmseg')

from mmseg.structures import SegDataSample

from mmmobilemamba.visualization import ContiguousSegVisualizer

IMAGE = np.zeros((8, 8, 3), np.uint8)


def predicted(channels, label=1):
    """A prediction with the same label everywhere."""
    sample = SegDataSample(pred_sem_seg=PixelData(data=torch.full((1, 8, 8), label)))
    sample.seg_logits = PixelData(data=torch.zeros(channels, 8, 8))
    return sample


def draw(visualizer, sample, path):
    visualizer.add_datasample('x', IMAGE, sample, draw_gt=False, with_labels=False, out_file=str(path))
    return visualizer.get_image()


@pytest.mark.parametrize(('channels', 'classes'), [(3, 3), (1, 2)])
def test_colours_are_those_of_the_classes(channels, classes, tmp_path):
    visualizer = ContiguousSegVisualizer(alpha=1.0)
    palette = [[0, 0, 255], [10, 200, 30], [255, 0, 0]][:classes]
    visualizer.dataset_meta = dict(classes=('a', 'b', 'c')[:classes], palette=palette)
    assert (draw(visualizer, predicted(channels), tmp_path / 'x.png') == palette[1]).all()


@pytest.mark.parametrize('channels', [150, 11, 1])
def test_classes_of_cityscapes_are_refused(channels, tmp_path):
    """More classes than names, fewer classes, and two classes in one channel."""
    visualizer = ContiguousSegVisualizer()
    visualizer.set_dataset_meta(None, None, None)  # as in MMSegInferencer
    message = f'predicts {max(channels, 2)} classes, but there are names and colours of 19 .road, sidewalk'
    with pytest.raises(ValueError, match=message):
        draw(visualizer, predicted(channels), tmp_path / 'x.png')
    assert not (tmp_path / 'x.png').exists()
    visualizer.set_dataset_meta(None, None, 'ade20k')
    if channels == 150:
        assert draw(visualizer, predicted(channels, label=149), tmp_path / 'x.png').any()
