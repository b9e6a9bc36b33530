"""Metadata of exported files."""

import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmobilemamba.deployment import build
from mmmobilemamba.deployment.build import DeploymentError
from mmmobilemamba.deployment.pipeline import resize_steps
from mmmobilemamba.models.checkpoint import CheckpointError

from ..conftest import ROOT
from .networks import checkpoint_of, config_of

SAY = """
import sys
from mmmobilemamba.deployment import build
from mmmobilemamba.utils import read_config
for codebase, config in zip(sys.argv[1::2], sys.argv[2::2]):
    assert f'{codebase}.datasets' not in sys.modules
    print(build.labels_of(read_config(config))[:2])
"""
LABELS = {  # mmpretrain is last because it imports mmdet's datasets
    ('mmdet', 'retinanet/retinanet_mobilemamba-b1_fpn_1x_coco.py'): ['person', 'bicycle'],
    ('mmseg', 'pspnet/mobilemamba-b4_pspnet_4xb8-80k_ade20k-512x512.py'): ['wall', 'building'],
    ('mmpretrain', 'mobilemamba/mobilemamba-t2_8xb128_in1k.py'): [
        'tench, Tinca tinca',
        'goldfish, Carassius auratus',
    ],
}


def test_labels_of_datasets():
    """In a new process, which has not imported the codebase's datasets."""
    for codebase, _ in LABELS:
        pytest.importorskip(codebase)
    given = [text for codebase, config in LABELS for text in (codebase, str(ROOT / 'configs' / config))]
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', SAY, *given], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == list(map(str, LABELS.values()))


def test_normalisation_is_that_of_the_model():
    """As in the Runner, the model's data_preprocessor takes precedence over that of the config."""
    config = Config(
        dict(model=dict(data_preprocessor=dict(mean=[9.0] * 3)), data_preprocessor=dict(mean=[1.0] * 3))
    )
    assert build.describe(config, 'classification')['mean'] == [9.0] * 3
    del config.model['data_preprocessor']
    assert build.describe(config, 'classification')['mean'] == [1.0] * 3


def test_size_of_recipes_whose_pictures_differ():
    """A file of fixed size would not fit portrait images."""
    step = dict(type='mmdet.Resize', scale=(1333, 800), keep_ratio=True)
    about = dict(resize=resize_steps([step]), pad_divisor=32, task='detection')
    with pytest.raises(DeploymentError, match=r'up to 800 x 1333 or 1333 x 800: choose --dynamic'):
        build.input_size(about)
    assert build.input_size(about, dynamic=True) == (800, 1344)
    assert build.input_size(about, [640]) == (640, 640)
    about['resize'] = resize_steps([dict(step, scale=(500, 500))])
    assert build.input_size(about) == (512, 512)
    with pytest.raises(DeploymentError, match='31 x 31 are too small: 32 px'):
        build.input_size(about, [31])
    with pytest.raises(DeploymentError, match=r'has ResizeShortestEdge; known are Resize, ResizeEdge'):
        resize_steps([dict(type='ResizeShortestEdge')])


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('retinanet', {'test_cfg.nms.type': 'soft_nms'}, "nms asks for 'soft_nms', .* plain 'nms'"),
        ('mask_rcnn', {'test_cfg.rcnn.nms.type': 'soft_nms'}, r'test_cfg.rcnn.nms asks for'),
        ('mask_rcnn', {'test_cfg.rpn.nms.min_score': 0.1}, r'test_cfg.rpn.nms has min_score'),
        ('mask_rcnn', {'test_cfg.rcnn.mask_thr_binary': 0.4}, r'mask_thr_binary is 0.4, .* set it to that'),
        ('mask_rcnn', {'test_cfg.rpn.max_per_img': 0}, r'rpn.max_per_img is 0: set how many boxes'),
        ('sem_fpn', {'test_cfg.mode': 'tiles'}, "test_cfg.mode is 'tiles'; it must be 'whole' or 'slide'"),
        ('classifier', {'head': dict(type='MultiLabelLinearClsHead')}, 'several classes in an image'),
    ],
)
def test_what_a_graph_would_do_otherwise(name, options, message):
    config = config_of(name)
    if name == 'classifier':
        options['head'] = dict(_delete_=True, type='MultiLabelLinearClsHead', num_classes=10, in_channels=80)
    config.merge_from_dict({f'model.{key}': value for key, value in options.items()})
    init_default_scope(config.default_scope)
    model = MODELS.build(config.model)
    with pytest.raises(DeploymentError, match=message):
        build.make_graph(model, build.task_of(model))


def test_checkpoint_of_another_arch(tmp_path):
    """The message says which arch the checkpoint looks like."""
    checkpoint = checkpoint_of('classifier', tmp_path)
    config = config_of('classifier')
    config.model.backbone.arch = 't2'
    with pytest.raises(CheckpointError, match=r'(?s)does not fit this MobileMamba .*It looks like a Mob'):
        build.load_model(config, checkpoint)


def test_checkpoint_of_another_head(tmp_path):
    """The message lists only the first keys."""
    checkpoint = checkpoint_of('classifier', tmp_path)
    config = config_of('classifier')
    content = torch.load(checkpoint, weights_only=True)
    content['state_dict'].update({f'neck.layers.{index}.weight': torch.zeros(1) for index in range(99)})
    torch.save(content, checkpoint)
    message = r'(?s)does not fit this ImageClassifier; it is of another .*neck.layers.0.weight, .*\[...\]'
    with pytest.raises(CheckpointError, match=message) as error:
        build.load_model(config, checkpoint)
    assert len(str(error.value)) < 500
