"""choose.py, which uses NumPy only, selects the same objects from raw outputs as ONNX files."""

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

from mmmobilemamba.deployment import build, raw_graphs
from mmmobilemamba.deployment.detectors import DenseDetector

from ..conftest import load_script, noise_for
from ..helpers import needs_export
from ..test_deployment.dense_detectors import DELTAS, HEADS, config_of
from ..test_deployment.dense_detectors import build as build_model
from ..test_deployment.networks import graph_of

choose = load_script('tools/deployment/choose.py')
SIZE = (160, 192)
NMS = dict(type='nms', iou_threshold=0.5)


@torch.no_grad()
def assert_same(model, image):
    """Check that a raw graph with choose.py returns the results of the detector.

    Returns:
        tuple[list[int], ndarray]: Number of objects of each image, and the scores.
    """
    build.check_supported(model, 'detection')
    expected = [x.numpy() for x in DenseDetector(model)(image)]
    graph = raw_graphs.make_raw_graph(model, 'detection', image)
    outputs = dict(zip(graph.output_names, (x.numpy() for x in graph(image))))
    found = choose.choose(outputs, dict(task='detection', candidates=graph.candidates))
    assert list(found) == ['boxes', 'scores', 'labels']
    counts = (expected[1] > 0).sum(1)
    assert ((found['scores'] > 0).sum(1) == counts).all() and found['scores'].shape[1] == counts.max()
    for index, count in enumerate(counts):
        boxes, scores, labels = (found[name][index][:count] for name in found)
        np.testing.assert_allclose(scores, expected[1][index][:count], rtol=1e-5, atol=1e-7)
        assert np.array_equal(labels, expected[2][index][:count])
        np.testing.assert_allclose(boxes, expected[0][index][:count], rtol=1e-5, atol=1e-3)
    return counts.tolist(), found['scores']


@pytest.mark.parametrize('name', HEADS)
def test_heads(name):
    counts, _ = assert_same(build_model(config_of(name)), noise_for((2, 3, *SIZE), 0))
    assert min(counts) > 10


@pytest.mark.parametrize('name', ['ssdlite', 'retinanet'])
@needs_export
def test_detectors_of_the_recipes(name, tmp_path):
    counts, _ = assert_same(graph_of(name, tmp_path)[0], noise_for((2, 3, 224, 224), 0))
    assert min(counts) > 10


SETTINGS = {
    'plain': {},
    'score_thr': dict(score_thr=0.6),
    'no score_thr': dict(score_thr=0.0),
    'nms_pre': dict(nms_pre=7),
    'nms_pre -1': dict(nms_pre=-1, score_thr=0.6),
    'nms_pre -20': dict(nms_pre=-20, score_thr=0.6),
    'max_per_img': dict(max_per_img=3),
    'no min_bbox_size': dict(min_bbox_size=-1),
    'iou_threshold': dict(nms=dict(iou_threshold=0.2)),
    'class_agnostic': dict(nms=dict(NMS, class_agnostic=True)),
    'class_agnostic, split_thr': dict(nms=dict(NMS, class_agnostic=True, split_thr=20)),
    'split_thr': dict(nms=dict(NMS, split_thr=20)),
    'max_num': dict(nms=dict(NMS, max_num=5)),
    'max_num, split_thr': dict(nms=dict(NMS, max_num=5, split_thr=20)),
    'offset': dict(nms=dict(NMS, offset=1)),
    'score_threshold': dict(nms=dict(NMS, score_threshold=0.6)),
    'no nms': dict(nms=None),
}
SPLIT = {'split_thr', 'class_agnostic, split_thr'}  # per class, as by default without class_agnostic
# Settings without effect on a head: defaults, settings that it does not read, and thresholds of 0 if the
# best candidates of each level exceed the other threshold anyway.
SAME = {
    'RetinaHead': {*SPLIT, 'no min_bbox_size', 'no score_thr'},
    'YOLOXHead': {*SPLIT, 'no min_bbox_size', 'max_per_img', 'nms_pre'},
    'PAAHead': {*SPLIT, 'no min_bbox_size', 'no score_thr'},
}


@pytest.mark.parametrize('name', SAME)
def test_settings(name):
    """Each setting changes the results, except for those listed as having no effect."""
    model, image, found = build_model(config_of(name)), noise_for((2, 3, *SIZE), 2), {}
    for key, settings in SETTINGS.items():
        model.bbox_head.test_cfg = config_of(name, dict(max_per_img=1000) | settings).test_cfg
        counts, scores = assert_same(model, image)
        assert min(counts) > 2, key
        found[key] = scores.tolist()
    assert {key for key in found if found[key] == found['plain']} == {'plain', *SAME[name]}
    assert (found['nms_pre -1'] == found['nms_pre -20']) == (name != 'RetinaHead')


@pytest.mark.parametrize('nms', [NMS, dict(NMS, split_thr=20)], ids=str)
def test_boxes_beyond_the_image(nms):
    """They may overlap boxes of other classes even after mmcv has shifted them by class."""
    coder = dict(DELTAS, clip_border=False)
    model = build_model(config_of('RetinaHead', dict(nms=nms), dict(bbox_coder=coder)))
    counts, _ = assert_same(model, noise_for((2, 3, *SIZE), 3))
    assert min(counts) > 10


@pytest.mark.parametrize('name', ['RetinaHead', 'YOLOXHead', 'PAAHead', 'ATSSHead'])
def test_nothing_is_found(name):
    model = build_model(config_of(name, dict(score_thr=0.9999)))
    counts, scores = assert_same(model, noise_for((2, 3, *SIZE), 0))
    assert counts == [0, 0] and scores.shape == (2, 0)


def test_suppression_by_hand():
    """Half of the second box lies in the first one, all of the third in the second."""
    boxes = np.float32([[0, 0, 10, 10], [0, 5, 10, 15], [0, 5, 10, 14], [40, 0, 50, 10], [3, 3, 3, 3]])
    assert choose.suppress(boxes, 0.34).tolist() == [0, 1, 3, 4]
    assert choose.suppress(boxes, 0.33).tolist() == [0, 3, 4]
    assert choose.suppress(boxes, 0.34, limit=2).tolist() == [0, 1]
    # With an offset of 1 px per side, 66 of 176 px, 37.5 %.
    assert choose.suppress(boxes, 0.36, offset=1).tolist() == [0, 3, 4]
    assert choose.suppress(boxes[:0], 0.5).shape == (0,)


def test_many_boxes_are_suppressed_as_by_torchvision():
    torchvision = pytest.importorskip('torchvision')
    rng = np.random.default_rng(0)
    corners = rng.random((3000, 2), np.float32) * 300
    boxes = np.concatenate([corners, corners + rng.random((3000, 2), np.float32) * 60 + 1], 1)
    scores = np.sort(rng.random(3000, np.float32))[::-1].copy()
    for threshold in (0.1, 0.3, 0.6):
        expected = torchvision.ops.nms(*map(torch.from_numpy, (boxes, scores)), threshold)
        assert 50 < len(expected) < 3000
        assert choose.suppress(boxes, threshold).tolist() == expected.tolist()


def test_classes_and_pixels():
    logits = np.log(np.float32([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]]))
    found = choose.choose(dict(logits=logits), dict(task='classification'))
    assert found['labels'].tolist() == [[1, 2, 0], [0, 2, 1]]
    np.testing.assert_allclose(found['scores'], [[0.6, 0.3, 0.1], [0.5, 0.3, 0.2]], rtol=1e-6)
    large = choose.choose(dict(logits=np.float32([[900, 600, -1e30]])), dict(task='classification'))
    assert large['scores'].tolist() == [[1, 0, 0]]

    pixels = noise_for((2, 4, 3, 5), 0).numpy()
    found = choose.choose(dict(logits=pixels), dict(task='segmentation'))
    assert found['classes'].dtype == np.int32 and np.array_equal(found['classes'], pixels.argmax(1))
    assert found['logits'] is pixels


@pytest.mark.parametrize(
    ('task', 'outputs'),
    [
        ('classification', dict(logits=np.ones((1, 3)), scores=np.ones((1, 1)), labels=np.ones((1, 1)))),
        ('segmentation', dict(classes=np.ones((1, 2, 2)))),
        ('detection', dict(boxes=np.ones((1, 1, 4)), scores=np.ones((1, 1)), labels=np.ones((1, 1)))),
        ('backbone', dict(stage0=np.ones((1, 2, 3, 3)))),
    ],
)
def test_what_has_been_chosen_stays(task, outputs):
    assert choose.choose(outputs, dict(task=task)) is outputs


def test_errors():
    boxes, scores = np.zeros((3, 4), np.float32), np.zeros((3, 2), np.float32)
    settings = dict(kind='pairs', levels=[2, 2])
    with pytest.raises(ValueError, match=r'There are 3 boxes, and the levels have \[2, 2\]'):
        choose.find_objects(settings, boxes, scores)
    with pytest.raises(ValueError, match=r"is 'queries'; it must be .*'pairs', 'best_class', 'places'"):
        choose.find_objects(dict(settings, kind='queries'), boxes, scores)
