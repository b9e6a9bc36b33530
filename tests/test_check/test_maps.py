"""Strides, levels, channels and sides of models of mmdet, mmseg and mmpretrain."""

import copy
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

from mmmobilemamba import MobileMamba
from mmmobilemamba.check.build import build_model
from mmmobilemamba.check.classes import check_heads as check_classes_of_heads
from mmmobilemamba.check.finding import change, config_lines, merge, nest_in
from mmmobilemamba.check.loss import initialise
from mmmobilemamba.check.maps import maps_of, needed_divisor, parts_of
from mmmobilemamba.check.rounds import check_in_rounds, check_maps
from mmmobilemamba.check.sides import Sizes, pipeline_sizes
from mmmobilemamba.check.start import refusal

from .twins import pasted

BACKBONE = dict(_delete_=True, type='MobileMamba', arch='t2', out_indices=(0, 1, 2))
WIDTHS = [144, 272, 368]
FPN = import_module('mmdet.models').FPN
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
    with torch.device('meta'):
        model = build_model(config)
    (part,) = parts_of(model, MobileMamba)
    return [finding for finding in check_maps(part, config) if finding.level != 'ok']


def mended(config, finding, way='mend'):
    """Apply the config lines of a finding and check again."""
    return check(change(config, getattr(finding, way)))


def test_widths_of_a_neck():
    config = load('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco')
    (finding,) = check(config)
    assert (finding.level, finding.subject) == ('error', 'widths')
    assert finding.text == (
        'The neck FPN expects maps of 256, 512, 1024, 2048 channels, '
        'but the backbone outputs 3 of 144, 272, 368.'
    )
    assert finding.other == {}
    assert mended(config, finding) == []


def test_a_backbone_that_gives_one_stage():
    config = load('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco', neck=dict(in_channels=WIDTHS))
    config.model.backbone.pop('out_indices')
    (finding,) = check(config)
    assert finding.text.endswith('but the backbone outputs 1 of 368.')
    assert 'backbone=dict(out_indices=(0, 1, 2))' in '\n'.join(config_lines(finding.mend))
    assert mended(config, finding) == []


@pytest.mark.parametrize(
    ('path', 'lines'),
    [
        (
            'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco',
            [
                'model = dict(',
                '    backbone=dict(out_indices=(0, 1)),',
                '    neck=dict(in_channels=(144, 272), out_channels=(144, 272, 512, 256, 256, 128)),',
                '    bbox_head=dict(in_channels=(144, 272, 512, 256, 256, 128)),',
                ')',
            ],
        ),
        (
            'detr/detr_r50_8xb2-150e_coco',
            ['model = dict(backbone=dict(out_indices=(1,)), neck=dict(in_channels=[272]))'],
        ),
        (
            'yolof/yolof_r50-c5_8xb8-1x_coco',
            ['model = dict(backbone=dict(out_indices=(1,)), neck=dict(in_channels=272))'],
        ),
    ],
)
def test_necks_of_fewer_maps(path, lines):
    config = load('mmdet', path)
    (finding,) = check(config)
    assert (finding.level, finding.subject) == ('error', 'widths')
    assert config_lines(finding.mend) == lines
    assert mended(config, finding) == []


def rounds(config, folder):
    """Check a config in rounds, paste the lines into one that inherits it, and check that in one round."""
    init_default_scope(config.default_scope)
    with torch.device('meta'):
        found = check_in_rounds(config, MobileMamba)
    assert found.runs
    lines = config_lines(merge(finding.mend for finding in found.findings))
    assert check(pasted(config, lines, folder)) == []
    return [finding.text for finding in found.findings if finding.level == 'error'], lines


def test_all_that_is_wrong_in_one_round(tmp_path):
    """Strides and sides of YOLOX can only be measured when the neck has the right channels."""
    texts, lines = rounds(load('mmdet', 'yolox/yolox_s_8xb8-300e_coco'), tmp_path)
    assert texts == [
        'The neck YOLOXPAFPN expects maps of 128, 256, 512 channels, but the backbone outputs 3 of 144, 272, '
        '368.',
        'After these fixes: bbox_head has strides 8, 16, 32, but its maps have 16, 32, 64.',
        'After these fixes: The neck only accepts image sides in multiples of 64, but batch_augments '
        'produces multiples of 32.',
    ]
    assert lines[1:3] == [
        '    neck=dict(in_channels=[144, 272, 368]),',
        '    bbox_head=dict(strides=[16, 32, 64]),',
    ]


def test_a_list_of_necks(tmp_path):
    """Libra R-CNN's FPN is the first of two necks; the line keeps the second one."""
    _, lines = rounds(load('mmdet', 'libra_rcnn/libra-retinanet_r50_fpn_1x_coco'), tmp_path)
    assert lines == [
        "custom_imports = dict(imports=['mmmobilemamba.mmdet'])",
        'model = dict(',
        "    neck=[dict(type='DeconvFPN', in_channels=[144, 272, 368], out_channels=256, "
        "add_extra_convs='on_input', num_outs=5), _base_.model.neck[1]],",
        ')',
    ]


def test_roi_heads_without_a_dense_head(tmp_path):
    """Sparse R-CNN proposes learnt boxes: its extractors alone have strides."""
    texts, lines = rounds(load('mmdet', 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco'), tmp_path)
    assert len(texts) == 1
    assert 'num_outs=5, num_extra_trans_convs=2' in '\n'.join(lines)


@pytest.mark.parametrize(
    ('path', 'lines'),
    [
        (
            'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco',
            ['bbox_head=[dict(each, num_classes=10) for each in _base_.model.roi_head.bbox_head]'],
        ),
        (
            'htc/htc-without-semantic_r50_fpn_1x_coco',
            [
                f'{name}=[dict(each, num_classes=10) for each in _base_.model.roi_head.{name}]'
                for name in ('bbox_head', 'mask_head')
            ],
        ),
        (
            'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco',
            [f'{name}=dict(num_classes=10)' for name in ('bbox_head', 'mask_head', 'point_head')],
        ),
        ('ms_rcnn/ms-rcnn_r50_fpn_1x_coco', ['mask_iou_head=dict(num_classes=10)']),
    ],
)
def test_classes_of_several_heads(path, lines, tmp_path):
    config = load('mmdet', path, neck=dict(in_channels=WIDTHS))
    init_default_scope('mmdet')
    dataset = SimpleNamespace(metainfo=dict(classes=tuple('abcdefghij')))

    def findings(config):
        with torch.device('meta'):
            return check_classes_of_heads(MODELS.build(copy.deepcopy(config.model)), dataset, config)

    found = findings(config)
    assert {finding.level for finding in found} == {'warning'}
    printed = config_lines(merge(finding.mend for finding in found))
    for line in lines:
        assert line in '\n'.join(printed)
    assert findings(pasted(config, printed, tmp_path)) == []


def test_levels():
    config = load('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco', neck=dict(in_channels=WIDTHS, num_outs=4))
    config.model.neck.start_level = 0
    (finding,) = check(config)
    assert (finding.level, finding.subject) == ('error', 'levels')
    assert (
        finding.text == 'bbox_head has strides 8, 16, 32, 64, 128, for 5 maps, but gets 4: 16, 32, 64, 128.'
    )
    assert config_lines(finding.other) == [
        'model = dict(bbox_head=dict(anchor_generator=dict(strides=[16, 32, 64, 128])))'
    ]
    assert mended(config, finding) == mended(config, finding, 'other') == []


def test_heads_of_other_channels():
    neck = dict(_delete_=True, type='DeconvFPN', in_channels=WIDTHS, out_channels=64, num_outs=5)
    config = load('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco', neck=neck)
    (finding,) = check(config)
    assert finding.text == 'bbox_head is built for 256 channels, but its maps have 64, 64, 64, 64, 64.'
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
    assert finding.text == 'mask_head has strides 8, 8, 16, 32, 32, but its maps have 32, 32, 64, 128, 128.'
    assert finding.other == {}
    assert mended(config, finding) == []


def test_coarsest_first():
    config = load('mmdet', 'yolo/yolov3_d53_8xb8-320-273e_coco', neck=dict(in_channels=WIDTHS[::-1]))
    strides, sides = check(config)
    assert strides.text == 'bbox_head has strides 32, 16, 8, but its maps have 64, 32, 16.'
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
        'panoptic_head expects maps of 256, 512, 1024, 2048 channels, but there are 144, 272, 368.'
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
        'The neck only accepts image sides in multiples of 64, but train_dataloader produces images of many '
        'sizes, padded to multiples of 32.'
    )
    assert config_lines(finding.mend) == ['model = dict(data_preprocessor=dict(pad_size_divisor=64))']
    assert mended(config, finding) == []

    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        loader.dataset.pipeline[1 if loader is not config.train_dataloader else 2] = dict(
            type='Resize', scale=(640, 544), keep_ratio=False
        )
    (finding,) = check(config)
    assert 'but train_dataloader produces 544 x 640 (height x width).' in finding.text
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        loader.dataset.pipeline[1 if loader is not config.train_dataloader else 2]['scale'] = (640, 576)
    assert check(config) == []


def test_a_neck_of_few_sides(monkeypatch):
    """A neck that takes none of the sides that are tried, such as for a stride of 256, is no error."""
    config = load(
        'mmdet', 'retinanet/retinanet_r50_fpn_1x_coco', neck=dict(in_channels=WIDTHS, start_level=0)
    )
    config.merge_from_dict(
        dict(model=dict(bbox_head=dict(anchor_generator=dict(strides=[16, 32, 64, 128, 256]))))
    )
    forward = FPN.forward

    def for_multiples(self, maps):
        assert maps[0].shape[2] % 16 == 0, 'a side that is no multiple of 256'
        return forward(self, maps)

    monkeypatch.setattr(FPN, 'forward', for_multiples)
    (finding,) = check(config)
    assert (finding.level, finding.subject) == ('warning', 'sides')
    assert finding.text.startswith('The neck accepts none of the image sides that were tried: ')


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


SEGMENTORS = {
    'fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512': (
        [
            'decode_head reads map 3 of 2048 channels, but there are 3, of 144, 272, 368.',
            'auxiliary_head reads map 2 of 1024 channels, but there are 3, of 144, 272, 368.',
        ],
        'decode_head=dict(in_index=2, in_channels=368), auxiliary_head=dict(in_index=1, in_channels=272)',
    ),
    'upernet/upernet_r50_4xb4-80k_ade20k-512x512': (
        [
            'decode_head reads maps 0, 1, 2, 3 of 256, 512, 1024, 2048 channels, '
            'but there are 3, of 144, 272, 368.',
            'auxiliary_head reads map 2 of 1024 channels, but there are 3, of 144, 272, 368.',
        ],
        'decode_head=dict(in_index=[0, 1, 2], in_channels=[144, 272, 368])',
    ),
    'deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512': (
        [
            'decode_head reads map 3 of 2048 channels and map 0 of 256, but there are 3, of 144, 272, 368.',
            'auxiliary_head reads map 2 of 1024 channels, but there are 3, of 144, 272, 368.',
        ],
        'decode_head=dict(in_index=2, in_channels=368, c1_in_channels=144)',
    ),
    'mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024': (
        [
            'decode_head reads maps 0, 1, 2 of 16, 24, 960 channels, but there are 3, of 144, 272, 368.',
            'After these fixes: decode_head (LRASPPHead) pools over 49 x 49 px of a map of stride 64, so it '
            'needs images of 3136 px, but the training uses 512 x 1024 (height x width).',
        ],
        "decode_head=dict(_delete_=True, type='SegformerHead', in_channels=[144, 272, 368], "
        'in_index=[0, 1, 2]',
    ),
    'knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512': (
        [
            'decode_head.kernel_generate_head reads maps 0, 1, 2, 3 of 256, 512, 1024, 2048 channels, but '
            'there are 3, of 144, 272, 368.',
            'auxiliary_head reads map 2 of 1024 channels, but there are 3, of 144, 272, 368.',
        ],
        'decode_head=dict(kernel_generate_head=dict(in_index=[0, 1, 2], in_channels=[144, 272, 368]))',
    ),
    'ann/ann_r50-d8_4xb4-80k_ade20k-512x512': (  # its head joins two maps, not more
        [
            'decode_head reads maps 2, 3 of 1024, 2048 channels, but there are 3, of 144, 272, 368.',
            'auxiliary_head reads map 2 of 1024 channels, but there are 3, of 144, 272, 368.',
        ],
        'decode_head=dict(in_index=[1, 2], in_channels=[272, 368])',
    ),
    'encnet/encnet_r50-d8_4xb4-80k_ade20k-512x512': (
        [
            'decode_head reads maps 1, 2, 3 of 512, 1024, 2048 channels, but there are 3, of 144, 272, 368.',
            'auxiliary_head reads map 2 of 1024 channels, but there are 3, of 144, 272, 368.',
        ],
        'decode_head=dict(in_index=[0, 1, 2], in_channels=[144, 272, 368])',
    ),
    'ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024': (  # a cascade of two heads
        [
            f'decode_head.{index} reads maps 0, 1, 2, 3 of 270 channels, but there are 3, of 144, 272, 368.'
            for index in (0, 1)
        ],
        'decode_head=[dict(each, in_index=[0, 1, 2], in_channels=[144, 272, 368]) for each in '
        '_base_.model.decode_head]',
    ),
    'point_rend/pointrend_r50_4xb4-160k_ade20k-512x512': (
        [
            'The neck FPN expects maps of 256, 512, 1024, 2048 channels, but the backbone outputs 3 of 144, '
            '272, 368.',
        ],
        'neck=dict(in_channels=[144, 272, 368])',
    ),
}


@pytest.mark.parametrize('path', SEGMENTORS)
def test_segmentors(path, tmp_path):
    expected, lines = SEGMENTORS[path]
    texts, printed = rounds(load('mmseg', path), tmp_path)
    assert texts == expected
    assert lines in ', '.join(line.strip(' ,') for line in printed)


def test_random_numbers_of_a_head():
    """SegNeXt's head draws random numbers, also where only shapes are computed."""
    config = load('mmseg', 'segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512')
    config.model.decode_head.update(in_index=[0, 1, 2], in_channels=WIDTHS)
    init_default_scope('mmseg')
    with torch.device('meta'):
        model = build_model(config)
    (part,) = parts_of(model, MobileMamba)
    state = torch.random.get_rng_state()
    assert {finding.level for finding in check_maps(part, config)} == {'ok'}
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_classifier_that_does_not_pool(tmp_path):
    """ConvNeXt pools itself, so its classifiers have no neck."""
    config = load('mmpretrain', 'convnext/convnext-tiny_32xb128_in1k')
    config.model.backbone.out_indices = -1
    texts, lines = rounds(config, tmp_path)
    assert texts == [
        'head is built for 768 channels, but its maps have 368.',
        'The head LinearClsHead expects vectors, but the backbone outputs feature maps.',
    ]
    assert lines == ["model = dict(head=dict(in_channels=368), neck=dict(type='GlobalAveragePooling'))"]


def test_classifier():
    config = load('mmpretrain', 'resnet/resnet50_8xb32_in1k')
    config.model.backbone.out_indices = -1
    (finding,) = check(config)
    assert finding.text == 'head is built for 2048 channels, but its maps have 368.'
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


def test_lists_in_pure_python_style():
    """Elements of a list are those of the variable that the config imports."""
    config = load('mmdet', 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco')
    changes = nest_in(config, 'model.roi_head.bbox_head.1.num_classes', 10)
    assert config_lines(changes, python_style=True) == [
        'model.merge(dict(',
        '    roi_head=dict(bbox_head=[model.roi_head.bbox_head[0], dict(model.roi_head.bbox_head[1], '
        'num_classes=10), model.roi_head.bbox_head[2]]),',
        '))',
    ]
    model = config.model
    exec('\n'.join(config_lines(changes, python_style=True)), dict(model=model))
    assert [head.num_classes for head in model.roi_head.bbox_head] == [80, 10, 80]


def test_stock_projects_of_other_kinds(tmp_path):
    """SCNet's semantic extractor reads the map of the semantic head; PSANet's head needs real numbers."""
    texts, _ = rounds(load('mmdet', 'scnet/scnet_r50_fpn_1x_coco'), tmp_path)
    assert len(texts) == 1 and texts[0].startswith('The neck FPN expects maps of 256, 512, 1024, 2048')
    heads = dict(
        decode_head=dict(in_index=2, in_channels=368), auxiliary_head=dict(in_index=1, in_channels=272)
    )
    config = load('mmseg', 'psanet/psanet_r50-d8_4xb4-80k_ade20k-512x512', **heads)
    init_default_scope('mmseg')
    (part,) = parts_of(build_model(config), MobileMamba)  # not on the meta device
    assert {finding.level for finding in check_maps(part, config)} == {'ok'}


def test_necks_that_insist_on_a_tuple(tmp_path):
    """FastFCN's JPU; its suggested widths are in order although all of SETR's would be equal."""
    _, lines = rounds(load('mmseg', 'fastfcn/fastfcn_r50-d32_jpu_aspp_4xb4-80k_ade20k-512x512'), tmp_path)
    assert 'neck=dict(in_channels=(144, 272, 368))' in ' '.join(lines)
    (finding,) = check(load('mmseg', 'setr/setr_vit-l-mla_8xb1-160k_ade20k-512x512'))
    assert config_lines(finding.mend) == ['model = dict(neck=dict(in_channels=[144, 272, 368]))']


@pytest.mark.parametrize('kind', ['pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes'])
def test_heads_of_other_networks(kind, tmp_path):
    """Heads that need the maps of the network of the same name."""
    texts, lines = rounds(load('mmseg', kind), tmp_path)
    assert texts[1].startswith('After these fixes: decode_head (PIDHead) fails on the maps of a 1024 x 1024')
    printed = ' '.join(lines)
    assert "type='SegformerHead', in_channels=[144, 272, 368], in_index=[0, 1, 2]" in printed
    assert 'loss_decode' not in printed  # PIDNet's are for three outputs


@pytest.mark.parametrize(
    ('path', 'name'),
    [
        ('csra/resnet101-csra_1xb16_voc07-448px', 'head'),
        ('simsiam/simsiam_resnet50_8xb32-coslr-100e_in1k', 'neck'),
    ],
)
def test_widths_of_heads_and_necks_of_mmpretrain(path, name, tmp_path):
    """Modules that keep no in_channels, or that run after extract_feat."""
    config = load('mmpretrain', path)
    config.model.backbone.pop('out_indices')
    texts, lines = rounds(config, tmp_path)
    assert texts == [f'{name} is built for 2048 channels, but its maps have 368.']
    assert lines == [f'model = dict({name}=dict(in_channels=368))']


def test_masked_image_modelling():
    config = load('mmpretrain', 'mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k')
    (finding,) = check(config)
    assert finding.text == (
        'MAE needs a backbone that masks parts of the image itself, which MobileMamba does not.'
    )


def test_models_without_a_backbone():
    config = load('mmpretrain', 'arcface/resnet50-arcface_8xb32_inshop')
    finding = build_model(config)
    assert finding.advice == (
        'ImageToImageRetriever has no backbone. Put the MobileMamba into the first element of the list '
        'image_encoder and leave backbone out.'
    )


@pytest.mark.parametrize(
    'path', ['ddq/ddq-detr-4scale_r50_8xb2-12e_coco', 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco']
)
def test_parameters_before_the_initialisation(path):
    """DDQ's branches are shared, and Sparse R-CNN's boxes arbitrary, until the weights are initialised."""
    config = load('mmdet', path)
    config.model.neck.in_channels = WIDTHS
    config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='mobilemamba://t2')
    init_default_scope('mmdet')
    model = build_model(config)
    assert initialise(model) == []
    assert model.backbone.init_cfg is None  # nothing is downloaded
    if 'ddq' in path:
        build_optim_wrapper(model, copy.deepcopy(config.optim_wrapper))
    else:
        boxes = model.rpn_head.init_proposal_bboxes.weight
        assert torch.equal(boxes, torch.tensor([[0.5, 0.5, 1, 1]]).expand(100, 4))
