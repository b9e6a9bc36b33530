"""bfloat16 training of the small configs on a CPU."""

import pytest
import torch
from mmengine.runner import Runner
from torch import nn

from mmmobilemamba.models.layers import ss2d
from mmmobilemamba.ops import norm_gate

from .workplace import CONFIGS, small_config

STEPS = 20
CLASSIFIERS = [path for path in CONFIGS if path.match('mobilemamba/mobilemamba-t2_*digits*')]
TWINS = {
    'classifier': next(path for path in CLASSIFIERS if '-kd_' not in path.name),
    'RetinaNet': next(path for path in CONFIGS if path.match('retinanet/*2e_digits*')),
}


def watch_types(model, monkeypatch):
    """Sets of the output dtypes of scans and convolutions, filled during the forward pass."""
    scans, convs = set(), set()

    def gate(y, *args):  # called directly after a scan
        scans.add(y.dtype)
        return norm_gate(y, *args)

    monkeypatch.setattr(ss2d, 'norm_gate', gate)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, args, out: convs.add(out.dtype))
    return scans, convs


@pytest.mark.slow
@pytest.mark.parametrize('name', TWINS)
def test_it_trains(name, at_work, tmp_path, monkeypatch):
    """Each epoch is one batch of the same four images."""
    config = small_config(TWINS[name], tmp_path, batch_size=4)
    config.train_cfg.max_epochs = STEPS
    config.optim_wrapper.type = 'CPUAmpOptimWrapper'
    config.param_scheduler = None  # its warm-up is longer than this run
    runner = Runner.from_cfg(config)
    scans, convs = watch_types(runner.model, monkeypatch)
    runner.train()
    assert runner.iter == STEPS

    losses = torch.tensor(runner.message_hub.get_scalar('train/loss').data[0])
    assert len(losses) == STEPS and torch.isfinite(losses).all(), losses
    assert losses[-5:].mean() < 0.6 * losses[:5].mean(), losses
    assert scans == {torch.float32}
    assert torch.bfloat16 in convs
    assert {tensor.dtype for tensor in runner.model.state_dict().values()} == {torch.float32, torch.int64}
    moments = [state['exp_avg'] for state in runner.optim_wrapper.optimizer.state.values()]
    assert len(moments) == sum(parameter.requires_grad for parameter in runner.model.parameters())
    assert {moment.dtype for moment in moments} == {torch.float32}
