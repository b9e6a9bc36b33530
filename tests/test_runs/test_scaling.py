"""FSDP as in docs/scaling.md: the config on the page, in two processes without a GPU."""

import pytest
import torch
from mmengine.registry import MODELS, RUNNERS, init_default_scope

import mmmobilemamba  # noqa: F401  lets torch read the Runner's checkpoints

from ..conftest import ROOT
from ..helpers import needs_torch
from ..pages import blocks
from .processes import start
from .workplace import CONFIGS, small_config

SNIPPETS = [text for text in blocks(ROOT / 'docs/scaling.md', 'python') if 'FSDPStrategy' in text]
STEPS = 4
DDP = dict(
    type='DDPStrategy',
    model_wrapper=dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False),
)


def sharded_config(path, work_dir):
    """The config on the page, for two epochs of two steps, with a checkpoint."""
    config = small_config(path, work_dir, iterations=2, processes=2)
    config.train_cfg.max_epochs = 2
    config.param_scheduler = None  # its warm-up starts near 0
    config.optim_wrapper.clip_grad = dict(max_norm=1e9)  # to log norms
    config.default_hooks.checkpoint.interval = 2
    config.launcher = 'pytorch'
    return config


def train(rank, folder, out, path):
    """Train with FSDP, with DDP for comparison, and with FSDP from the checkpoint of the first run."""
    found = {}
    for name in ('fsdp', 'ddp', 'again'):
        config = sharded_config(path, out / name)
        if name == 'ddp':
            config.strategy = DDP
        if name == 'again':
            config.load_from = str(out / 'fsdp/epoch_2.pth')
            config.optim_wrapper.optimizer.lr = 0.0
        runner = RUNNERS.build(config)
        runner.train()
        assert runner.iter == STEPS
        scalars = runner.message_hub.log_scalars
        found[name] = {key: torch.tensor(scalars[f'train/{key}'].data[0]) for key in ('loss', 'grad_norm')}
        found[name]['parameters'] = sum(p.numel() for p in runner.model.parameters())
        states = runner.optim_wrapper.optimizer.state.values()
        found[name]['moments'] = sum(state['exp_avg'].numel() for state in states)
        if name == 'fsdp':
            assert 'coco/bbox_mAP' in runner.test()
            with pytest.raises(TypeError, match='unhashable'):
                runner.strategy.load_optim_state_dict(runner.strategy.optim_state_dict())
    torch.save(found, out / f'rank{rank}.pth')
    average(out, path)


def average(out, path):
    """EMA copies the model, which is impossible if it is sharded."""
    config = sharded_config(path, out / 'average')
    config.custom_hooks = [dict(type='EMAHook')]
    with pytest.raises(TypeError, match='EMAHook'):
        RUNNERS.build(config).train()


def checkpoint(folder, prefix=''):
    """The checkpoint of a run."""
    content = torch.load(folder / 'epoch_2.pth')
    assert 'optimizer' not in content
    return {key.removeprefix(prefix): value for key, value in content['state_dict'].items()}


def distance(first, second, names):
    """Euclidean distance between the parameters of two networks."""
    return sum((first[name] - second[name]).square().sum() for name in names).sqrt().item()


@pytest.mark.slow
@needs_torch('2.2')  # first version with FSDP on a CPU
def test_fsdp(folder, tmp_path):
    """Equivalent to DDP with half of the parameters in each process; checkpoints have the usual format."""
    path = tmp_path / 'mine.py'
    path.write_text(SNIPPETS[0])
    start(train, folder, tmp_path, path)

    ranks = [torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1)]
    for rank in ranks:
        torch.testing.assert_close(rank['fsdp']['loss'], rank['ddp']['loss'], rtol=1e-3, atol=0)
        for key in ('parameters', 'moments'):
            assert rank['fsdp'][key] == pytest.approx(rank['ddp'][key] / 2, rel=0.01)
    # Each process clips by the norm of its own shard.
    squares = sum(rank['fsdp']['grad_norm'][0] ** 2 for rank in ranks)
    torch.testing.assert_close(squares.sqrt(), ranks[0]['ddp']['grad_norm'][0], rtol=1e-4, atol=0)
    assert ranks[0]['fsdp']['grad_norm'][0] < 0.9 * squares.sqrt()

    config = small_config(path, tmp_path)
    init_default_scope('mmdet')
    model = MODELS.build(config.model)
    fsdp = checkpoint(tmp_path / 'fsdp')
    model.load_state_dict(fsdp)
    ddp = checkpoint(tmp_path / 'ddp', prefix='module.')
    again = checkpoint(tmp_path / 'again')
    names = [name for name, _ in model.named_parameters()]
    assert distance(fsdp, again, names) == 0
    untrained = torch.load(next(folder.glob('work_dirs/*pretrain_digits*/*.pth')))['state_dict']
    trained = distance(untrained, fsdp, untrained.keys() & set(names))
    assert trained > 1
    assert distance(fsdp, ddp, names) < 0.01 * trained


@pytest.mark.slow
def test_distilled_config(at_work, tmp_path):
    """With the key in docs/scaling.md, tests do not need the teacher."""
    path = next(path for path in CONFIGS if path.match('mobilemamba/*-kd_*digits*'))
    config = small_config(path, tmp_path)
    config.runner_type = 'FlexibleRunner'
    config.model.teacher.init_cfg.checkpoint = 'missing.pth'
    with pytest.raises(FileNotFoundError, match=r'missing\.pth'):
        RUNNERS.build(config).test()
    config.init_weights_for_test_or_val = False
    assert 'accuracy/top1' in RUNNERS.build(config).test()
