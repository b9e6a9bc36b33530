"""Small networks for every task, with random weights that produce detections."""

import logging

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmobilemamba.deployment import build
from mmmobilemamba.models.layers import SS2D

from ..conftest import ROOT
from ..helpers import ODD, randomise

CONFIGS = dict(
    classifier='mobilemamba/mobilemamba-t2_1xb64-4e_digits-64px.py',
    retinanet='retinanet/retinanet_mobilemamba-t2_fpn_2e_digits.py',
    ssdlite='ssd/ssdlite_mobilemamba-t2_224-2e_digits.py',
    mask_rcnn='mask_rcnn/mask-rcnn_mobilemamba-t2_fpn_1e_digits.py',
    deeplabv3='deeplabv3/mobilemamba-t2_deeplabv3_1xb8-1k_digits-224x224.py',
    sem_fpn='sem_fpn/mobilemamba-t2_fpn_1xb8-1k_digits-224x224.py',
    pspnet='pspnet/mobilemamba-t2_pspnet_1xb8-1k_digits-224x224.py',
)

NO_CHECKPOINT = ('mobilemamba-t2_1xb64-4e_digits-64px', 'none.pth')  # for errors before it is read


def config_of(name):
    """The config of a twin with a tiny backbone and thresholds that random scores exceed (Config)."""
    config = Config.fromfile(ROOT / 'configs' / CONFIGS[name])
    config.model.backbone.update(arch=ODD, init_cfg=None)
    if name == 'classifier':
        config.model.head.in_channels = ODD['embed_dims'][-1]
    return config


def checkpoint_of(name, folder):
    """A checkpoint of :func:`config_of` in training form, with random statistics (Path)."""
    config = config_of(name)
    init_default_scope(config.default_scope)
    torch.manual_seed(0)
    logging.disable(logging.INFO)
    try:
        model = MODELS.build(config.model)
        model.init_weights()
    finally:
        logging.disable(logging.NOTSET)
    torch.manual_seed(1)
    for key, parameter in randomise(model).named_parameters():
        if key.endswith(('retina_cls.bias', 'rpn_cls.bias')):
            torch.nn.init.zeros_(parameter)
        elif 'cls' in key and key.endswith('weight') and parameter.ndim > 1:
            # Scores exceed the thresholds, but are not all 1, which would make them ties.
            torch.nn.init.normal_(parameter, std=0.01 if 'retina' in key else 0.2)
        elif 'reg' in key and key.endswith('weight') and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    if name == 'classifier':  # few pixels, for which scans would otherwise only contribute rounding errors
        for module in model.modules():
            if isinstance(module, SS2D):
                module.D.data.mul_(0.1)
                module.out_proj.conv.weight.data.mul_(3)
    path = folder / f'{name}.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def graph_of(name, folder, **kwargs):
    """A model of mmpretrain, mmdet or mmseg, its graph, and its metadata."""
    config = config_of(name)
    model = build.load_model(config, checkpoint_of(name, folder))
    task = build.task_of(model)
    return model, build.make_graph(model, task, **kwargs).eval(), build.describe(config, task)
