"""The configs for the real datasets, resolved once, and their models."""

import copy
from functools import cache

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from ..conftest import ROOT

PIXELS = dict(t2=192, t4=192, s6=224, b1=256, b2=384, b4=512)
SUFFIXES = dict(b2='-384px', b4='-512px')
CLASSIFIERS = {arch: f'mobilemamba/mobilemamba-{arch}_8xb128_in1k{SUFFIXES.get(arch, "")}' for arch in PIXELS}
DISTILLED = {
    f'{arch}s': f'mobilemamba/mobilemamba-{arch}_8xb128-1000e-kd_in1k{SUFFIXES.get(arch, "")}'
    for arch in PIXELS
}
DETECTORS = dict(
    retinanet='retinanet/retinanet_mobilemamba-b1_fpn_1x_coco',
    maskrcnn='mask_rcnn/mask-rcnn_mobilemamba-b1_fpn_1x_coco',
    ssdlite='ssd/ssdlite_mobilemamba-b1_8xb24-320-600e_coco',
    ssdlite_512='ssd/ssdlite_mobilemamba-b1_8xb24-512-600e_coco',
)
SEGMENTORS = dict(
    deeplabv3='deeplabv3/mobilemamba-b4_deeplabv3_4xb8-80k_ade20k-512x512',
    fpn='sem_fpn/mobilemamba-b4_fpn_4xb8-160k_ade20k-512x512',
    pspnet='pspnet/mobilemamba-b4_pspnet_4xb8-80k_ade20k-512x512',
)
RECIPES = {**CLASSIFIERS, **DISTILLED, **DETECTORS, **SEGMENTORS}
CODEBASES = {
    **dict.fromkeys((*CLASSIFIERS, *DISTILLED), 'mmpretrain'),
    **dict.fromkeys(DETECTORS, 'mmdet'),
    **dict.fromkeys(SEGMENTORS, 'mmseg'),
}


@cache
def resolve(name):
    return Config.fromfile(ROOT / 'configs' / f'{RECIPES[name]}.py')


def load(name):
    """A copy of a recipe's config, with its codebase as the default scope."""
    pytest.importorskip(CODEBASES[name])
    config = copy.deepcopy(resolve(name))
    init_default_scope(CODEBASES[name])
    return config


def build(config, device='meta'):
    """The model of a config without pretrained weights; on ``'meta'``, only shapes are computed."""
    model = copy.deepcopy(config.model)
    model.backbone.init_cfg = None
    if 'data_preprocessor' in config:
        model.setdefault('data_preprocessor', config.data_preprocessor)  # as in the Runner
    with torch.device(device):
        return MODELS.build(model)


def count(module):
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
