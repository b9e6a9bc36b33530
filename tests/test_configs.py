"""Every config: resolved, built, and fit for its recipe."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmmobilemamba import MobileMamba

from .conftest import ROOT

CONFIGS = sorted(path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts)
RETINANET = ROOT / 'configs/retinanet/retinanet_mobilemamba-b1_fpn_1x_coco.py'
DIGITS = ROOT / 'configs/retinanet/retinanet_mobilemamba-t2_fpn_5e_digits.py'


def build(path):
    """The model of a config, without its pretrained weights."""
    config = Config.fromfile(path)
    init_default_scope('mmdet')
    config.model.backbone.init_cfg = None
    return config, MODELS.build(config.model)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config(path):
    config, model = build(path)
    assert 'ResNet' not in config.pretty_text and 'resnet' not in config.pretty_text
    assert 'mmmobilemamba' in config.custom_imports['imports']
    assert not config.custom_imports['allow_failed_imports']
    assert isinstance(model.backbone, MobileMamba)
    assert tuple(model.neck.in_channels) == model.backbone.out_channels
    model.init_weights()
    with torch.no_grad():
        classes, boxes = model.eval()(torch.rand(1, 3, 128, 192), mode='tensor')
    sizes = [(-(-128 // stride), -(-192 // stride)) for stride in (8, 16, 32, 64, 128)]
    assert [tuple(x.shape[2:]) for x in classes] == [tuple(x.shape[2:]) for x in boxes] == sizes


def test_retinanet_has_the_authors_parameters():
    """27,054,253 in the authors' log, with 52,224 constant wavelet filters; recipes of the authors."""
    config, model = build(RETINANET)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts['neck'] == 3_918_080
    assert counts['bbox_head'] == 6_463_220
    assert sum(counts.values()) == 27_054_253 - 52_224
    assert config.train_dataloader.batch_size == 4
    assert config.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert model.backbone.norm_eval and model.backbone.frozen_stages == -1


def test_retinanet_decays_all_but_the_scan_norms():
    config, model = build(RETINANET)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    assert wrapper.clip_grad_kwargs == dict(max_norm=0.1, norm_type=2)
    assert type(wrapper.optimizer) is torch.optim.AdamW
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    assert all(group['lr'] == 2e-4 and group['betas'] == (0.9, 0.999) for group in groups)
    plain = [names[id(p)] for group in groups if group['weight_decay'] == 0 for p in group['params']]
    assert len(plain) == 14
    assert all('.ss2d.out_norm.' in name for name in plain)
    assert {group['weight_decay'] for group in groups} == {0, 0.05}


def test_digits_twin_inherits_the_recipe():
    parent, twin = Config.fromfile(RETINANET), Config.fromfile(DIGITS)
    assert twin.model.backbone.arch == 't2' and twin.model.backbone.init_cfg is None
    assert twin.model.neck.type == parent.model.neck.type == 'DeconvFPN'
    assert twin.optim_wrapper.paramwise_cfg == parent.optim_wrapper.paramwise_cfg
    assert twin.optim_wrapper.clip_grad == parent.optim_wrapper.clip_grad
    assert twin.model.bbox_head.num_classes == len(twin.metainfo.classes) == 10
    for loader in (twin.train_dataloader, twin.val_dataloader, twin.test_dataloader):
        assert loader.dataset.data_root == 'data/digits_scenes/coco/'
        assert loader.dataset.metainfo == twin.metainfo
    assert not any('Flip' in step['type'] for step in twin.train_dataloader.dataset.pipeline)
