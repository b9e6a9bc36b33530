"""One training and one test iteration of every config in the Runner of its codebase."""

import math

import pytest
import torch
from mmengine.runner import Runner
from torch import nn

from .workplace import CONFIGS, STARTING_POINTS, small_config

METRICS = {
    'mmpretrain': {'accuracy/top1'},
    'mmdet': {'coco/bbox_mAP', 'coco/bbox_mAP_50'},
    'mmseg': {'aAcc', 'mIoU', 'mAcc'},
}


def watch_gradients(model):
    """Names of the trainable parameters that get a gradient, filled during the backward pass."""
    found = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda grad, name=name: found.add(name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    'path', [path for path in CONFIGS if path not in STARTING_POINTS], ids=lambda path: path.stem
)
def test_one_iteration(path, at_work, tmp_path):
    config = small_config(path, tmp_path)
    runner = Runner.from_cfg(config)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in runner.model.modules())
    trainable = {name for name, parameter in runner.model.named_parameters() if parameter.requires_grad}
    found = watch_gradients(runner.model)

    runner.train()
    assert runner.iter == 1
    scalars = runner.message_hub.log_scalars
    losses = {key: scalar.current() for key, scalar in scalars.items() if 'loss' in key}
    assert 'train/loss' in losses and all(math.isfinite(value) for value in losses.values()), losses
    assert losses['train/loss'] > 0 and scalars['train/lr'].current() > 0
    # Then DistributedDataParallel does not need find_unused_parameters.
    assert found == trainable, sorted(trainable - found)

    metrics = runner.test()
    wanted = METRICS[config.default_scope]
    if config.model.get('model_type') == 'MaskRCNN':
        wanted = wanted | {'coco/segm_mAP', 'coco/segm_mAP_50'}
    assert wanted <= set(metrics)
    assert all(0 <= metrics[key] <= 100 for key in wanted), metrics


def weights(path, work_dir, seed):
    """The weights of a network after three iterations."""
    config = small_config(path, work_dir, iterations=3)
    config.randomness = dict(seed=seed)
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 3
    return torch.cat([parameter.detach().flatten() for parameter in runner.model.parameters()])


@pytest.mark.slow
def test_same_seed_same_weights(at_work, tmp_path):
    """Initialisation, order of images, crops and drop path all depend on the seed."""
    path = next(path for path in CONFIGS if path.match('mobilemamba/mobilemamba-t2_*digits*'))
    first, second, other = (weights(path, tmp_path / name, seed) for name, seed in zip('abc', (0, 0, 1)))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
