"""States of stock schedulers, optimizers and averages can be loaded from a checkpoint and resumed."""

from importlib import import_module

import mmengine.registry
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import OneCycleLR, OptimWrapper, OptimWrapperDict
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import Runner
from torch import nn

from .test_compat import Line, allowed, assert_same, needs_list  # noqa: F401
from .test_compat_safety import Call, refusal, saved

ROOT = {
    'Constant': dict(factor=0.5),
    'CosineAnnealing': dict(T_max=6),
    'CosineRestart': dict(periods=[3, 3], restart_weights=[1, 0.5], eta_min=0),
    'Exponential': dict(gamma=0.9),
    'Linear': dict(start_factor=0.2),
    'MultiStep': dict(milestones=[2, 4], gamma=0.5),
    'Poly': dict(power=2, end=9),
    'ReduceOnPlateau': dict(monitor='loss', patience=0),
    'Step': dict(step_size=2, gamma=0.5),
}
# By registry; each name occurs once for every parameter that it can schedule.
SCHEDULERS = {
    'mmengine': {
        **{name + kind: cfg for name, cfg in ROOT.items() for kind in ('LR', 'Momentum')},
        **{f'{name}ParamScheduler': dict(cfg, param_name='lr') for name, cfg in ROOT.items()},
        'OneCycleLR': dict(eta_max=0.3, total_steps=8),
        'OneCycleParamScheduler': dict(param_name='lr', eta_max=0.3, total_steps=8, anneal_strategy='linear'),
        'WarmupCosineLR': dict(warmup=2, T_max=8),
    },
    'mmpretrain': {'CosineAnnealingWeightDecay': dict(T_max=6)},
    'mmdet': {
        'QuadraticWarmupLR': dict(end=6),
        'QuadraticWarmupMomentum': dict(end=6),
        'QuadraticWarmupParamScheduler': dict(param_name='lr', end=6),
    },
    'mmseg': {'PolyLRRatio': dict(eta_min_ratio=0.1, power=2, end=9)},
}


def registry_of(codebase, name):
    """A registry of a codebase, with all modules registered."""
    if codebase == 'mmengine':
        return getattr(mmengine.registry, name)
    pytest.importorskip(codebase)
    import_module(f'{codebase}.engine')
    import_module(f'{codebase}.models')
    return getattr(import_module(f'{codebase}.registry'), name)


def read_back(state):
    """Load as torch.load does by default since 2.6; before, mmengine loaded everything."""
    return torch.load(saved(state), weights_only=hasattr(torch.serialization, 'add_safe_globals'))


def wrapper():
    parameters = [dict(params=[nn.Parameter(torch.ones(2))], lr=lr) for lr in (0.1, 0.01)]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.05)
    return OptimWrapper(optimizer)


def steps(optim_wrapper, scheduler, count):
    """Values set by a scheduler in the next steps, with a metric that gets worse."""
    found = []
    for step in range(count):
        optim_wrapper.step()
        if getattr(scheduler, 'need_val_args', False):
            scheduler.step(dict(loss=np.float64(1 + step)))
        else:
            scheduler.step()
        found.append([group[scheduler.param_name] for group in optim_wrapper.param_groups])
    return found


@pytest.mark.parametrize(
    ('codebase', 'name'), [(codebase, name) for codebase, cfgs in SCHEDULERS.items() for name in cfgs]
)
def test_schedulers_resume(codebase, name):
    kind = registry_of(codebase, 'PARAM_SCHEDULERS').module_dict[name]
    cfg = SCHEDULERS[codebase][name]
    one = wrapper()
    scheduler = kind(optimizer=one, **cfg)
    steps(one, scheduler, 2)
    states = read_back(dict(optimizer=one.state_dict(), scheduler=scheduler.state_dict()))
    other = wrapper()
    resumed = kind(optimizer=other, **cfg)
    other.load_state_dict(states['optimizer'])
    resumed.load_state_dict(states['scheduler'])
    expected = steps(one, scheduler, 4)
    assert steps(other, resumed, 4) == expected
    assert len({tuple(values) for values in expected}) > 1 or name.startswith('Constant')


@pytest.mark.parametrize('codebase', SCHEDULERS)
def test_every_scheduler_is_tested(codebase):
    registry = registry_of(codebase, 'PARAM_SCHEDULERS')
    assert set(registry.module_dict) - {'_ParamScheduler'} == set(SCHEDULERS[codebase])


# Only for certain gradients, or with special arguments; `Optimizer` is the base class.
SPECIAL = {'LBFGS', 'Muon', 'Optimizer', 'SparseAdam', 'ZeroRedundancyOptimizer'}


@pytest.mark.parametrize('codebase', ['mmengine', 'mmpretrain'])
def test_optimizers_resume(codebase):
    """For every optimizer, in an optimizer wrapper, the next step after resuming is the same."""
    optimizers = registry_of(codebase, 'OPTIMIZERS').module_dict
    assert {'AdamW', 'SGD', 'RAdam'} <= set(optimizers) or {'Lamb', 'LARS', 'Adan'} <= set(optimizers)
    for name in sorted(set(optimizers) - SPECIAL):
        weights = [nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
        kwargs = dict(lr=0.1) if name in ('LARS', 'SGD') else {}
        one, other = (OptimWrapper(optimizers[name]([weight], **kwargs)) for weight in weights)

        def step(optim_wrapper, weight):
            optim_wrapper.update_params((weight * torch.arange(6.0).reshape(3, 2)).square().sum())

        for _ in range(2):
            step(one, weights[0])
        weights[1].data.copy_(weights[0])
        other.load_state_dict(read_back(one.state_dict()))
        for weight, optim_wrapper in zip(weights, (one, other)):
            step(optim_wrapper, weight)
        assert torch.equal(*weights), name
        assert not torch.equal(weights[0], torch.ones(3, 2)), name


def test_several_optimizers_resume():
    """With two wrappers, one of which accumulates gradients."""

    def build():
        pair = [torch.optim.AdamW([nn.Parameter(torch.ones(2))], lr=lr) for lr in (0.1, 0.2)]
        return OptimWrapperDict(a=OptimWrapper(pair[0], accumulative_counts=2), b=OptimWrapper(pair[1]))

    one, other = build(), build()
    for optim_wrapper in one.values():
        optim_wrapper.update_params((optim_wrapper.param_groups[0]['params'][0] ** 2).sum())
    other.load_state_dict(read_back(one.state_dict()))
    assert_same(other.state_dict(), one.state_dict())
    assert one.state_dict()['b']['state'][0]['step'] == 1


@pytest.mark.parametrize(
    ('codebase', 'name', 'kwargs'),
    [
        ('mmengine', 'ExponentialMovingAverage', {}),
        ('mmengine', 'StochasticWeightAverage', {}),
        ('mmengine', 'MomentumAnnealingEMA', dict(gamma=5)),
        ('mmdet', 'ExpMomentumEMA', dict(momentum=0.1)),
    ],
)
def test_averages_resume(codebase, name, kwargs):
    kind = registry_of(codebase, 'MODELS').module_dict[name]
    model = nn.Linear(2, 1)
    one, other = (kind(model, update_buffers=True, **kwargs) for _ in range(2))
    for value in (1.0, 2.0, 4.0):
        nn.init.constant_(model.weight, value)
        one.update_parameters(model)
    other.load_state_dict(read_back(one.state_dict()))
    nn.init.zeros_(model.weight)
    for average in (one, other):
        average.update_parameters(model)
    assert other.steps == 4
    assert_same(dict(other.module.state_dict()), dict(one.module.state_dict()))
    assert other.module.weight[0, 0] not in (0, 1, 4)


@needs_list
@pytest.mark.parametrize('strategy', ['cos', 'linear'])
def test_the_annealing_is_that_of_the_class(strategy):
    scheduler = OneCycleLR(wrapper(), eta_max=0.3, total_steps=8, anneal_strategy=strategy)
    found = read_back(scheduler.state_dict())['anneal_func']
    assert found is getattr(OneCycleParamScheduler, f'_annealing_{strategy}')


@needs_list
def test_nested_metainfo_comes_back_as_plain_dicts():
    """For the ``metainfo`` of a config whose entries are dicts."""
    metainfo = Config(dict(metainfo=dict(classes=('a', 'b'), shapes=[dict(round=True)]))).metainfo
    loaded = read_back(dict(dataset_meta=metainfo))['dataset_meta']
    assert loaded == dict(classes=('a', 'b'), shapes=[dict(round=True)])
    assert type(loaded) is dict and type(loaded['shapes'][0]) is dict


@needs_list
@pytest.mark.parametrize(
    'content',
    [
        Call(OneCycleParamScheduler),
        Call(OneCycleParamScheduler, 1, 'lr'),
        Call(ConfigDict),
        Call(ConfigDict, [('a', 1)]),
        Call(ConfigDict, {}, {}),
        Call(getattr, OneCycleParamScheduler, '__init__'),
        Call(getattr, OneCycleParamScheduler, 'step'),
        Call(getattr, OneCycleParamScheduler, 'mean'),
        Call(getattr, ConfigDict, '__init__'),
    ],
)
def test_stand_ins_build_nothing_else(content):
    assert 'The file ' in refusal(content)


@needs_list
def test_annealing_is_named_and_not_called():
    method = Call(getattr, OneCycleParamScheduler, '_annealing_cos')
    assert 'unrecognized function' in refusal(Call(OneCycleParamScheduler._annealing_cos, 0, 1, 0.5))
    assert "'__globals__'" in refusal(Call(getattr, method, '__globals__'))


def run(work_dir, epochs, **kwargs):
    """Train with OneCycleLR and ReduceOnPlateauLR, two iterations per epoch; returns the learning rates."""
    data = [dict(x=torch.tensor([i / 4]), y=torch.tensor([1.0])) for i in range(4)]
    runner = Runner(
        model=Line(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=data,
            batch_size=2,
            sampler=dict(type='DefaultSampler'),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        param_scheduler=dict(type='OneCycleLR', eta_max=0.1, total_steps=8, end=8, by_epoch=False),
        default_scope='mmengine',
        experiment_name=f'states_{work_dir.name}_{epochs}_{len(kwargs)}',
        log_level='ERROR',
        **kwargs,
    )
    runner.train()
    return runner.message_hub.get_scalar('train/lr').data[0].tolist()


def test_a_runner_resumes_under_one_cycle(tmp_path):
    whole = run(tmp_path / 'whole', 4)
    first = run(tmp_path / 'parts', 2)
    assert first == whole[:4]
    assert run(tmp_path / 'parts', 4, resume=True) == whole  # the log continues as well
