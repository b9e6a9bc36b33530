"""The schedule: its formula, the authors' values, resuming, and lengths in epochs."""

import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmmobilemamba.engine import WarmupCosineLR

# The authors' learning rates at the start of epochs of 1251 iterations, for 300 and 1000 epochs.
EPOCHS = (0, 1, 19, 20, 50, 100, 200, 250, 299)
RATES = {
    300: (3e-6, 1.5285e-4, 2.850150e-3, 2.967549e-3, 2.801048e-3, 2.2575e-3, 7.725e-4, 2.28952e-4, 3.0081e-5),
    1000: (3e-6, 1.5285e-4, 2.850150e-3, 2.997070e-3, 2.981717e-3, 2.927319e-3, 2.716390e-3, 2.565054e-3,
           2.391631e-3),
}  # fmt: skip


def sgd(*rates):
    return torch.optim.SGD([dict(params=[nn.Parameter(torch.zeros(1))], lr=rate) for rate in rates], lr=1.0)


def rates_of(optimizer):
    return [group['lr'] for group in optimizer.param_groups]


def run(optimizer, scheduler, steps):
    """Learning rates of the next ``steps`` steps."""
    found = []
    for _ in range(steps):
        found.append(rates_of(optimizer))
        optimizer.step()
        scheduler.step()
    return found


def formula(step, peak, warmup, T_max, start_factor=1e-3, eta_min_ratio=1e-2):
    start, eta_min = peak * start_factor, peak * eta_min_ratio
    if step < warmup:
        return start + step * (peak - start) / warmup
    return eta_min + 0.5 * (peak - eta_min) * (1 + math.cos(math.pi * min(step, T_max) / T_max))


@pytest.mark.parametrize('factors', [{}, dict(start_factor=0.25, eta_min_ratio=0)])
@pytest.mark.parametrize(('warmup', 'T_max'), [(7, 40), (0, 40), (39, 40)])
def test_formula_in_every_group(warmup, T_max, factors):
    peaks = (3e-3, 0.5)
    optimizer = sgd(*peaks)
    scheduler = WarmupCosineLR(optimizer, warmup, T_max, by_epoch=False, **factors)
    for step, found in enumerate(run(optimizer, scheduler, T_max + 5)):
        assert found == pytest.approx([formula(step, peak, warmup, T_max, **factors) for peak in peaks])
    last = factors.get('eta_min_ratio', 1e-2)
    assert found == pytest.approx([peak * last for peak in peaks])  # constant after the end


@pytest.mark.parametrize('epochs', [300, 1000])
def test_authors_rates(epochs):
    optimizer = sgd(3e-3)
    cfg = dict(type='WarmupCosineLR', warmup=20, T_max=epochs, end=epochs, convert_to_iter_based=True)
    scheduler = PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=optimizer, epoch_length=1251))
    assert (scheduler.warmup, scheduler.T_max, scheduler.end) == (25_020, 1251 * epochs, 1251 * epochs)
    assert scheduler.begin == 0 and not scheduler.by_epoch

    def rate(step):
        scheduler.load_state_dict(dict(last_step=step - 1, _global_step=step - 1))
        optimizer.step()
        scheduler.step()
        return rates_of(optimizer)[0]

    found = [rate(1251 * epoch) for epoch in EPOCHS]
    assert found == pytest.approx(RATES[epochs], rel=2e-5, abs=5e-10)  # the precision of the table
    peak, after = rate(25_019), rate(25_020)
    assert peak == pytest.approx(2.99988e-3, rel=1e-6)
    assert after == pytest.approx({300: 2.967549e-3, 1000: 2.997070e-3}[epochs], rel=2e-7)


def test_begin_shifts_the_clock():
    """The rate is constant before ``begin`` and from ``end`` on; T_max defaults to ``end - begin``."""
    optimizer = sgd(0.1)
    scheduler = WarmupCosineLR(optimizer, 4, begin=3, end=13, by_epoch=False)
    assert scheduler.T_max == 10
    found = [rates[0] for rates in run(optimizer, scheduler, 16)]
    expected = [0.1] * 3 + [formula(step, 0.1, 4, 10) for step in range(10)]
    assert found == pytest.approx(expected + expected[-1:] * 3)


@pytest.mark.parametrize('stop', [3, 5, 6, 17])
def test_resume_is_exact(stop):
    peaks = (3e-3, 0.5)
    optimizer = sgd(*peaks)
    scheduler = WarmupCosineLR(optimizer, 6, 20, by_epoch=False)
    run(optimizer, scheduler, stop)
    states = optimizer.state_dict(), scheduler.state_dict()
    other = sgd(*peaks)
    resumed = WarmupCosineLR(other, 6, 20, by_epoch=False)
    other.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    assert run(other, resumed, 20 - stop) == run(optimizer, scheduler, 20 - stop)


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.linear(inputs).square().mean())


class Rates(Hook):
    """Records the learning rate of every step; interrupts the run after some epochs."""

    def __init__(self, stop):
        self.stop, self.found = stop, []

    def before_train_iter(self, runner, *args, **kwargs):
        self.found.append(runner.optim_wrapper.get_lr()['lr'][0])

    def after_train_epoch(self, runner):
        runner.train_loop.stop_training = runner.epoch + 1 == self.stop


def train(work_dir, stop=None, resume=False):
    """Learning rates of a Runner's training: three epochs of 4 iterations, unless it is stopped."""
    rates = Rates(stop)
    data = [dict(inputs=torch.randn(2)) for _ in range(4)]
    runner = Runner(
        Toy(),
        work_dir=str(work_dir),
        train_dataloader=DataLoader(data),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.2)),
        param_scheduler=dict(type='WarmupCosineLR', warmup=1.5, T_max=3, convert_to_iter_based=True),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        custom_hooks=[rates],
        resume=resume,
        default_scope='mmengine',
        log_level='ERROR',
        experiment_name=f'{work_dir.name}_{resume}',
    )
    runner.train()
    return rates.found


def test_runner_converts_epochs_and_resumes(tmp_path):
    whole = train(tmp_path / 'whole')
    assert whole == pytest.approx([formula(step, 0.2, 6, 12) for step in range(12)])
    assert train(tmp_path / 'parts', stop=2) == whole[:8]
    assert train(tmp_path / 'parts', resume=True) == whole[8:]


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (dict(warmup=5, T_max=5), ValueError, r'warmup is 5 and T_max 5 \(iterations\): shorten'),
        (dict(warmup=-1, T_max=5), ValueError, 'warmup must be 0 or more'),
        (
            dict(warmup='20', T_max=300),
            TypeError,
            "warmup must be a number of epochs or iterations, not '20'",
        ),
        (dict(warmup=0, T_max=True), TypeError, 'T_max must be a number'),
        (dict(warmup=0), ValueError, 'needs T_max, or an end'),
        (dict(warmup=0, T_max=5, start_factor=1.5), ValueError, 'from 0 to 1, not 1.5 and 0.01'),
        (dict(warmup=0, T_max=5, eta_min_ratio='a'), ValueError, "not 0.001 and 'a'"),
        (dict(warmup=0, T_max=5, begin=7, end=7), ValueError, 'end should be larger than begin'),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        WarmupCosineLR(sgd(0.1), by_epoch=False, **arguments)


def test_wrong_conversion():
    with pytest.raises(ValueError, match='lengths in epochs'):
        WarmupCosineLR.build_iter_from_epoch(sgd(0.1), warmup=1, T_max=9, by_epoch=False, epoch_length=4)
    with pytest.raises(ValueError, match='iterations of an epoch, not None'):
        WarmupCosineLR.build_iter_from_epoch(sgd(0.1), warmup=1, T_max=9)
