"""Small networks for every task, with random weights that produce detections."""

import copy
import functools
import logging

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmobilemamba.deployment import build
from mmmobilemamba.models.layers import SS2D

from ..conftest import ROOT
from ..helpers import SHALLOW, randomise

CONFIGS = dict(
    classifier='mobilemamba/mobilemamba-t2_1xb64-4e_digits-64px.py',
    retinanet='retinanet/retinanet_mobilemamba-t2_fpn_2e_digits.py',
    ssdlite='ssd/ssdlite_mobilemamba-t2_224-2e_digits.py',
    mask_rcnn='mask_rcnn/mask-rcnn_mobilemamba-t2_fpn_1e_digits.py',
    deeplabv3='deeplabv3/mobilemamba-t2_deeplabv3_1xb8-1k_digits-224x224.py',
    sem_fpn='sem_fpn/mobilemamba-t2_fpn_1xb8-1k_digits-224x224.py',
    pspnet='pspnet/mobilemamba-t2_pspnet_1xb8-1k_digits-224x224.py',
)

# Three levels, and no repeated convolutions; `make test-deploy` exports whole recipes.
FEWER_LAYERS = dict(
    retinanet={
        'neck.num_extra_trans_convs': 0,
        'neck.num_outs': 3,
        'bbox_head.anchor_generator.strides': [16, 32, 64],
        'bbox_head.stacked_convs': 1,
    },
    mask_rcnn={
        'backbone.out_indices': (0, 1),
        'neck.in_channels': ['stage0', 'stage1'],
        'neck.num_extra_trans_convs': 1,
        'neck.num_outs': 3,
        'rpn_head.anchor_generator.strides': [8, 16, 32],
        'roi_head.bbox_roi_extractor.featmap_strides': [8, 16, 32],
        'roi_head.mask_roi_extractor.featmap_strides': [8, 16, 32],
        'roi_head.mask_head.num_convs': 1,
    },
    sem_fpn={
        'neck.num_extra_trans_convs': 0,
        'neck.num_outs': 3,
        'decode_head.in_channels': [64, 64, 64],
        'decode_head.in_index': [0, 1, 2],
        'decode_head.feature_strides': [16, 32, 64],
    },
)
NO_CHECKPOINT = ('mobilemamba-t2_1xb64-4e_digits-64px', 'none.pth')  # for errors before it is read


@functools.cache
def read(path):
    """The config at ``path`` in configs/ (Config), not to be changed."""
    return Config.fromfile(ROOT / 'configs' / path)


def shorten(config, name):
    """Reduce a config to :data:`SHALLOW` and :data:`FEWER_LAYERS`, in place."""
    config.model.backbone.arch = SHALLOW
    config.merge_from_dict({f'model.{key}': value for key, value in FEWER_LAYERS[name].items()})


def config_of(name):
    """The config of a twin of few layers, with thresholds that random scores exceed (Config)."""
    config = copy.deepcopy(read(CONFIGS[name]))
    config.model.backbone.update(arch=SHALLOW, init_cfg=None)
    if name == 'classifier':
        config.model.head.in_channels = SHALLOW['embed_dims'][-1]
    elif name in FEWER_LAYERS:
        shorten(config, name)
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
                module.out_proj.conv.weight.data.mul_(12)
    path = folder / f'{name}.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def graph_of(name, folder, **kwargs):
    """A model of mmpretrain, mmdet or mmseg, its graph, and its metadata."""
    config = config_of(name)
    model = build.load_model(config, checkpoint_of(name, folder))
    task = build.task_of(model)
    return model, build.make_graph(model, task, **kwargs).eval(), build.describe(config, task)
