"""Small detectors with every kind of dense head, whose scores and boxes vary as after a training."""

import logging

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope

import mmmobilemamba.mmdet  # noqa: F401  (registers the backbone and the neck)

from ..helpers import SHALLOW, randomise

STRIDES = [8, 16, 32, 64]
CLASSES = 3
ANCHORS = dict(
    type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=STRIDES
)
POINTS = dict(type='MlvlPointGenerator', offset=0, strides=STRIDES)
DELTAS = dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2])
QUALITY = dict(type='QualityFocalLoss', use_sigmoid=True)
SETTINGS = dict(nms_pre=50, min_bbox_size=0, score_thr=0.05, max_per_img=30, nms=dict(iou_threshold=0.5))
GROUPS = dict(type='GN', num_groups=8)
HEADS = dict(
    RetinaHead=dict(type='RetinaHead', anchor_generator=dict(ANCHORS, ratios=[0.5, 1.0]), bbox_coder=DELTAS),
    RetinaHead_softmax=dict(
        type='RetinaHead',
        anchor_generator=ANCHORS,
        bbox_coder=DELTAS,
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False),
    ),
    FreeAnchorRetinaHead=dict(type='FreeAnchorRetinaHead', anchor_generator=ANCHORS, bbox_coder=DELTAS),
    FSAFHead=dict(
        type='FSAFHead',
        anchor_generator=dict(ANCHORS, octave_base_scale=1),
        bbox_coder=dict(type='TBLRBBoxCoder', normalizer=4.0),
        reg_decoded_bbox=True,
    ),
    ATSSHead=dict(type='ATSSHead', anchor_generator=dict(ANCHORS, octave_base_scale=8), bbox_coder=DELTAS),
    FCOSHead=dict(type='FCOSHead', strides=STRIDES, norm_on_bbox=True, centerness_on_reg=True),
    FCOSHead_exp=dict(type='FCOSHead', strides=STRIDES),
    GFLHead=dict(
        type='GFLHead', anchor_generator=dict(ANCHORS, octave_base_scale=8), reg_max=7, loss_cls=QUALITY
    ),
    PAAHead=dict(type='PAAHead', anchor_generator=dict(ANCHORS, octave_base_scale=8), bbox_coder=DELTAS),
    PAAHead_no_voting=dict(type='PAAHead', anchor_generator=ANCHORS, bbox_coder=DELTAS, score_voting=False),
    RTMDetHead=dict(
        type='RTMDetHead',
        anchor_generator=POINTS,
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=QUALITY,
        with_objectness=False,
    ),
    RTMDetHead_objectness=dict(
        type='RTMDetHead',
        anchor_generator=POINTS,
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=QUALITY,
    ),
    RTMDetSepBNHead=dict(
        type='RTMDetSepBNHead',
        anchor_generator=POINTS,
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=QUALITY,
        with_objectness=False,
        exp_on_reg=False,
        share_conv=True,
        pred_kernel_size=1,
    ),
    YOLOXHead=dict(type='YOLOXHead', strides=STRIDES),
)


def config_of(name, test_cfg=None, head=None):
    """The model config with a head of :data:`HEADS` (ConfigDict)."""
    sizes = dict(in_channels=32, feat_channels=32, stacked_convs=1, num_classes=CLASSES)
    if HEADS[name]['type'] not in ('YOLOXHead', 'FSAFHead', 'RTMDetHead', 'RTMDetSepBNHead'):
        sizes['norm_cfg'] = GROUPS
    return ConfigDict(
        type='SingleStageDetector' if 'YOLOX' not in name else 'YOLOX',
        data_preprocessor=dict(type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.0] * 3),
        backbone=dict(type='MobileMamba', arch=SHALLOW, out_indices=(0, 1, 2)),
        neck=dict(
            type='DeconvFPN',
            in_channels=list(SHALLOW['embed_dims']),
            out_channels=32,
            num_outs=len(STRIDES),
            norm_cfg=GROUPS,
        ),
        bbox_head={**HEADS[name], **sizes, **(head or {})},
        test_cfg={**SETTINGS, **(test_cfg or {})},
    )


def build(config, spread=2.0):
    """Build a model whose scores and boxes vary as after a training.

    Args:
        spread (float): Approximate standard deviation of the logits.
    """
    init_default_scope('mmdet')
    torch.manual_seed(0)
    logging.disable(logging.INFO)
    try:
        model = MODELS.build(config)
        model.init_weights()
    finally:
        logging.disable(logging.NOTSET)
    randomise(model)
    for parameter in model.bbox_head.parameters():
        if parameter.ndim == 4:
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    with torch.no_grad():
        outputs = model.bbox_head(model.extract_feat(torch.randn(2, 3, 128, 192)))
        spreads = [torch.cat([x.flatten() for x in levels]).std().item() for levels in outputs]
        last = [
            m for n, m in model.bbox_head.named_modules() if isinstance(m, torch.nn.Conv2d) and is_last(n)
        ]
        for conv in last:
            conv.weight *= spread / spreads[0]
            if conv.bias is not None:
                conv.bias.zero_()
    return model.eval().requires_grad_(False)


def is_last(name):
    """Whether a convolution returns class scores."""
    return name.split('.')[0] in (
        'retina_cls',
        'atss_cls',
        'conv_cls',
        'gfl_cls',
        'rtm_cls',
        'multi_level_conv_cls',
    )
