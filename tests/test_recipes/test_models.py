"""Models of the recipes against the authors' logs: trainable parameters, levels, anchors and heads."""

import pytest
import torch
from mmengine.registry import TASK_UTILS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmobilemamba import MobileMamba
from mmmobilemamba.models.backbones.arch import stage_splits

from .recipes import CLASSIFIERS, DETECTORS, DISTILLED, PIXELS, SEGMENTORS, build, count, load

# Counted in the authors' logs, but not here: 32 constants of wavelet filters per channel of a scan.
FILTERS = 52_224  # of B1
STAGE_3 = 8_437_112  # of B1; not used by SSDLite, but built by the authors
# Trainable parameters of each part, and the authors' totals.
PARTS = dict(
    maskrcnn=(
        dict(backbone=16_620_729, neck=3_738_112, rpn_head=593_935, roi_head=16_949_985),
        37_954_985 - FILTERS,
    ),
    retinanet=(dict(backbone=16_620_729, neck=3_918_080, bbox_head=6_463_220), 27_054_253 - FILTERS),
    ssdlite=(dict(backbone=8_183_617, neck=425_536, bbox_head=922_356), 18_020_845 - FILTERS - STAGE_3),
    deeplabv3=(
        dict(backbone=16_620_729, decode_head=6_316_694, auxiliary_head=905_366),
        23_895_013 - FILTERS,
    ),
    fpn=(dict(backbone=16_620_729, neck=2_033_152, decode_head=1_052_566), 19_758_671 - FILTERS),
    pspnet=(
        dict(backbone=16_620_729, decode_head=3_891_350, auxiliary_head=905_366),
        21_469_669 - FILTERS,
    ),
)
PARTS['ssdlite_512'] = PARTS['ssdlite']
# Millions of trainable and constant parameters of the classifiers, as counted by the authors.
MILLIONS = dict(t2=(8.8067, 0.0302), t4=(14.1377, 0.0384), s6=(14.9967, 0.0399), b1=(17.0706, 0.0522))
MILLIONS.update(b2=MILLIONS['b1'], b4=MILLIONS['b1'])


def sizes(maps):
    return [tuple(x.shape[2:]) for x in maps]


def forward(model, height, width):
    """Outputs for one image, on the meta device."""
    with torch.no_grad():
        return model.eval()(torch.empty(1, 3, height, width, device='meta'), mode='tensor')


@pytest.mark.parametrize('name', [*CLASSIFIERS, *DISTILLED])
def test_classifiers_parameters(name):
    model = build(load(name))
    trainable, constant = MILLIONS[name.removesuffix('s')]
    assert round(count(model) / 1e6, 4) == trainable
    arch = model.backbone.arch
    channels = sum(stage_splits(arch, stage)[0] * arch['depths'][stage] for stage in range(3))
    assert round(32 * channels / 1e6, 4) == constant
    assert count(model.head) == 2 * arch['embed_dims'][2] + 1000 * (arch['embed_dims'][2] + 1)
    pixels = PIXELS[name.removesuffix('s')]
    assert forward(model, pixels, pixels).shape == (1, 1000)


def test_head_starts_as_the_authors_does():
    """Truncated normal with a standard deviation of 0.02, zero bias, default batch norm."""
    head = build(load('b1'), device='cpu').head
    head.init_weights()
    linear, norm = head.head.linear, head.head.bn
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert linear.weight.mean().item() == pytest.approx(0, abs=2e-4)
    assert not linear.bias.any() and not norm.bias.any() and (norm.weight == 1).all()


def test_b1_classifier_has_17070625_parameters():
    assert count(build(load('b1'))) == 16_620_729 + 449_896 == 17_070_625


@pytest.mark.parametrize('name', [*DETECTORS, *SEGMENTORS])
def test_downstream_parameters(name):
    model = build(load(name))
    parts, total = PARTS[name]
    found = {part: count(module) for part, module in model.named_children() if count(module)}
    assert found == parts
    assert count(model) == total == sum(p.numel() for p in model.parameters())


def test_ssdlite_has_no_third_stage():
    """The authors' 18,020,845 parameters include stage 3, which gets no gradients and would stop DDP."""
    with torch.device('meta'):
        assert count(MobileMamba('b1').stages[2]) == STAGE_3
    assert len(build(load('ssdlite')).backbone.stages) == 2
    assert PARTS['ssdlite'][1] == 9_531_509


@pytest.mark.parametrize(
    ('name', 'strides', 'modules'),
    [
        ('retinanet', [8, 16, 32, 64, 128], dict(lateral=3, fpn=4, extra_trans=1, extra_fpn=1)),
        ('maskrcnn', [4, 8, 16, 32, 64], dict(lateral=3, fpn=3, extra_trans=2, extra_fpn=2)),
    ],
)
def test_levels_of_detectors(name, strides, modules):
    """Finest first, with the authors' names; 256 channels, without norm and activation."""
    neck = build(load(name)).neck.eval()
    with torch.no_grad():
        channels = zip((16, 32, 64), (200, 376, 448))
        outs = neck(
            [torch.empty(1, c, 768 // stride, 1280 // stride, device='meta') for stride, c in channels]
        )
    assert [tuple(out.shape) for out in outs] == [(1, 256, 768 // s, 1280 // s) for s in strides]
    names = {
        f'{kind}_convs.{index}.conv.{tensor}'
        for kind, number in modules.items()
        for index in range(number)
        for tensor in ('weight', 'bias')
    }
    assert set(neck.state_dict()) == names
    assert neck.init_cfg == dict(type='Xavier', layer='Conv2d', distribution='uniform')
    transposed = [module for module in neck.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert all((m.kernel_size, m.stride) == ((2, 2), (2, 2)) for m in transposed)
    assert len(transposed) == modules['extra_trans']


def test_coarsest_level_of_retinanet_reads_the_backbone():
    conv = build(load('retinanet')).neck.fpn_convs[3].conv
    assert (conv.in_channels, conv.out_channels) == (448, 256)
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (2, 2), (1, 1))


def test_retinanet_head():
    model = build(load('retinanet'))
    head = model.bbox_head
    assert (head.num_classes, head.num_anchors, head.stacked_convs, head.feat_channels) == (80, 9, 4, 256)
    assert (head.loss_cls.alpha, head.loss_cls.gamma, head.loss_cls.loss_weight) == (0.25, 2.0, 1.0)
    assert type(head.loss_cls).__name__ == 'FocalLoss' and head.loss_cls.use_sigmoid
    assert type(head.loss_bbox).__name__ == 'L1Loss' and head.loss_bbox.loss_weight == 1.0
    assert (head.assigner.pos_iou_thr, head.assigner.neg_iou_thr, head.assigner.min_pos_iou) == (0.5, 0.4, 0)
    assert type(head.sampler).__name__ == 'PseudoSampler'
    assert tuple(head.bbox_coder.stds) == (1, 1, 1, 1)
    test = model.test_cfg
    assert (test.nms_pre, test.score_thr, test.max_per_img) == (1000, 0.05, 100)
    assert test.nms == dict(type='nms', iou_threshold=0.5)
    classes, boxes = forward(model, 128, 192)
    assert sizes(classes) == sizes(boxes) == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    assert {x.shape[1] for x in classes} == {720} and {x.shape[1] for x in boxes} == {36}


def anchors(name, head):
    """The anchor generator of a recipe, and width and height of its anchors by level."""
    generator = TASK_UTILS.build(load(name).model[head].anchor_generator)
    return generator, [base[:, 2:] - base[:, :2] for base in generator.base_anchors]


def test_retinanet_anchors():
    generator, levels = anchors('retinanet', 'bbox_head')
    assert generator.strides == [(s, s) for s in (8, 16, 32, 64, 128)]
    for (stride, _), shapes in zip(generator.strides, levels):
        areas = sorted((4 * stride * 2 ** (octave / 3)) ** 2 for octave in range(3) for _ in range(3))
        assert sorted(shapes.prod(1).tolist()) == pytest.approx(areas, rel=1e-4)
        ratios = sorted([0.5, 1.0, 2.0] * 3)
        assert sorted((shapes[:, 1] / shapes[:, 0]).tolist()) == pytest.approx(ratios, rel=1e-4)


def test_rpn():
    model = build(load('maskrcnn'))
    generator, levels = anchors('maskrcnn', 'rpn_head')
    assert generator.strides == [(s, s) for s in (4, 8, 16, 32, 64)]
    for (stride, _), shapes in zip(generator.strides, levels):
        assert shapes.prod(1).tolist() == pytest.approx([(8 * stride) ** 2] * 3, rel=1e-4)
        assert (shapes[:, 1] / shapes[:, 0]).tolist() == pytest.approx([0.5, 1, 2], rel=1e-4)
    head = model.rpn_head
    assert (head.in_channels, head.feat_channels) == (256, 256)
    assert head.loss_cls.use_sigmoid and type(head.loss_bbox).__name__ == 'L1Loss'
    assigner, sampler = head.assigner, head.sampler
    assert (assigner.pos_iou_thr, assigner.neg_iou_thr, assigner.min_pos_iou) == (0.7, 0.3, 0.3)
    assert (sampler.num, sampler.pos_fraction) == (256, 0.5)
    proposals = (model.train_cfg.rpn_proposal, model.test_cfg.rpn)
    assert [(p.nms_pre, p.max_per_img, p.nms.iou_threshold) for p in proposals] == [
        (2000, 1000, 0.7),
        (1000, 1000, 0.7),
    ]
    with torch.no_grad():
        maps = model.eval().extract_feat(torch.empty(1, 3, 128, 192, device='meta'))
        scores, _ = head(maps)
    assert sizes(scores) == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]


def test_roi_heads():
    model = build(load('maskrcnn'))
    roi = model.roi_head
    for extractor, size in ((roi.bbox_roi_extractor, 7), (roi.mask_roi_extractor, 14)):
        assert extractor.featmap_strides == [4, 8, 16, 32]
        layers = {(layer.output_size, layer.sampling_ratio) for layer in extractor.roi_layers}
        assert layers == {((size, size), 0)}
    box, mask = roi.bbox_head, roi.mask_head
    assert [fc.out_features for fc in box.shared_fcs] == [1024, 1024]
    assert (box.fc_cls.out_features, box.fc_reg.out_features) == (81, 4 * 80)  # class-specific boxes
    assert type(box.loss_bbox).__name__ == 'L1Loss' and tuple(box.bbox_coder.stds) == (0.1, 0.1, 0.2, 0.2)
    assert [conv.conv.out_channels for conv in mask.convs] == [256] * 4
    assert mask.conv_logits.out_channels == 80
    assigner, sampler, train = roi.bbox_assigner, roi.bbox_sampler, model.train_cfg.rcnn
    assert (assigner.pos_iou_thr, assigner.neg_iou_thr, assigner.min_pos_iou) == (0.5, 0.5, 0.5)
    assert assigner.match_low_quality is True
    assert (sampler.num, sampler.pos_fraction, sampler.add_gt_as_proposals) == (512, 0.25, True)
    assert train.mask_size == 28
    test = model.test_cfg.rcnn
    assert (test.score_thr, test.max_per_img, test.mask_thr_binary) == (0.05, 100, 0.5)
    assert test.nms == dict(type='nms', iou_threshold=0.5)


@pytest.mark.parametrize(
    ('name', 'levels'), [('ssdlite', (20, 10, 5, 3, 2, 1)), ('ssdlite_512', (32, 16, 8, 4, 2, 1))]
)
def test_ssdlite(name, levels):
    """The recipes for 320 and 512 px have the same network and anchors, which are designed for 320 px."""
    model = build(load(name))
    widths = (200, 376, 512, 256, 256, 128)
    size = 320 if name == 'ssdlite' else 512
    with torch.no_grad():
        maps = model.eval().extract_feat(torch.empty(1, 3, size, size, device='meta'))
    assert [tuple(x.shape) for x in maps] == [(1, c, s, s) for c, s in zip(widths, levels)]
    classes, boxes = forward(model, size, size)
    assert {x.shape[1] for x in classes} == {6 * 81} and {x.shape[1] for x in boxes} == {6 * 4}

    generator, shapes = anchors(name, 'bbox_head')
    assert generator.strides == [(s, s) for s in (16, 32, 64, 107, 160, 320)]
    assert len(torch.cat(generator.grid_priors([(s, s) for s in levels], device='cpu'))) == (
        3234 if size == 320 else 8190
    )
    low, high = (48, 100, 150, 202, 253, 304), (100, 150, 202, 253, 304, 320)
    for small, large, found in zip(low, high, shapes):
        expected = [(small, small), ((small * large) ** 0.5,) * 2]
        expected += [(small * w**0.5, small / w**0.5) for w in (2, 1 / 2, 3, 1 / 3)]
        assert sorted(found.tolist()) == [pytest.approx(x, rel=1e-4) for x in sorted(map(list, expected))]


def test_ssdlite_layers():
    model = build(load('ssdlite'))
    neck, head = model.neck, model.bbox_head
    assert not hasattr(neck, 'l2_norm') and len(neck.extra_layers) == 4
    for module in (neck, head):
        norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}
        acts = {type(m) for m in module.modules() if 'ReLU' in type(m).__name__}
        assert acts == {nn.ReLU6}
        kernels = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert kernels and all(m.groups == m.in_channels for m in kernels)
    strided = [m for m in neck.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert {(m.stride, m.padding) for m in strided} == {((2, 2), (1, 1))}
    assert neck.init_cfg == dict(type='TruncNormal', layer='Conv2d', std=0.03)
    assert head.init_cfg == dict(type='Normal', layer='Conv2d', std=0.001)
    assert (head.num_classes, tuple(head.bbox_coder.stds)) == (80, (0.1, 0.1, 0.2, 0.2))
    assigner, train, test = head.assigner, model.train_cfg, model.test_cfg
    assert (assigner.pos_iou_thr, assigner.neg_iou_thr, assigner.min_pos_iou) == (0.5, 0.5, 0)
    assert assigner.gt_max_assign_all is False and type(head.sampler).__name__ == 'PseudoSampler'
    assert (train.smoothl1_beta, train.neg_pos_ratio) == (1, 3)
    assert (test.nms_pre, test.nms.iou_threshold) == (1000, 0.45)
    assert (test.score_thr, test.max_per_img) == (0.02, 200)


def synchronized(head):
    """Whether there are batch norms and all of them are synchronised."""
    norms = [module for module in head.modules() if isinstance(module, _BatchNorm)]
    return bool(norms) and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentors_heads(name):
    """SyncBN, dropout 0.1, 150 classes, and cross entropy with weight 1 (0.4 in auxiliary heads)."""
    model = build(load(name))
    head = model.decode_head
    assert (head.num_classes, head.dropout_ratio, head.align_corners) == (150, 0.1, False)
    assert head.loss_decode.loss_weight == 1.0 and head.ignore_index == 255
    assert synchronized(head)
    stride = 16 if name == 'fpn' else 64
    assert forward(model, 512, 512).shape == (1, 150, 512 // stride, 512 // stride)
    if name == 'fpn':
        assert not model.with_auxiliary_head
        return
    assert (head.in_channels, head.in_index, head.channels) == (448, 2, 256)
    aux = model.auxiliary_head
    assert (aux.in_channels, aux.in_index, aux.channels, aux.num_convs) == (376, 1, 256, 1)
    assert (aux.num_classes, aux.concat_input, aux.loss_decode.loss_weight) == (150, False, 0.4)
    assert synchronized(aux)


def test_context_of_segmentors():
    """Dilations of DeepLabv3, pooling scales of PSPNet, levels of Semantic FPN."""
    aspp = build(load('deeplabv3')).decode_head
    assert [branch.conv.dilation[0] for branch in aspp.aspp_modules] == [1, 12, 24, 36]
    assert build(load('pspnet')).decode_head.pool_scales == (1, 2, 3, 6)
    model = build(load('fpn'))
    assert type(model.neck).__name__ == 'FPN' and set(model.neck.state_dict()) == {
        f'{kind}_convs.{index}.conv.{tensor}'
        for kind in ('lateral', 'fpn')
        for index in range(3)
        for tensor in ('weight', 'bias')
    }
    head = model.decode_head
    assert (head.feature_strides, head.in_index, head.channels) == ([16, 32, 64], [0, 1, 2], 128)
    assert head.in_channels == [256, 256, 256] and len(head.scale_heads) == 3


@pytest.mark.parametrize('name', [*DETECTORS, *SEGMENTORS])
def test_preprocessors(name):
    preprocessor = build(load(name), device='cpu').data_preprocessor
    assert preprocessor.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert preprocessor.std.flatten().tolist() == pytest.approx([58.395, 57.12, 57.375])
    if name in SEGMENTORS:
        assert (preprocessor.size, preprocessor.pad_val, preprocessor.seg_pad_val) == ((512, 512), 0, 255)
        assert preprocessor.test_cfg is None
    else:
        assert preprocessor.pad_size_divisor == (1 if name.startswith('ssd') else 32)
        assert preprocessor.pad_mask is (name == 'maskrcnn')
