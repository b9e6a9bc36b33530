"""Graphs with every kind of dense head and every setting return the results of mmdet's ``predict``."""

import pytest
import torch

pytest.importorskip('mmdet')

from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict

from mmmobilemamba.deployment import dense_heads, onnx_file
from mmmobilemamba.deployment.build import DeploymentError, check_supported, make_graph

from ..conftest import noise_for
from ..helpers import needs_export
from .dense_detectors import ANCHORS, DELTAS, HEADS, build, config_of

SIZE = (160, 192)


@pytest.fixture(scope='module')
def retinanet():
    """A RetinaNet whose settings tests may change."""
    return build(config_of('RetinaHead'))


@torch.no_grad()
def assert_same(model, image):
    """Check that the graph returns the results of mmdet's ``predict``; returns the number of objects."""
    graph = make_graph(model, 'detection')
    info = dict(img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE, scale_factor=(1.0, 1.0))
    samples = [DetDataSample(metainfo=dict(info, batch_input_shape=SIZE)) for _ in image]
    counts = []
    for boxes, scores, labels, sample in zip(*graph(image), model.predict(image, samples, rescale=False)):
        expected = sample.pred_instances
        counts.append(len(expected))
        assert (scores > 0).sum() == counts[-1]
        found = [x[: counts[-1]] for x in (boxes, scores)]
        torch.testing.assert_close(found, [expected.bboxes, expected.scores], rtol=1e-6, atol=1e-4)
        assert torch.equal(labels[: counts[-1]], expected.labels)
    return counts


@pytest.mark.parametrize('name', HEADS)
def test_heads(name):
    model = build(config_of(name))
    assert min(assert_same(model, noise_for((2, 3, *SIZE), 0))) > 10


@pytest.mark.parametrize('name', ['RetinaHead', 'RetinaHead_softmax', 'RTMDetSepBNHead', 'YOLOXHead'])
def test_equal_scores(name):
    """Equal scores are refused, because no comparison could verify the selection of boxes."""
    model = build(config_of(name))
    features = model.extract_feat(noise_for((2, 3, *SIZE), 0))
    dense_heads.check_scores(model.bbox_head, features, 1e-4)
    for key, parameter in model.bbox_head.named_parameters():
        if 'cls' in key and parameter.ndim > 1:
            parameter.data.mul_(1e-9)
        elif 'cls' in key and 'softmax' in name:
            parameter.data.zero_()
    with pytest.raises(DeploymentError, match=r'gives the same score, .* to all boxes of an image of noise'):
        dense_heads.check_scores(model.bbox_head, features, 1e-4)


@pytest.mark.parametrize('name', ['YOLOXHead', 'PAAHead', 'ATSSHead'])
def test_no_score_is_too_low(name):
    model = build(config_of(name, dict(score_thr=0.0)))
    assert min(assert_same(model, noise_for((2, 3, *SIZE), 1))) >= 30


NMS = dict(type='nms', iou_threshold=0.5)


@pytest.mark.parametrize(
    'settings',
    [
        dict(score_thr=0.6),
        dict(nms_pre=7),
        dict(nms_pre=-1),
        dict(nms_pre=-20, max_per_img=1000, score_thr=0.9),
        dict(max_per_img=3),
        dict(min_bbox_size=0),
        dict(min_bbox_size=-1),
        dict(nms=dict(iou_threshold=0.2)),
        dict(nms=dict(iou_thr=0.2)),
        dict(nms=dict(NMS, class_agnostic=True)),
        dict(nms=dict(NMS, class_agnostic=True, split_thr=20)),
        dict(nms=dict(NMS, split_thr=20)),
        dict(nms=dict(NMS, max_num=5)),
        dict(nms=dict(NMS, max_num=5, split_thr=20)),
        dict(nms=dict(NMS, offset=1)),
        dict(nms=dict(NMS, score_threshold=0.9)),
        dict(nms=None),
    ],
    ids=str,
)
def test_settings(retinanet, settings):
    """Each setting changes the results, or is equivalent to another one."""
    retinanet.bbox_head.test_cfg = config_of('RetinaHead', settings).test_cfg
    assert min(assert_same(retinanet, noise_for((2, 3, *SIZE), 2))) > 2


def test_settings_change_what_is_found(retinanet):
    """Ensures that the tests above can fail."""
    image, found = noise_for((2, 3, *SIZE), 2), {}
    for name, settings in dict(
        plain={},
        agnostic=dict(nms=dict(NMS, class_agnostic=True)),
        offset=dict(nms=dict(NMS, offset=1)),
        split=dict(nms=dict(NMS, class_agnostic=True, split_thr=20)),
        all=dict(nms=None),
    ).items():
        retinanet.bbox_head.test_cfg = ConfigDict(
            config_of('RetinaHead', dict(settings, max_per_img=80)).test_cfg
        )
        with torch.no_grad():
            found[name] = make_graph(retinanet, 'detection')(image)[1]
    different = [(a, b) for a in found for b in found if a < b and not torch.equal(found[a], found[b])]
    same = {frozenset(('plain', 'split'))}  # per class, which is the default without class_agnostic
    assert {frozenset(pair) for pair in different} | same == {
        frozenset((a, b)) for a in found for b in found if a < b
    }


def test_boxes_beyond_the_image():
    """Boxes beyond the image may overlap those of other classes even after mmcv has shifted them by class."""
    coder = dict(DELTAS, clip_border=False)
    for nms in (NMS, dict(NMS, split_thr=20)):
        model = build(config_of('RetinaHead', dict(nms=nms), dict(bbox_coder=coder)))
        assert min(assert_same(model, noise_for((2, 3, *SIZE), 3))) > 10


@pytest.mark.parametrize(
    ('name', 'settings', 'message'),
    [
        ('RetinaHead', dict(nms=dict(NMS, type='soft_nms')), "asks for 'soft_nms'.* plain 'nms'"),
        ('RetinaHead', dict(nms=dict(NMS, type='nms_match')), "asks for 'nms_match'"),
        ('RetinaHead', dict(nms=dict(NMS, type='mmcv.ops.nms')), "asks for 'mmcv.ops.nms'"),
        (
            'RetinaHead',
            dict(nms=dict(NMS, min_score=0.1)),
            'nms has min_score; it takes iou_thr',
        ),
        ('RetinaHead', dict(nms=dict(type='nms')), 'nms has no iou_threshold'),
        ('RetinaHead', dict(nms_pre=0), 'nms_pre is 0, with which mmdet finds nothing'),
        ('RetinaHead', dict(min_bbox_size=20), 'min_bbox_size is 20, in pixels of the picture before'),
        ('RetinaHead', dict(max_per_img=-1), 'test_cfg.max_per_img is -1: set how many'),
        ('PAAHead', dict(max_per_img=None), 'test_cfg.max_per_img is None: set how many'),
    ],
)
def test_settings_that_are_refused(name, settings, message):
    with pytest.raises(DeploymentError, match=message):
        make_graph(build(config_of(name, settings)), 'detection')


HEADS_OF_THEIR_OWN = dict(
    FoveaHead=dict(type='FoveaHead', strides=[8, 16, 32, 64], base_edge_list=[16, 32, 64, 128]),
    TOODHead=dict(type='TOODHead', anchor_generator=ANCHORS, bbox_coder=DELTAS, stacked_convs=2),
    VFNetHead=dict(type='VFNetHead', strides=[8, 16, 32, 64]),
    SABLRetinaHead=dict(type='SABLRetinaHead', num_classes=3, in_channels=32),
)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('FoveaHead', r'FoveaHead is a head that predicts in a way of its own \(FoveaHead._predict_by'),
        ('TOODHead', r'TOODHead is a head that predicts in a way of its own .*: RetinaHead, SSDHead, FCOS'),
        ('VFNetHead', 'is a DeformConv2d of mmcv, which ONNX has no operator for'),
        ('SABLRetinaHead', 'SABLRetinaHead is a head that predicts in a way of its own'),
    ],
)
def test_heads_that_are_refused(name, message):
    from mmengine.registry import MODELS

    config = config_of('RetinaHead')
    sizes = dict(in_channels=32, num_classes=3)
    config.bbox_head = ConfigDict({**sizes, **HEADS_OF_THEIR_OWN[name]})
    with pytest.raises(DeploymentError, match=f'^SingleStageDetector cannot be exported: .*{message}'):
        check_supported(MODELS.build(config), 'detection')


def test_own_methods_are_refused(retinanet):
    """A custom head that overrides the prediction is refused."""

    class Mine(type(retinanet.bbox_head)):
        def _bbox_post_process(self, *args, **kwargs):
            return super()._bbox_post_process(*args, **kwargs)

    class MyDetector(type(retinanet)):
        def predict(self, *args, **kwargs):
            return super().predict(*args, **kwargs)

    retinanet.bbox_head.test_cfg = config_of('RetinaHead').test_cfg
    plain, detector = type(retinanet.bbox_head), type(retinanet)
    try:
        retinanet.bbox_head.__class__ = Mine
        with pytest.raises(DeploymentError, match=r'Mine is a head .* \(.*Mine._bbox_post_process\)'):
            check_supported(retinanet, 'detection')
        retinanet.bbox_head.__class__ = plain
        retinanet.__class__ = MyDetector
        with pytest.raises(DeploymentError, match='MyDetector has a predict of its own'):
            check_supported(retinanet, 'detection')
    finally:
        retinanet.bbox_head.__class__, retinanet.__class__ = plain, detector


class Sigmoid(torch.nn.Module):
    forward = staticmethod(dense_heads.sigmoid)


@needs_export
def test_small_scores_in_onnx_runtime(tmp_path):
    """Small scores have full relative precision, because candidates are ranked by them."""
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    logits = torch.linspace(-80, 20, 4 * 257).view(2, 2, 1, 257)
    proto = onnx_file.to_onnx(Sigmoid(), logits, False)
    onnx_file.write(proto, tmp_path / 'sigmoid.onnx', {})
    (found,) = onnx_file.open_session(tmp_path / 'sigmoid.onnx').run(None, {'image': logits.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), logits.sigmoid(), rtol=1e-6, atol=0)
    assert dense_heads.sigmoid(torch.tensor([-1e4, 1e4])).tolist() == [0, 1]
