"""The authors' published detectors and segmentors: names and shapes of their entries, and their metadata.

Names and shapes of necks and heads are written down here, not taken from our models: an error in both
would go unnoticed. They come from the authors' logs (EfficientViTFPN) and from mmdet's and mmseg's classes,
and each part has the number of parameters that the logs report.
Source: https://github.com/lewandofskee/MobileMamba at commit 0980f48, the seven logs in weights/downstream.
"""

import json
import math

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmmobilemamba.models.checkpoint import convert_backbone

from .conftest import GOLDEN, detweights

FILTERS = ('wt_filter', 'iwt_filter')  # stored and counted as parameters by the authors


def conv(name, out, into, size=1, bias=True):
    """Entries of a convolution of ``size`` x ``size`` pixels."""
    return {f'{name}.weight': (out, into, size, size), **({f'{name}.bias': (out,)} if bias else {})}


def linear(name, out, into):
    return {f'{name}.weight': (out, into), f'{name}.bias': (out,)}


def norm(name, channels):
    """Entries of a batch norm, synchronised or not."""
    vectors = ('weight', 'bias', 'running_mean', 'running_var')
    return {**{f'{name}.{key}': (channels,) for key in vectors}, f'{name}.num_batches_tracked': ()}


def conv_norm(name, out, into, size=1):
    """mmcv's ``ConvModule`` of a convolution without bias and its norm."""
    return {**conv(f'{name}.conv', out, into, size, bias=False), **norm(f'{name}.bn', out)}


def join(*groups):
    return {name: shape for group in groups for name, shape in group.items()}


def deconv_fpn(finer, coarser):
    """EfficientViTFPN: laterals, a chain of transposed convolutions, one convolution for each level."""
    finest = range(finer)
    return join(
        *(conv(f'neck.lateral_convs.{i}.conv', 256, width) for i, width in enumerate((200, 376, 448))),
        *(conv(f'neck.fpn_convs.{i}.conv', 256, 256, 3) for i in range(3)),
        *(conv(f'neck.fpn_convs.{3 + i}.conv', 256, 448, 3) for i in range(coarser)),
        *(conv(f'neck.extra_trans_convs.{i}.conv', 256, 256, 2) for i in finest),
        *(conv(f'neck.extra_fpn_convs.{i}.conv', 256, 256, 3) for i in finest),
    )


def retinanet():
    branches = [f'bbox_head.{kind}_convs.{i}.conv' for kind in ('cls', 'reg') for i in range(4)]
    return join(
        deconv_fpn(finer=1, coarser=1),
        *(conv(name, 256, 256, 3) for name in branches),
        conv('bbox_head.retina_cls', 9 * 80, 256, 3),
        conv('bbox_head.retina_reg', 9 * 4, 256, 3),
    )


def mask_rcnn():
    mask = 'roi_head.mask_head'
    return join(
        deconv_fpn(finer=2, coarser=0),
        conv('rpn_head.rpn_conv', 256, 256, 3),
        conv('rpn_head.rpn_cls', 3, 256),
        conv('rpn_head.rpn_reg', 12, 256),
        linear('roi_head.bbox_head.fc_cls', 81, 1024),
        linear('roi_head.bbox_head.fc_reg', 320, 1024),
        linear('roi_head.bbox_head.shared_fcs.0', 1024, 256 * 49),
        linear('roi_head.bbox_head.shared_fcs.1', 1024, 1024),
        *(conv(f'{mask}.convs.{i}.conv', 256, 256, 3) for i in range(4)),
        conv(f'{mask}.upsample', 256, 256, 2),
        conv(f'{mask}.conv_logits', 80, 256),
    )


def ssdlite():
    """Depthwise separable throughout; the same at 320 and 512 pixels."""
    widths, neck, head = (200, 376, 512, 256, 256, 128), [], []
    for i, (into, out) in enumerate(zip(widths[1:], widths[2:])):
        layer, middle = f'neck.extra_layers.{i}', out // 2
        neck += [
            conv_norm(f'{layer}.0', middle, into),
            conv_norm(f'{layer}.1.depthwise_conv', middle, 1, 3),
            conv_norm(f'{layer}.1.pointwise_conv', out, middle),
        ]
    for i, width in enumerate(widths):
        for branch, out in (('cls', 6 * 81), ('reg', 6 * 4)):
            name = f'bbox_head.{branch}_convs.{i}'
            head += [conv_norm(f'{name}.0', width, 1, 3), conv(f'{name}.1', out, width)]
    return join(*neck, *head)


def sem_fpn():
    widths, head = (200, 376, 448), 'decode_head'
    return join(
        *(conv(f'neck.lateral_convs.{i}.conv', 256, width) for i, width in enumerate(widths)),
        *(conv(f'neck.fpn_convs.{i}.conv', 256, 256, 3) for i in range(3)),
        conv(f'{head}.conv_seg', 150, 128),
        *(conv_norm(f'{head}.scale_heads.{i}.0', 128, 256, 3) for i in range(3)),
        conv_norm(f'{head}.scale_heads.2.2', 128, 128, 3),
    )


def auxiliary():
    head = 'auxiliary_head'
    return join(conv(f'{head}.conv_seg', 150, 256), conv_norm(f'{head}.convs.0', 256, 376, 3))


def deeplabv3():
    head = 'decode_head'
    return join(
        conv(f'{head}.conv_seg', 150, 256),
        conv_norm(f'{head}.image_pool.1', 256, 448),
        *(conv_norm(f'{head}.aspp_modules.{i}', 256, 448, 3 if i else 1) for i in range(4)),
        conv_norm(f'{head}.bottleneck', 256, 5 * 256, 3),
        auxiliary(),
    )


def pspnet():
    head = 'decode_head'
    return join(
        conv(f'{head}.conv_seg', 150, 256),
        *(conv_norm(f'{head}.psp_modules.{i}.1', 256, 448) for i in range(4)),
        conv_norm(f'{head}.bottleneck', 256, 448 + 4 * 256, 3),
        auxiliary(),
    )


# By name of the weights: everything but the backbone, and the number of parameters of each part in the logs.
WHOLE = {
    'retinanet-b1': (retinanet, dict(neck=3_918_080, bbox_head=6_463_220)),
    'mask-rcnn-b1': (mask_rcnn, dict(neck=3_738_112, rpn_head=593_935, roi_head=16_949_985)),
    'ssdlite-b1-320': (ssdlite, dict(neck=425_536, bbox_head=922_356)),
    'ssdlite-b1-512': (ssdlite, dict(neck=425_536, bbox_head=922_356)),
    'sem-fpn-b4': (sem_fpn, dict(neck=2_033_152, decode_head=1_052_566)),
    'deeplabv3-b4': (deeplabv3, dict(decode_head=6_316_694, auxiliary_head=905_366)),
    'pspnet-b4': (pspnet, dict(decode_head=3_891_350, auxiliary_head=905_366)),
}
COUNTS = {name: dict(backbone=16_672_953, **parts) for name, (_, parts) in WHOLE.items()}


def shapes_of(name):
    """Names and shapes of a whole checkpoint; those of the backbone are the classifiers' without the head."""
    backbone = json.loads((GOLDEN / 'keys_b1.json').read_text())
    backbone = {f'backbone.{key}': shape for key, shape in backbone.items() if not key.startswith('head.')}
    return {**backbone, **WHOLE[name][0]()}


def count_of(shapes, part):
    """Number of parameters of a part, without the statistics of its norms."""
    statistics = ('running_mean', 'running_var', 'num_batches_tracked')
    found = {k: v for k, v in shapes.items() if k.startswith(f'{part}.') and not k.endswith(statistics)}
    return sum(math.prod(shape) for shape in found.values())


def state_dict_of(name):
    """A state dict with the authors' names and different random values in each tensor."""
    shapes = shapes_of(name)
    return {
        key: torch.from_numpy(detweights.tensor_for(key.removeprefix('backbone.'), shape))
        for key, shape in shapes.items()
    }


def runner_file(state_dict, **meta):
    """A checkpoint as saved by mmengine's Runner, reduced to one entry of each kind (dict)."""
    return dict(
        meta=dict(epoch=12, iter=87960, mmengine_version='0.10.5', experiment_name='authors', **meta),
        state_dict=state_dict,
        message_hub=dict(
            log_scalars={'train/loss': HistoryBuffer(np.array([1.9, 0.4]), np.array([1, 1]))},
            runtime_info=dict(epoch=11, iter=87959),
            resumed_keys={'train/loss': True},
        ),
        optimizer=dict(state={0: dict(step=torch.tensor(87960.0), exp_avg=torch.zeros(3))}, param_groups=[]),
        param_schedulers=[dict(last_step=87960, start_factor=1e-5)],
    )


def expected_of(state_dict, model):
    """Expected state dict of a model: the backbone under our names, everything else unchanged.

    SSDLite does not have the last stage, which the authors build but do not use.
    """
    backbone = {k.removeprefix('backbone.'): v for k, v in state_dict.items() if k.startswith('backbone.')}
    converted = {f'backbone.{key}': value for key, value in convert_backbone(backbone).items()}
    others = {key: value for key, value in state_dict.items() if not key.startswith('backbone.')}
    stages = len(model.backbone.stages)
    unused = tuple(f'backbone.stages.{index}.' for index in range(stages, 3))
    return {**{k: v for k, v in converted.items() if not k.startswith(unused)}, **others}


def assert_holds(model, state_dict):
    """Check that the state dict of a model equals that of the file."""
    found, expected = model.state_dict(), expected_of(state_dict, model)
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
