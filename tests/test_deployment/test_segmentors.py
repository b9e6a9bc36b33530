"""Segmentors with one output, sliding windows or several heads: equal to mmseg's ``predict``, or refused."""

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.registry import MODELS, init_default_scope
from mmseg.structures import SegDataSample

from mmmobilemamba.deployment.build import DeploymentError, check_supported, make_graph

from ..conftest import noise_for, relative_error
from ..helpers import randomise
from .networks import config_of

SIZE = (160, 192)


def segmentor(head=None, test_cfg=None, kind='EncoderDecoder'):
    """Semantic FPN of two classes, or a segmentor with other heads."""
    init_default_scope('mmseg')
    config = config_of('sem_fpn').model
    config.data_preprocessor = None
    config.model_type = kind
    if isinstance(head, list):
        config.decode_head = head
        config.num_stages = len(head)
    else:
        config.decode_head.update(num_classes=2, **(head or {}))
        config.decode_head.loss_decode = dict(type='CrossEntropyLoss')
    config.test_cfg = test_cfg or dict(mode='whole')
    torch.manual_seed(0)
    model = randomise(MODELS.build(config))
    for name, parameter in model.decode_head.named_parameters():
        if parameter.ndim == 4:
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
        if name.endswith('conv_seg.bias'):
            parameter.data.zero_()
    return model.eval().requires_grad_(False)


@torch.no_grad()
def predicted(model, image):
    """Logits and classes of mmseg's ``predict`` (two Tensor)."""
    size = tuple(image.shape[2:])
    info = dict(img_shape=size, ori_shape=size, pad_shape=size)
    samples = model.predict(image, [SegDataSample(metainfo=dict(info)) for _ in image])
    return (
        torch.stack([sample.seg_logits.data for sample in samples]),
        torch.cat([sample.pred_sem_seg.data for sample in samples]),
    )


@pytest.mark.parametrize('threshold', [0.45, 0.5, 0.62])
def test_one_output_for_two_classes(threshold):
    """The logits cover both classes, so that argmax is right even after resizing."""
    model = segmentor(dict(out_channels=1, threshold=threshold))
    model.decode_head.loss_decode.use_sigmoid = True
    image = noise_for((2, 3, *SIZE), 0)
    with torch.no_grad():
        classes, logits = make_graph(model, 'segmentation', with_logits=True)(image)
    scores, expected = predicted(model, image)
    assert 0.02 < expected.double().mean() < 0.98
    assert (classes != expected).double().mean() < 1e-4
    assert logits.shape == (2, 2, *SIZE) and torch.equal(logits.argmax(1), classes.long())
    shift = torch.tensor(threshold).logit()
    assert relative_error((logits[:, 1:] - logits[:, :1] + shift).sigmoid(), scores) < 1e-5


@pytest.mark.parametrize(
    ('crop_size', 'stride'),
    [((64, 64), (40, 40)), ((96, 64), (96, 30)), ((160, 192), (50, 50)), ((300, 128), (200, 64))],
)
def test_sliding_windows(crop_size, stride):
    """Equal to ``slide_inference``; strides that do not divide the sides, and windows larger than a side."""
    model = segmentor(test_cfg=dict(mode='slide', crop_size=crop_size, stride=stride))
    image = noise_for((2, 3, *SIZE), 0)
    graph = make_graph(model, 'segmentation', with_logits=True)
    assert graph.slides
    with torch.no_grad():
        classes, logits = graph(image)
    expected, expected_classes = predicted(model, image)
    assert relative_error(logits, expected) < 1e-5
    assert (classes != expected_classes).double().mean() < 1e-4


def heads(*kinds):
    """Decode heads on the last map of the backbone's neck."""
    common = dict(channels=16, num_classes=3, norm_cfg=dict(type='GN', num_groups=4), align_corners=False)
    loss = dict(loss_decode=dict(type='CrossEntropyLoss'))
    return [{**common, **loss, **kind} for kind in kinds]


def test_two_heads_in_a_row():
    """OCRNet's second head takes the output of the first one."""
    first = dict(type='FCNHead', in_channels=64, in_index=-1, num_convs=1)
    second = dict(type='OCRHead', in_channels=64, in_index=-1, ocr_channels=8)
    model = segmentor(heads(first, second), kind='CascadeEncoderDecoder')
    image = noise_for((2, 3, *SIZE), 0)
    with torch.no_grad():
        classes, logits = make_graph(model, 'segmentation', with_logits=True)(image)
    expected, expected_classes = predicted(model, image)
    assert relative_error(logits, expected) < 1e-5
    assert torch.equal(classes.long(), expected_classes.long())


def test_heads_that_are_refused():
    """PointRend's second head refines single points, and Mask2Former's returns masks with classes."""
    first = dict(type='FCNHead', in_channels=64, in_index=-1, num_convs=1)
    points = dict(type='PointHead', in_channels=[64], in_index=[0], num_fcs=1)
    with pytest.raises(
        DeploymentError, match=r'PointHead has a predict of its own, .* BaseCascadeDecodeHead'
    ):
        check_supported(segmentor(heads(first, points), kind='CascadeEncoderDecoder'), 'segmentation')
    model = segmentor()

    class Mine(type(model.decode_head)):
        def predict_by_feat(self, *args, **kwargs):
            return super().predict_by_feat(*args, **kwargs)

    model.decode_head.__class__ = Mine
    with pytest.raises(
        DeploymentError, match=r'^EncoderDecoder cannot be exported: Mine has a predict_by_feat'
    ):
        check_supported(model, 'segmentation')
    model = segmentor(dict(out_channels=1, threshold=1.0))
    with pytest.raises(DeploymentError, match=r'decode_head.threshold is 1.0; it must be between 0 and 1'):
        check_supported(model, 'segmentation')
