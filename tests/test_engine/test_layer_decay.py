"""Layer-wise decay: the layer of each parameter, and learning rate and weight decay in three codebases."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmmobilemamba import MobileMamba

from ..helpers import SMALL

ARCH = dict(SMALL, depths=(1, 2, 2))
# Layer of each parameter of a backbone with these depths, by the prefix of its name; 6 is the head.
LAYERS = {
    'stem.': 0,
    'stages.0.blocks.0.': 1,
    'stages.1.downsample.': 2,
    'stages.1.blocks.0.': 2,
    'stages.1.blocks.1.': 3,
    'stages.2.downsample.': 4,
    'stages.2.blocks.0.': 4,
    'stages.2.blocks.1.': 5,
}
HEAD, RATE, LR, DECAY = 6, 0.5, 0.1, 0.05
ALL = (0, 1, 2)


def layer_of(name, prefix):
    if not name.startswith(prefix):
        return HEAD
    (layer,) = [layer for start, layer in LAYERS.items() if name[len(prefix) :].startswith(start)]
    return layer


def classifier(**backbone):
    pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    head = dict(type='LeViTClsHead', num_classes=3, in_channels=ARCH['embed_dims'][-1], distillation=False)
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='MobileMamba', arch=ARCH, **backbone),
            neck=dict(type='GlobalAveragePooling'),
            head=head,
        )
    )


def detector():
    pytest.importorskip('mmdet')
    import mmmobilemamba.models.necks  # noqa: F401

    init_default_scope('mmdet')
    neck = dict(type='DeconvFPN', in_channels=list(ARCH['embed_dims']), out_channels=8, num_outs=4)
    head = dict(type='RetinaHead', num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1)
    head['anchor_generator'] = dict(type='AnchorGenerator', ratios=[1.0], scales=[4], strides=[8, 16, 32, 64])
    backbone = dict(type='MobileMamba', arch=ARCH, out_indices=ALL)
    return MODELS.build(dict(type='RetinaNet', backbone=backbone, neck=neck, bbox_head=head))


def segmentor():
    pytest.importorskip('mmseg')
    init_default_scope('mmseg')
    head = dict(type='FCNHead', in_channels=ARCH['embed_dims'][-1], channels=8, num_convs=1, num_classes=3)
    head['norm_cfg'] = dict(type='BN')
    backbone = dict(type='MobileMamba', arch=ARCH, out_indices=ALL)
    return MODELS.build(dict(type='EncoderDecoder', backbone=backbone, decode_head=dict(head, in_index=2)))


def bare():
    return MobileMamba(ARCH)


def groups(model, constructor='LayerDecayOptimWrapperConstructor', **paramwise):
    """Learning rate and weight decay by parameter."""
    paramwise.setdefault('layer_decay_rate', RATE)
    optimizer = dict(type='AdamW', lr=LR, weight_decay=DECAY)
    cfg = dict(optimizer=optimizer, constructor=constructor, paramwise_cfg=paramwise)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in build_optim_wrapper(model, cfg).optimizer.param_groups:
        for parameter in group['params']:
            name = names.pop(id(parameter))  # occurs in one group only
            found[name] = group['lr'], group['weight_decay']
    return found


@pytest.mark.parametrize('build', [bare, classifier, detector, segmentor])
def test_every_parameter(build):
    model, prefix = build(), '' if build is bare else 'backbone.'
    found = groups(model, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0)
    assert set(found) == set(dict(model.named_parameters()))
    for name, parameter in model.named_parameters():
        decay = 0 if parameter.ndim == 1 else DECAY
        assert found[name] == (pytest.approx(LR * RATE ** (HEAD - layer_of(name, prefix))), decay), name
    rates = {rate for rate, _ in found.values()}
    assert rates == {LR * RATE**power for power in (range(1, 7) if build is bare else range(7))}
    decayed = {name.rpartition('.')[2] for name, (_, decay) in found.items() if decay}
    assert {
        'A_log',
        'dt_proj_bias',
        'dt_proj_weight',
        'x_proj_weight',
        'base_scale',
        'wavelet_scale',
    } < decayed


def test_mmpretrains_own_constructor_agrees():
    model = classifier()
    rules = dict(norm_decay_mult=0.0, custom_keys={'A_log': dict(decay_mult=0.5)})
    ours = groups(model, **rules)
    assert ours == groups(model, 'LearningRateDecayOptimWrapperConstructor', **rules)
    assert len({rate for rate, _ in ours.values()}) == 7
    assert {decay for _, decay in ours.values()} == {0, DECAY / 2, DECAY}


def test_other_keys_are_applied_on_top():
    keys = {'head': dict(lr_mult=10.0), 'A_log': dict(lr_mult=3.0, decay_mult=0.0)}
    found = groups(classifier(), custom_keys=keys, bias_lr_mult=2.0)
    assert found['head.head.linear.weight'] == (LR * 10, DECAY)
    scan = 'backbone.stages.2.blocks.0.mixer.fn.global_op.ss2d.'
    assert found[f'{scan}A_log'] == (pytest.approx(LR * 3 * RATE**2), 0)
    assert found[f'{scan}dwconv.bias'] == (pytest.approx(LR * 2 * RATE**2), DECAY)
    assert found[f'{scan}D'] == (LR * RATE**2, DECAY)


def test_frozen_stages_are_left_out():
    model = classifier(frozen_stages=1)
    found = groups(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(found) == trained and not any('stem' in name or 'stages.0' in name for name in found)
    assert found['backbone.stages.1.downsample.dw0.fn.conv.weight'] == (LR * RATE**4, DECAY)


def test_rate_one_changes_nothing():
    assert {rate for rate, _ in groups(classifier(), layer_decay_rate=1).values()} == {LR}


@pytest.mark.parametrize(('arch', 'last'), [('t2', 6), ('s6', 6), ('b1', 8)])
def test_depth_of_the_family(arch, last):
    backbone = MobileMamba(arch)
    depths = {name: backbone.get_layer_depth(name) for name, _ in backbone.named_parameters()}
    assert {number for _, number in depths.values()} == {last + 1}
    assert {layer for layer, _ in depths.values()} == set(range(last))
    assert backbone.get_layer_depth('head.weight', 'backbone.') == (last, last + 1)
    assert backbone.get_layer_depth('backbone.stem.0.conv.weight', 'backbone.') == (0, last + 1)
    last_block = f'backbone.stages.2.blocks.{len(backbone.stages[2].blocks) - 1}.dw0.fn.conv.weight'
    assert backbone.get_layer_depth(last_block, 'backbone.') == (last - 1, last + 1)


def test_stages_that_are_not_built_do_not_count():
    backbone = MobileMamba('b1', out_indices=0)
    assert backbone.get_layer_depth('stages.0.blocks.1.dw0.fn.conv.weight') == (2, 4)


@pytest.mark.parametrize('rate', [None, 0, 1.1, '0.8'])
def test_wrong_rate(rate):
    with pytest.raises(ValueError, match=r'layer_decay_rate=\.\.\.\) with a number above 0 and up to 1, not'):
        groups(bare(), layer_decay_rate=rate)


def test_wrong_key_lr_and_model():
    optimizer = dict(type='AdamW', lr=LR)
    cfg = dict(optimizer=optimizer, constructor='LayerDecayOptimWrapperConstructor')
    with pytest.raises(ValueError, match=r"not None; the other keys are \['decay_rate'\]"):
        build_optim_wrapper(bare(), dict(cfg, paramwise_cfg=dict(decay_rate=0.8)))
    cfg['paramwise_cfg'] = dict(layer_decay_rate=0.8)
    with pytest.raises(ValueError, match=r'set optimizer=dict\(lr='):
        build_optim_wrapper(bare(), dict(cfg, optimizer=dict(type='AdamW')))
    with pytest.raises(TypeError, match=r'neither Linear nor its backbone \(NoneType\) has'):
        build_optim_wrapper(nn.Linear(2, 2), cfg)
    plain = nn.Module()
    plain.backbone = nn.Conv2d(1, 1, 1)
    with pytest.raises(TypeError, match=r'neither Module nor its backbone \(Conv2d\) has'):
        build_optim_wrapper(plain, cfg)


def test_the_rates_reach_the_optimizer():
    """With SGD and equal gradients, steps are proportional to the learning rates."""
    model = classifier()
    cfg = dict(
        optimizer=dict(type='SGD', lr=LR),
        constructor='LayerDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=RATE),
    )
    wrapper = build_optim_wrapper(model, cfg)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    wrapper.step()
    for name, parameter in model.named_parameters():
        moved = (before[name] - parameter.detach()).mean().item()
        assert moved == pytest.approx(LR * RATE ** (HEAD - layer_of(name, 'backbone.')), rel=1e-3), name


def test_fsdp_keeps_the_layers():
    """FSDP wraps each sharded module, which changes the names of parameters."""

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self._fsdp_wrapped_module = module

    model = bare()
    plain = groups(model)
    for stage in model.stages:
        stage.blocks[0] = Wrapper(stage.blocks[0])
    wrapped = groups(model)
    assert set(wrapped) != set(plain)
    assert {name.replace('_fsdp_wrapped_module.', ''): value for name, value in wrapped.items()} == plain
