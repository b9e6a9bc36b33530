"""182 learning rates from the authors' 13 logs against the configs, stepped by the Runner's schedulers."""

import json

import numpy as np
import pytest
from mmengine.hooks import ParamSchedulerHook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmmobilemamba.engine import WarmupCosineLR

from ..conftest import ROOT
from .recipes import CLASSIFIERS, DETECTORS, DISTILLED, SEGMENTORS, load

POINTS = json.loads((ROOT / 'tests/data/lr_points.json').read_text())['points']
# Iterations per epoch: ImageNet with batch size 1024, COCO with 16, five times COCO with 192.
EPOCH_LENGTHS = {
    **dict.fromkeys((*CLASSIFIERS, *DISTILLED), 1251),
    **dict(retinanet=7330, maskrcnn=7330, ssdlite=3054, ssdlite_512=3054),
    **dict.fromkeys(SEGMENTORS, 1),
}
HEAD, BACKBONE = 'decode_head.weight', 'backbone.weight'


class Parts(BaseModel):
    """One parameter of each kind for which a recipe sets a learning rate."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(1, 1, bias=False)
        self.decode_head = nn.Linear(1, 1, bias=False)

    def forward(self, inputs, mode='tensor'):
        raise NotImplementedError


def build_runner(name, work_dir):
    """A Runner with the optimizer wrapper and schedulers of a config, before its first iteration."""
    config = load(name)
    if config.optim_wrapper.type == 'AmpOptimWrapper':
        config.optim_wrapper.type = 'OptimWrapper'  # AmpOptimWrapper requires an accelerator
    runner = Runner(
        Parts(),
        work_dir=str(work_dir),
        train_dataloader=DataLoader(range(EPOCH_LENGTHS[name])),
        train_cfg=config.train_cfg,
        optim_wrapper=config.optim_wrapper,
        param_scheduler=config.param_scheduler,
        default_scope=config.default_scope,
        experiment_name=f'{work_dir.name}_{name}',
        log_level='ERROR',
    )
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    runner.optim_wrapper.step()
    return runner


def rates_of(runner):
    """Learning rate of each parameter of ``Parts``."""
    rates = {id(group['params'][0]): group['lr'] for group in runner.optim_wrapper.optimizer.param_groups}
    return {name: rates[id(parameter)] for name, parameter in runner.model.named_parameters()}


def step_through(runner, epoch_length):
    """Learning rate of the backbone in each iteration."""
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, ParamSchedulerHook))
    (group,) = (
        group
        for group in runner.optim_wrapper.optimizer.param_groups
        if group['params'][0] is runner.model.backbone.weight
    )
    rates = np.empty(runner.max_iters)
    for iteration in range(runner.max_iters):
        rates[iteration] = group['lr']
        hook.after_train_iter(runner, 0)
        if (iteration + 1) % epoch_length == 0:
            hook.after_train_epoch(runner)
    return rates


@pytest.fixture(scope='module')
def curve(tmp_path_factory):
    """Learning rates of all iterations by name; recipes with equal schedules are stepped once."""
    curves, work_dir = {}, tmp_path_factory.mktemp('schedules')

    def get(name):
        config = load(name)
        key = repr((config.optim_wrapper, config.param_scheduler, config.train_cfg, EPOCH_LENGTHS[name]))
        if key not in curves:
            curves[key] = step_through(build_runner(name, work_dir), EPOCH_LENGTHS[name])
        return curves[key]

    return get


def check_formula(rates, points):
    """Check ``rates`` at some iterations against the formula, to 1e-6, and against the printed values."""
    assert rates == pytest.approx([exact for _, _, exact in points], rel=1e-6)
    for rate, (_, printed, _) in zip(rates, points):
        assert printed is None or f'{rate:.6f}' == f'{printed:.6f}'


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_classification(name, curve):
    rates, points = curve(name), POINTS[name]
    assert len(rates) == 300 * 1251 and len(points) == 16
    check_formula([rates[iteration - 1] for iteration, _, _ in points], points)
    assert rates.argmax() == 25_019  # the last step of the warm-up


def jump(runner, iteration):
    """Learning rates in an iteration, counted from 1, of a schedule that only depends on the step."""
    (scheduler,) = runner.param_schedulers
    assert type(scheduler) is WarmupCosineLR
    scheduler.load_state_dict(dict(last_step=iteration - 2, _global_step=iteration - 1))
    scheduler.step()
    return rates_of(runner)


@pytest.mark.parametrize('name', DISTILLED)
def test_distillation(name, tmp_path):
    """For 1000 epochs, rates are computed directly; ``test_classification`` steps the same scheduler."""
    runner, points = build_runner(name, tmp_path), POINTS[name]
    assert runner.max_iters == 1000 * 1251 and len(points) == 11
    found = [jump(runner, iteration) for iteration, _, _ in points]
    check_formula([rates[BACKBONE] for rates in found], points)
    assert all(set(rates.values()) == {rates[BACKBONE]} for rates in found)


@pytest.mark.parametrize('name', DETECTORS)
def test_detection(name, curve):
    rates, points = curve(name), POINTS[name]
    assert len(rates) == {7330: 12, 3054: 120}[EPOCH_LENGTHS[name]] * EPOCH_LENGTHS[name]
    assert len(points) == {7330: 14, 3054: 12}[EPOCH_LENGTHS[name]]
    for epoch, iteration, length, printed in points:
        assert length == EPOCH_LENGTHS[name]
        assert f'{rates[(epoch - 1) * length + iteration - 1]:.4e}' == f'{printed:.4e}'
    peak, half = rates.max(), len(rates) // 2
    assert rates[0] == pytest.approx(1e-5 * peak) and (rates[499:half] == peak).all()


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentation(name, curve):
    rates, points = curve(name), POINTS[name]
    half = {'fpn': 80_000}.get(name, 40_000)
    assert len(rates) == 2 * half and len(points) == dict(deeplabv3=15, fpn=10, pspnet=9)[name]
    for iteration, printed in points:
        assert f'{rates[iteration - 1]:.4e}' == f'{printed:.4e}'
    start, warmup = (1e-6, 1500) if name == 'fpn' else (1e-5, 500)
    assert rates[0] == pytest.approx(start * 1.2e-4) and rates[warmup - 2] < rates[warmup - 1]
    assert rates[warmup - 1 : half + 1] == pytest.approx(np.full(half - warmup + 2, 1.2e-4), rel=1e-9)


def test_head_of_semantic_fpn_learns_ten_times_as_fast(tmp_path):
    """During the warm-up and at the peak: schedules multiply the initial rate of each group."""
    runner = build_runner('fpn', tmp_path)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, ParamSchedulerHook))
    for iteration in range(1500):
        rates = rates_of(runner)
        assert rates[HEAD] == pytest.approx(10 * rates[BACKBONE], rel=1e-9), iteration
        hook.after_train_iter(runner, 0)
    assert rates_of(runner)[HEAD] == pytest.approx(1.2e-3, rel=1e-9)


@pytest.mark.parametrize(
    'names', [CLASSIFIERS, DISTILLED, ('retinanet', 'maskrcnn'), ('ssdlite', 'ssdlite_512')]
)
def test_sizes_share_their_recipe(names):
    """Therefore, stepping one of them covers all."""
    configs = [load(name) for name in names]
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg'):
        assert all(config[key] == configs[0][key] for config in configs)
