"""Every task head in two processes, and synchronised batch norm."""

import copy

import pytest
import torch
from mmengine.dist import all_gather
from mmengine.model import MMDistributedDataParallel, convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..conftest import ROOT
from ..test_recipes.recipes import DETECTORS, RECIPES, SEGMENTORS, build, load
from .processes import start
from .workplace import small_config

HEADS = ['t2', *(name for name in (*DETECTORS, *SEGMENTORS) if name != 'ssdlite_512')]
STEPS = 2


def t2_config(name, out):
    """A recipe with T2 from scratch, for two steps in each process."""
    path = ROOT / 'configs' / f'{RECIPES[name]}.py'
    config = small_config(path, out / name, iterations=STEPS, processes=2)
    config.model.backbone.update(arch='t2', init_cfg=None)
    config.param_scheduler = None  # its warm-up starts near 0
    # As in tools/train.py without a GPU.
    config.update(launcher='pytorch', auto_scale_lr=None)
    config.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=False,
    )
    return config


def use_batch_norm(config):
    """Replace SyncBN in a segmentor's heads by batch norm, which also works in two processes on a CPU."""
    for head in ('decode_head', 'auxiliary_head'):
        if head in config.model:
            config.merge_from_dict({f'model.{head}.norm_cfg.type': 'BN'})


def train_every_head(rank, folder, out):
    """Two steps each; the second one would raise if a parameter was unused in the first one."""
    for name in HEADS:
        config = t2_config(name, out)
        if name in SEGMENTORS:
            use_batch_norm(config)
        runner = Runner.from_cfg(config)
        assert isinstance(runner.model, MMDistributedDataParallel)
        assert not runner.model.find_unused_parameters
        runner.train()
        assert runner.iter == STEPS, name

        trainable = [p for p in runner.model.parameters() if p.requires_grad]
        state = runner.optim_wrapper.optimizer.state
        assert all(state[p]['step'] == STEPS for p in trainable), name
        losses = all_gather(torch.tensor(runner.message_hub.get_scalar('train/loss').data[0]))
        assert all(torch.isfinite(loss).all() for loss in losses), name
        assert not torch.equal(*losses), name  # different images in each process
        first, second = all_gather(torch.cat([p.detach().flatten() for p in trainable]))
        assert torch.equal(first, second), name


def refuse_sync_bn(rank, folder, out):
    """torch has no SyncBN for CPUs and raises an error."""
    config = t2_config('pspnet', out)
    with pytest.raises(ValueError, match='SyncBatchNorm layers only work with GPU modules'):
        Runner.from_cfg(config)


@pytest.mark.slow
def test_every_head(folder, tmp_path):
    start(train_every_head, folder, tmp_path)


@pytest.mark.slow
def test_sync_bn_needs_a_gpu(folder, tmp_path):
    start(refuse_sync_bn, folder, tmp_path)


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize('name', SEGMENTORS)
def test_sync_bn_undistributed(name):
    """The recipes use SyncBN in their heads; converting it, or converting the backbone to it, keeps names."""
    model = build(load(name), 'cpu').eval()
    wanted = model.state_dict()
    synchronised, all_of_them = count(model, nn.SyncBatchNorm), count(model, _BatchNorm)
    assert 4 <= synchronised < all_of_them
    images = torch.randn(2, 3, 64, 64)
    expected = model(images)
    for change, number in ((revert_sync_batchnorm, 0), (convert_sync_batchnorm, all_of_them)):
        changed = change(copy.deepcopy(model))
        assert count(changed, nn.SyncBatchNorm) == number
        assert count(changed, _BatchNorm) == all_of_them
        found = changed.state_dict()
        assert list(found) == list(wanted)
        assert all(torch.equal(found[key], value) for key, value in wanted.items())
        torch.testing.assert_close(changed.eval()(images), expected)
