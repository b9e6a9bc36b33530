"""Widths and strides of untrained recipes and of the stock configs in docs/any_project.md.

Networks are on the meta device, where only shapes are computed.
"""

import copy
import itertools
from functools import cache

import mmengine
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmmobilemamba.models.backbones.arch import ARCHS

from ..conftest import ROOT
from ..pages import config_snippets
from .recipes import build, count

STARTING_POINTS = dict(
    faster_rcnn='faster_rcnn/faster-rcnn_mobilemamba-b1_fpn_1x_coco',
    fcos='fcos/fcos_mobilemamba-b1_fpn_gn-head_1x_coco',
    rtmdet='rtmdet/rtmdet_mobilemamba-b1_8xb32-300e_coco',
    yolox='yolox/yolox_mobilemamba-b1_8xb8-300e_coco',
    dino='dino/dino-4scale_mobilemamba-b1_8xb2-12e_coco',
    upernet='upernet/mobilemamba-b4_upernet_4xb8-80k_ade20k-512x512',
    segformer='segformer/mobilemamba-b4_segformer_4xb8-80k_ade20k-512x512',
    mask2former='mask2former/mobilemamba-b4_mask2former_8xb2-160k_ade20k-512x512',
)
# The configs on the page by model.
PAGE = dict(
    zip(
        ('cascade', 'rtmdet_ins', 'yolox_64', 'detr', 'mask2former_mmdet', 'deeplabv3plus', 'segformer_8'),
        (text for _, text in config_snippets(ROOT / 'docs/any_project.md')),
    )
)
# Strides of the heads' input maps, and their channels if they come from a neck.
MAPS = dict(
    faster_rcnn=([4, 8, 16, 32, 64], 256),
    fcos=([8, 16, 32, 64, 128], 256),
    rtmdet=([8, 16, 32], 128),
    yolox=([8, 16, 32], 128),
    dino=([16, 32, 64, 128], 256),
    upernet=([16, 32, 64], None),
    segformer=([16, 32, 64], None),
    mask2former=([8, 16, 32, 64], 256),
    cascade=([4, 8, 16, 32, 64], 256),
    rtmdet_ins=([8, 16, 32], 128),
    yolox_64=([16, 32, 64], 128),
    detr=([32], 256),
    mask2former_mmdet=([16, 32, 64], None),
    deeplabv3plus=([16, 32, 64], None),
    segformer_8=([8, 16, 32, 64], 128),
)
HEIGHT, WIDTH = 128, 256


@cache
def resolve(name):
    if name in PAGE:
        return Config.fromstring(PAGE[name], '.py')
    return Config.fromfile(ROOT / f'configs/{STARTING_POINTS[name]}.py')


def load(name, arch=None):
    """A copy of a config, optionally with another arch."""
    config = copy.deepcopy(resolve(name))
    init_default_scope(config.default_scope)
    if arch is not None:
        config.merge_from_dict({'model.backbone.arch': arch})
    return config


def features(model, height=HEIGHT, width=WIDTH):
    with torch.no_grad():
        return model.eval().extract_feat(torch.empty(1, 3, height, width, device='meta'))


def strides_in_heads(model):
    """Strides by level as configured in anchors, points, RoI extractors and pixel decoders."""
    found = []
    for module in model.modules():
        generator = getattr(module, 'prior_generator', None) or getattr(module, 'point_generator', None)
        if generator is not None:
            found.append([stride[0] for stride in generator.strides])
        if hasattr(module, 'featmap_strides'):
            found.append(module.featmap_strides)
    return found


@pytest.mark.parametrize(
    ('name', 'arch'), [*itertools.product(STARTING_POINTS, ARCHS), *((name, 't2') for name in PAGE)]
)
def test_strides_and_widths(name, arch):
    """Maps have the strides configured in the heads, and every arch works without further changes."""
    model = build(load(name, arch))
    dims = ARCHS[arch]['embed_dims']
    assert model.backbone.out_channels == tuple(dims[index] for index in model.backbone.out_indices)
    maps, (strides, channels) = features(model), MAPS[name]
    assert [(HEIGHT // x.shape[2], WIDTH // x.shape[3]) for x in maps] == [(s, s) for s in strides]
    widths = [channels] * len(maps) if channels else list(dims)
    assert [x.shape[1] for x in maps] == widths
    for believed in strides_in_heads(model):
        assert believed == strides[: len(believed)] and len(believed) >= len(strides) - 1
    assert len(strides_in_heads(model)) == PRIORS.get(name, 0)


# Number of modules with strides in a model: for R-CNNs, the RPN and each RoI extractor.
PRIORS = dict(
    faster_rcnn=2,
    fcos=1,
    rtmdet=1,
    yolox=1,
    mask2former=1,
    cascade=4,
    rtmdet_ins=1,
    yolox_64=1,
    mask2former_mmdet=1,
)


@pytest.mark.parametrize(
    ('name', 'stride'), [('upernet', 16), ('segformer', 16), ('segformer_8', 8), ('deeplabv3plus', 16)]
)
def test_scale_of_the_logits(name, stride):
    model = build(load(name))
    with torch.no_grad():
        logits = model.eval()(torch.empty(1, 3, HEIGHT, WIDTH, device='meta'), mode='tensor')
    assert logits.shape == (1, 150, HEIGHT // stride, WIDTH // stride)


def test_heads_read_the_maps():
    """DINO uses four levels; Mask2Former's encoder uses three of four, and the finest is for masks."""
    dino = build(load('dino'))
    attention = [m for m in dino.modules() if type(m).__name__ == 'MultiScaleDeformableAttention']
    assert len(attention) == 12 and {m.num_levels for m in attention} == {4}
    head = build(load('mask2former')).decode_head
    assert head.pixel_decoder.num_input_levels == 4 and head.pixel_decoder.num_encoder_levels == 3
    assert build(load('mask2former_mmdet')).panoptic_head.pixel_decoder.num_input_levels == 3
    model = build(load('upernet'))
    assert model.decode_head.in_index == [0, 1, 2] and model.auxiliary_head.in_index == 1


@pytest.mark.parametrize('name', MAPS)
def test_images_are_those_of_the_weights(name):
    """RGB with ImageNet's mean and standard deviation, regardless of the stock config."""
    preprocessor = load(name).model.data_preprocessor
    assert preprocessor.mean == [123.675, 116.28, 103.53] and preprocessor.std == [58.395, 57.12, 57.375]
    assert preprocessor.bgr_to_rgb is True


@pytest.mark.parametrize('name', STARTING_POINTS)
def test_parameters(name):
    """Equal to the metafile's, also for twins; the backbone only has the stages that are used."""
    for entry in mmengine.load(ROOT / f'configs/{name}/metafile.yml')['Models']:
        twin = 'digits' in entry['Name']
        model = build(Config.fromfile(ROOT / entry['Config']) if twin else load(name))
        assert count(model) == entry['Metadata']['Parameters'], entry['Name']
        assert len(model.backbone.stages) == (2 if name in ('rtmdet', 'yolox') else 3)


@pytest.mark.parametrize(('name', 'side'), [('yolox_64', 544), ('rtmdet_64', 160)])
def test_sides_in_multiples_of_the_coarsest_stride(name, side):
    """As on the page: an error of the stock neck, avoided by a divisor of 64."""
    config = load('yolox_64' if name == 'yolox_64' else 'rtmdet')
    if name == 'rtmdet_64':
        config.model.backbone.out_indices = (0, 1, 2)
        config.model.neck = dict(config.model.neck[1], in_channels=['stage0', 'stage1', 'stage2'])
    model = build(config)
    with pytest.raises(RuntimeError, match='Sizes of tensors must match'):
        features(model, side, side)
    padded = -(-side // 64) * 64
    assert [x.shape[2] for x in features(model, padded, padded)] == [padded // s for s in (16, 32, 64)]
    assert load('yolox_64').model.data_preprocessor.pad_size_divisor == 64
    assert features(build(load('yolox')), 544, 544)[2].shape[2] == 17  # two necks support multiples of 32


@pytest.mark.parametrize(('side', 'enough'), [(384, False), (416, True)])
def test_queries_of_dino(side, enough):
    """900 queries need at least 900 pixels in all levels."""
    model = build(load('dino'))
    assert (sum(x.shape[2] * x.shape[3] for x in features(model, side, side)) >= model.num_queries) == enough


def test_lraspp_wants_a_stride_of_16():
    init_default_scope('mmseg')
    head = dict(type='LRASPPHead', in_channels=['stage0', 'stage1', 'stage2'], in_index=[0, 1, 2])
    head.update(channels=128, branch_channels=(32, 64), num_classes=150, input_transform='multiple_select')
    config = load('upernet')
    config.model.pop('auxiliary_head')
    config.model.decode_head = head
    model = build(config)
    with pytest.raises(RuntimeError, match='Output size is too small'):
        model(torch.empty(1, 3, 512, 512, device='meta'), mode='tensor')
    assert any(isinstance(m, nn.AvgPool2d) and m.kernel_size == 49 for m in model.modules())
    assert 49 * 64 == 3136


def test_dino_with_finer_levels():
    """The neck named on the page matches the strides of the stock config."""
    text = ' '.join((ROOT / 'docs/any_project.md').read_text().split())
    neck = (
        "dict(_delete_=True, type='DeconvFPN', in_channels=['stage0', 'stage1', 'stage2'], out_channels=256, "
    )
    neck += "num_outs=4, norm_cfg=dict(type='GN', num_groups=32))"
    assert f'`{neck}`' in text
    config = load('dino')
    config.merge_from_dict({'model': dict(neck=eval(neck))})
    assert [HEIGHT // x.shape[2] for x in features(build(config))] == [8, 16, 32, 64]
