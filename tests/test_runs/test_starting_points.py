"""The recipes that nobody has trained: T2 learns for two iterations in each, and is tested once."""

import math

import pytest
import torch
from mmengine.runner import Runner

from . import workplace
from .workplace import STARTING_POINTS, small_config

METRICS = dict(mmdet={'coco/bbox_mAP', 'coco/bbox_mAP_50'}, mmseg={'aAcc', 'mIoU', 'mAcc'})
# Strides of the maps that the heads read.
STRIDES = dict(
    faster_rcnn=[4, 8, 16, 32, 64],
    fcos=[8, 16, 32, 64, 128],
    rtmdet=[8, 16, 32],
    yolox=[8, 16, 32],
    dino=[16, 32, 64, 128],
    upernet=[16, 32, 64],
    segformer=[16, 32, 64],
    mask2former=[8, 16, 32, 64],
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Eight training scenes and four others, as COCO and as ADE20K."""
    folder = tmp_path_factory.mktemp('data')
    workplace.make_data(folder)
    return folder


def smallest(path, work_dir):
    """T2 from scratch, on two batches of two images."""
    config = small_config(path, work_dir, iterations=2)
    config.model.backbone.update(arch='t2', init_cfg=None, norm_eval=False)
    config.param_scheduler = []  # whose warm-ups begin with almost nothing
    return config


def parts(model):
    """The name of what a parameter belongs to, by the first part of its own."""
    found = {}
    for name, parameter in model.named_parameters():
        found.setdefault(name.partition('.')[0], {})[name] = parameter
    return found


@pytest.mark.slow
@pytest.mark.parametrize('path', STARTING_POINTS, ids=lambda path: path.stem)
def test_two_iterations(path, data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    config = smallest(path, tmp_path)
    runner = Runner.from_cfg(config)
    before = {name: value.detach().clone() for name, value in runner.model.named_parameters()}
    missed = {name for name, value in runner.model.named_parameters() if value.requires_grad}
    for name, value in runner.model.named_parameters():
        value.register_hook(lambda grad, name=name: missed.discard(name))
    runner.train()
    assert runner.iter == 2
    losses = {k: v.current() for k, v in runner.message_hub.log_scalars.items() if 'loss' in k}
    assert losses['train/loss'] > 0 and all(map(math.isfinite, losses.values())), losses
    assert not missed, sorted(missed)  # as DistributedDataParallel wants it
    for part, values in parts(runner.model).items():
        moved = [name for name, value in values.items() if not torch.equal(value, before[name])]
        assert len(moved) > 0.9 * len(values), (part, sorted(set(values) - set(moved)))

    metrics = runner.test()
    wanted = METRICS[config.default_scope]
    assert wanted <= set(metrics) and all(0 <= metrics[key] <= 100 for key in wanted), metrics
