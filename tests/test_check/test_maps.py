"""Strides, levels, channels and sides of models of mmdet, mmseg and mmpretrain."""

import copy
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

from mmmobilemamba import MobileMamba
from mmmobilemamba.check.finding import config_lines, merge
from mmmobilemamba.check.maps import maps_of, needed_divisor, parts_of
from mmmobilemamba.check.sides import Sizes, pipeline_sizes
from mmmobilemamba.check.start import check_maps, refusal

BACKBONE = dict(_delete_=True, type='MobileMamba', arch='t2', out_indices=(0, 1, 2))
WIDTHS = [144, 272, 368]
import_module('mmmobilemamba.mmdet')  # registers DeconvFPN


def load(scope, path, **changes):
    """A stock config with MobileMamba as the backbone, and its model on the meta device."""
    folder = Path(import_module(scope).__file__).parent
    config = Config.fromfile(folder / '.mim/configs' / f'{path}.py')
    changes = copy.deepcopy(dict(backbone=BACKBONE, **changes))
    if scope == 'mmseg':
        changes.update(pretrained=None)
    config.merge_from_dict(dict(model=changes))
    return config


def check(config):
    """Return findings of the maps other than 'ok'."""
    init_default_scope(config.default_scope)
    settings = dict(config.model)
    if 'data_preprocessor' in config:
        settings.setdefault('data_preprocessor', config.data_preprocessor)
    with torch.device('meta'):
        model = MODELS.build(settings)
    (part,) = parts_of(model, MobileMamba)
    return [finding for finding in check_maps(part, config) if finding.level != 'ok']


def mended(config, finding, way='mend'):
    """Apply the config lines of a finding and check again."""
    config = copy.deepcopy(config)
    config.merge_from_dict(copy.deepcopy(dict(getattr(finding, way))))
    return check(config)


def test_widths_of_a_neck():
    config = load('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco')
    (finding,) = check(config)
    assert (finding.level, finding.subject) == ('error', 'widths')
    assert finding.text == (
        'The neck FPN expects maps of 256, 512, 1024, 2048 channels, '
        'and the backbone gives 3 of 144, 272, 368.'
    )
    assert mended(config, finding) == []
    lines = config_lines(finding.other)
    assert lines == ['model = dict(neck=dict(in_channels=[144, 272, 368], start_level=0))']
    (then,) = mended(config, finding, 'other')
    assert then.text == 'bbox_head has strides 8, 16, 32, 64, 128, and its maps have 16, 32, 64, 128, 256.'


def test_a_backbone_that_gives_one_stage():
    config = load('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco', neck=dict(in_channels=WIDTHS))
    config.model.backbone.pop('out_indices')
    (finding,) = check(config)
    assert finding.text.endswith('and the backbone gives 1 of 368.')
    assert config_lines(finding.mend) == ['model = dict(backbone=dict(out_indices=(0, 1, 2)))']


def test_levels():
    config = load('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco', neck=dict(in_channels=WIDTHS, num_outs=4))
    config.model.neck.start_level = 0
    (finding,) = check(config)
    assert (finding.level, finding.subject) == ('error', 'levels')
    assert (
        finding.text == 'bbox_head has strides 8, 16, 32, 64, 128, for 5 maps, and gets 4: 16, 32, 64, 128.'
    )
    assert config_lines(finding.other) == [
        'model = dict(bbox_head=dict(anchor_generator=dict(strides=[16, 32, 64, 128])))'
    ]
    assert mended(config, finding) == mended(config, finding, 'other') == []


def test_heads_of_other_channels():
    neck = dict(_delete_=True, type='DeconvFPN', in_channels=WIDTHS, out_channels=64, num_outs=5)
    config = load('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco', neck=neck)
    (finding,) = check(config)
    assert finding.text == 'bbox_head is built for 256 channels, and its maps have 64, 64, 64, 64, 64.'
    assert config_lines(finding.mend) == ['model = dict(bbox_head=dict(in_channels=64))']
    assert mended(config, finding) == []


def test_stages_of_a_cascade_are_named_once():
    config = load('mmdet', 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco', neck=dict(in_channels=WIDTHS))
    findings = check(config)
    assert [finding.text.partition(' has')[0] for finding in findings] == [
        *('rpn_head', 'roi_head.bbox_roi_extractor', 'roi_head.mask_roi_extractor')
    ]
    assert mended(config, findings[-1]) == mended(config, findings[-1], 'other') == []


def test_what_solo_makes_of_its_maps():
    """SOLO halves the finest map, doubles the coarsest one, and assumes stride 4 for the finest."""
    neck = dict(in_channels=WIDTHS, start_level=0)
    config = load('mmdet', 'solo/solo_r50_fpn_1x_coco', neck=neck)
    (finding,) = check(config)
    assert finding.text == 'mask_head has strides 8, 8, 16, 32, 32, and its maps have 32, 32, 64, 128, 128.'
    assert finding.other == {}
    assert mended(config, finding) == []


def test_coarsest_first():
    config = load('mmdet', 'yolo/yolov3_d53_8xb8-320-273e_coco', neck=dict(in_channels=WIDTHS[::-1]))
    strides, sides = check(config)
    assert strides.text == 'bbox_head has strides 32, 16, 8, and its maps have 64, 32, 16.'
    assert (sides.level, sides.subject) == ('error', 'sides')
    assert mended(config, strides._replace(mend=merge([strides.mend, sides.mend]))) == []


@pytest.mark.parametrize(
    ('path', 'changes'),
    [
        ('rtmdet/rtmdet_tiny_8xb32-300e_coco', dict(neck=dict(in_channels=WIDTHS))),
        ('tood/tood_r50_fpn_1x_coco', dict(neck=dict(in_channels=WIDTHS, start_level=0))),
        ('gfl/gfl_r50_fpn_1x_coco', dict(neck=dict(in_channels=WIDTHS, start_level=0))),
        ('atss/atss_r50_fpn_1x_coco', dict(neck=dict(in_channels=WIDTHS, start_level=0))),
        ('reppoints/reppoints-moment_r50_fpn_1x_coco', dict(neck=dict(in_channels=WIDTHS, start_level=0))),
        ('yolof/yolof_r50-c5_8xb8-1x_coco', dict(neck=dict(in_channels=368))),
        (  # its mask head reads a map of its own
            'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance',
            dict(neck=dict(in_channels=WIDTHS, start_level=0)),
        ),
    ],
)
def test_any_head_with_strides(path, changes):
    config = load('mmdet', path, **changes)
    if 'yolof' in path:
        config.model.backbone.out_indices = (2,)
    (finding,) = check(config)
    assert (finding.level, finding.subject) == ('error', 'strides')
    assert mended(config, finding) == []
    if finding.other:
        assert mended(config, finding, 'other') == []


@pytest.mark.parametrize(
    ('path', 'changes', 'indices'),
    [
        ('dino/dino-4scale_r50_8xb2-12e_coco', dict(neck=dict(in_channels=WIDTHS)), (0, 1, 2)),
        ('detr/detr_r50_8xb2-150e_coco', dict(neck=dict(in_channels=[368])), (2,)),
        ('centernet/centernet_r18_8xb16-crop512-140e_coco', dict(neck=dict(in_channels=368)), (2,)),
    ],
)
def test_heads_without_strides_pass(path, changes, indices):
    config = load('mmdet', path, **changes)
    config.model.backbone.out_indices = indices
    assert check(config) == []


def test_pixel_decoder():
    """Mask2Former's head and pixel decoder get the strides of the maps."""
    config = load('mmdet', 'mask2former/mask2former_r50_8xb2-lsj-50e_coco')
    (finding,) = check(config)
    assert finding.text == (
        'panoptic_head expects maps of 256, 512, 1024, 2048 channels, and there are 144, 272, 368.'
    )
    head = dict(in_channels=WIDTHS, strides=[16, 32, 64], pixel_decoder=dict(strides=[16, 32, 64]))
    assert finding.mend == dict(model=dict(panoptic_head=head))
    assert mended(config, finding) == []


def test_a_neck_that_needs_multiples():
    """The stock PAFPN upsamples maps by 2: at 544 px, it would add a map of 18 to one of 17."""
    neck = dict(_delete_=True, type='YOLOXPAFPN', in_channels=WIDTHS, out_channels=256)
    config = load('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco', neck=neck)
    head = dict(anchor_generator=dict(strides=[16, 32, 64]))
    config.merge_from_dict(dict(model=dict(bbox_head=head)))
    (finding,) = check(config)
    assert (finding.level, finding.subject) == ('error', 'sides')
    assert finding.text == (
        'The neck takes sides in multiples of 64 alone, and train_dataloader makes pictures of many sizes, '
        'padded to multiples of 32.'
    )
    assert config_lines(finding.mend) == ['model = dict(data_preprocessor=dict(pad_size_divisor=64))']
    assert mended(config, finding) == []

    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        loader.dataset.pipeline[1 if loader is not config.train_dataloader else 2] = dict(
            type='Resize', scale=(640, 544), keep_ratio=False
        )
    (finding,) = check(config)
    assert 'and train_dataloader makes 544 x 640 (height x width).' in finding.text
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        loader.dataset.pipeline[1 if loader is not config.train_dataloader else 2]['scale'] = (640, 576)
    assert check(config) == []


LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
PACK = [dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]


@pytest.mark.parametrize(
    ('steps', 'sizes'),
    [
        ([dict(type='Resize', scale=(640, 480))], Sizes((480, 640))),
        ([dict(type='mmdet.Resize', scale=320, keep_ratio=False)], Sizes((320, 320))),
        ([dict(type='Resize', scale=(1333, 800), keep_ratio=True)], Sizes()),
        (
            [dict(type='Resize', scale=(1333, 800), keep_ratio=True), dict(type='Pad', size_divisor=64)],
            Sizes(None, 64),
        ),
        ([dict(type='Resize', scale=(600, 600)), dict(type='Pad', size_divisor=64)], Sizes((640, 640), 64)),
        (
            [dict(type='Resize', scale=640, keep_ratio=True), dict(type='Pad', size=(640, 640))],
            Sizes((640, 640)),
        ),
        (
            [dict(type='Resize', scale=640, keep_ratio=True), dict(type='Pad', pad_to_square=True)],
            Sizes((640, 640)),
        ),
        ([dict(type='Mosaic', img_scale=(640, 640))], Sizes(known=False)),
        (
            [
                dict(type='RandomResize', scale=(1280, 1280)),
                dict(type='RandomCrop', crop_size=(640, 640)),
                dict(type='Pad', size=(640, 640)),
            ],
            Sizes((640, 640)),
        ),
    ],
)
def test_sizes_of_a_pipeline(steps, sizes):
    assert pipeline_sizes([*LOAD, *steps, *PACK]) == sizes


def segment(path):
    """Return the findings of a stock segmentor with MobileMamba as the backbone: texts and config lines."""
    config = load('mmseg', path)
    findings = check(config)
    text = merge(finding.mend for finding in findings)
    assert mended(config, findings[0]._replace(mend=text)) == []
    return [finding.text for finding in findings], config_lines(text)


def test_segmentors():
    texts, lines = segment('fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512')
    assert texts == [
        'decode_head reads map 3 of 2048 channels, and there are 3, of 144, 272, 368.',
        'auxiliary_head reads map 2 of 1024 channels, and there are 3, of 144, 272, 368.',
    ]
    assert lines == [
        'model = dict(decode_head=dict(in_index=2, in_channels=368), '
        'auxiliary_head=dict(in_index=1, in_channels=272))'
    ]
    texts, lines = segment('upernet/upernet_r50_4xb4-80k_ade20k-512x512')
    assert texts[0] == (
        'decode_head reads maps 0, 1, 2, 3 of 256, 512, 1024, 2048 channels, '
        'and there are 3, of 144, 272, 368.'
    )
    assert 'decode_head=dict(in_index=[0, 1, 2], in_channels=[144, 272, 368])' in '\n'.join(lines)


def test_classifier():
    config = load('mmpretrain', 'resnet/resnet50_8xb32_in1k')
    config.model.backbone.out_indices = -1
    (finding,) = check(config)
    assert finding.text == 'head is built for 2048 channels, and its maps have 368.'
    assert mended(config, finding) == []


def test_models_inside_of_models():
    """Teacher and student of semi-supervised training are both found, under their own names."""
    config = load(
        'mmdet', 'retinanet/retinanet_r50_fpn_1x_coco', neck=dict(in_channels=WIDTHS, start_level=0)
    )
    detector = dict(config.model)
    detector['data_preprocessor'] = dict(type='DetDataPreprocessor')
    init_default_scope('mmdet')
    with torch.device('meta'):
        model = MODELS.build(
            dict(
                type='SemiBaseDetector',
                detector=detector,
                semi_train_cfg=dict(),
                semi_test_cfg=dict(predict_on='teacher'),
            )
        )
    parts = parts_of(model, MobileMamba)
    assert [part.path for part in parts] == ['student', 'teacher']
    assert [x.shape[2] for x in maps_of(parts[0], 512, 512)] == [32, 16, 8, 4, 2]
    assert needed_divisor(parts[1]) == 1


def test_what_cannot_be_run_is_not_refused():
    """Models whose ``extract_feat`` needs more than an image cannot be checked and are accepted."""
    config = load(
        'mmdet', 'retinanet/retinanet_r50_fpn_1x_coco', neck=dict(in_channels=WIDTHS, start_level=0)
    )
    init_default_scope('mmdet')
    model = MODELS.build(config.model)
    model.extract_feat = lambda image: image.no_such_thing
    (part,) = parts_of(model, MobileMamba)
    (finding,) = check_maps(part, config)
    assert (finding.level, finding.subject) == ('warning', 'maps')
    assert "'Tensor' object has no attribute 'no_such_thing'" in finding.text


def test_pure_python_style():
    mend = dict(custom_imports=dict(imports=['a']), model=dict(neck=dict(_delete_=True, type='DeconvFPN')))
    assert config_lines(mend, python_style=True) == [
        "custom_imports = dict(imports=['a'])",
        "model.merge(dict(neck=dict(_delete_=True, type='DeconvFPN')))",
    ]
    config = load(
        'mmdet', 'retinanet/retinanet_r50_fpn_1x_coco', neck=dict(in_channels=WIDTHS, start_level=0)
    )
    model = config.model
    model.merge(
        dict(neck=dict(_delete_=True, type='DeconvFPN', in_channels=WIDTHS, out_channels=256, num_outs=5))
    )
    assert check(config) == []
    assert 'model.merge(dict(' in refusal(check(load('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco')), True)
