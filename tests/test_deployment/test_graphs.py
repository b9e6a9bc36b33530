"""Results of export graphs equal those of OpenMMLab's models."""

import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

from mmdet.structures import DetDataSample
from mmseg.structures import SegDataSample

from mmmobilemamba.deployment import build

from ..conftest import noise_for, relative_error
from ..helpers import needs_export
from .networks import graph_of

SIZE = (160, 192)


def samples(kind, batch):
    info = dict(
        img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE, scale_factor=(1.0, 1.0), batch_input_shape=SIZE
    )
    return [kind(metainfo=info) for _ in range(batch)]


@torch.no_grad()
@needs_export
def test_classifier(tmp_path):
    model, graph, about = graph_of('classifier', tmp_path, topk=3)
    image = noise_for((2, 3, 64, 64), 0)
    logits, scores, labels = graph(image)
    assert relative_error(logits, model(image, mode='tensor')) < 1e-6
    expected = model.predict(image)
    for index, sample in enumerate(expected):
        order = sample.pred_score.argsort(descending=True)[:3]
        assert labels[index].tolist() == order.tolist()
        torch.testing.assert_close(scores[index], sample.pred_score[order])
    assert about['task'] == 'classification' and about['channels'] == 'RGB' and about['labels'][-1] == 'zero'


@torch.no_grad()
@pytest.mark.parametrize('name', ['retinanet', 'ssdlite', 'mask_rcnn'])
@needs_export
def test_detector(name, tmp_path):
    """The same number of boxes as in mmdet, with the same scores, labels and masks."""
    model, graph, _ = graph_of(name, tmp_path)
    image = noise_for((2, 3, *SIZE), 0)
    boxes, scores, labels, *masks = graph(image)
    found = model.predict(image, samples(DetDataSample, 2), rescale=False)
    for index, sample in enumerate(found):
        expected = sample.pred_instances
        count = len(expected)
        assert count > 5 and (scores[index] > 0).sum() == count
        torch.testing.assert_close(scores[index, :count], expected.scores, rtol=1e-4, atol=1e-5)
        clear = torch.ones(count, dtype=torch.bool)
        clear[1:] &= expected.scores.diff() < -2e-6
        clear[:-1] &= expected.scores.diff() < -2e-6
        assert clear.sum() > 3
        assert torch.equal(labels[index, :count][clear], expected.labels[clear])
        torch.testing.assert_close(boxes[index, :count][clear], expected.bboxes[clear], rtol=1e-3, atol=1e-2)
        if masks:
            inside = expected.masks.flatten(1).sum(1)[clear].double()
            sides = (expected.bboxes[:, 2:] - expected.bboxes[:, :2])[clear].prod(1)
            share = (masks[0][index, :count][clear] > 0.5).double().mean((1, 2))
            assert ((inside / sides - share).abs() < 0.2).double().mean() > 0.9


@torch.no_grad()
@pytest.mark.parametrize('name', ['deeplabv3', 'sem_fpn', 'pspnet'])
@needs_export
def test_segmentor(name, tmp_path):
    model, graph, about = graph_of(name, tmp_path, with_logits=True)
    image = noise_for((2, 3, *SIZE), 0)
    classes, logits = graph(image)
    assert classes.dtype == torch.int32
    for index, sample in enumerate(model.predict(image, samples(SegDataSample, 2))):
        assert relative_error(logits[index], sample.seg_logits.data) < 1e-5
        assert (classes[index] != sample.pred_sem_seg.data[0]).double().mean() < 1e-3
    assert about['labels'][:2] == ['background', 'zero']


@torch.no_grad()
@needs_export
def test_preprocessing_inside(tmp_path):
    model, graph, about = graph_of('classifier', tmp_path)
    whole = build.with_preprocessing(graph, about)
    picture = torch.randint(
        0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    inputs = dict(inputs=picture.flip(3).permute(0, 3, 1, 2), data_samples=None)  # mmcv loads BGR
    expected = model(model.data_preprocessor(inputs)['inputs'], mode='tensor')
    assert relative_error(whole(picture)[0], expected) < 1e-5
