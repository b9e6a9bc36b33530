"""Optimisation: weight decay, learning rates, clipping, precision, EMA, and validation epochs."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from .recipes import CLASSIFIERS, CODEBASES, DETECTORS, DISTILLED, RECIPES, SEGMENTORS, build, count, load

# Peak learning rate, maximum gradient norm, batch size and number of GPUs.
PEAKS = {
    **dict.fromkeys((*CLASSIFIERS, *DISTILLED), 3e-3),
    **dict(retinanet=2e-4, maskrcnn=2e-4, ssdlite=2.4e-3, ssdlite_512=2.4e-3),
    **dict.fromkeys(SEGMENTORS, 1.2e-4),
}
CLIPS = {name: 5.0 if CODEBASES[name] == 'mmpretrain' else 0.1 for name in RECIPES}
CLIPS['fpn'] = None
BATCHES = {
    **dict.fromkeys((*CLASSIFIERS, *DISTILLED), (8, 128)),
    **dict(retinanet=(4, 4), maskrcnn=(4, 4), ssdlite=(8, 24), ssdlite_512=(8, 24)),
    **dict.fromkeys(SEGMENTORS, (4, 8)),
}
# Parameters with several dimensions that a recipe could wrongly exclude from decay.
DECAYED = ('A_log', 'dt_proj_bias', 'dt_proj_weight', 'x_proj_weight', 'base_scale', 'wavelet_scale')


def optimize(name):
    """The model of a recipe, its optimizer wrapper, and the parameter group of each parameter."""
    config = load(name)
    model = build(config)
    if config.optim_wrapper.type == 'AmpOptimWrapper':
        config.optim_wrapper.type = 'OptimWrapper'  # AmpOptimWrapper requires an accelerator
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {names[id(p)]: group for group in wrapper.optimizer.param_groups for p in group['params']}
    assert set(groups) == {name for name, p in model.named_parameters() if p.requires_grad}
    return model, wrapper, groups


def split(groups):
    """Names of parameters with and without weight decay, which has a single value."""
    assert {group['weight_decay'] for group in groups.values()} == {0, 0.05}
    decayed = {name for name, group in groups.items() if group['weight_decay']}
    return decayed, set(groups) - decayed


@pytest.mark.parametrize('name', RECIPES)
def test_optimizer(name):
    _, wrapper, groups = optimize(name)
    assert type(wrapper.optimizer) is torch.optim.AdamW
    for group in groups.values():
        assert (group['betas'], group['eps'], group['amsgrad']) == ((0.9, 0.999), 1e-8, False)
    clip = wrapper.clip_grad_kwargs
    assert clip == (None if CLIPS[name] is None else dict(max_norm=CLIPS[name], norm_type=2))
    assert wrapper._accumulative_counts == 1


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_classification_decays_what_is_no_vector(name):
    """The authors' rule: no decay for parameters of one dimension or with names that end in ``.bias``."""
    model, _, groups = optimize(name)
    parameters = dict(model.named_parameters())
    decayed, plain = split(groups)
    assert plain == {name for name, p in parameters.items() if p.ndim == 1 or name.endswith('.bias')}
    assert {group['lr'] for group in groups.values()} == {3e-3}
    last = {key: {n for n in groups if n.split('.')[-1] == key} for key in (*DECAYED, 'D')}
    blocks = sum(model.backbone.arch['depths'])
    assert {key: len(found) for key, found in last.items()} == dict.fromkeys(last, blocks)
    assert all(last[key] <= decayed for key in DECAYED) and last['D'] <= plain
    norms = {
        f'{path}.{kind}'
        for path, module in model.named_modules()
        if isinstance(module, (_BatchNorm, nn.LayerNorm))
        for kind in ('weight', 'bias')
    }
    assert norms < plain
    biases = {name for name in plain - norms if name.endswith('.bias')}  # scan, squeeze and excitation, head
    assert len(biases) == blocks + 2 * 2 + 1 and plain - norms - biases == last['D']


@pytest.mark.parametrize('name', ['b1', 'b1s'])
def test_groups_of_b1_are_as_large_as_the_authors(name):
    """In the backbone, 230 tensors (104,258 elements) without and 159 (16,516,471) with decay.

    Scales and scan parameters have other names than the authors', but the same dimensions and sizes. The
    authors' wavelet filters are constant: they are in neither group, and are not parameters here.
    """
    model, _, groups = optimize(name)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    decayed, plain = split(groups)

    def total(names, part):
        names = [name for name in names if name.startswith(part)]
        return len(names), sum(sizes[name] for name in names)

    assert total(plain, 'backbone.') == (230, 104_258)
    assert total(decayed, 'backbone.') == (159, 16_516_471)
    assert total(plain, 'head.') == (3, 448 + 448 + 1000)
    assert total(decayed, 'head.') == (1, 448_000)
    assert len(groups) == 230 + 159 + 4


@pytest.mark.parametrize('name', DISTILLED)
def test_distillation_optimizes_the_students_parameters(name):
    """Groups are the same as without a teacher, in the same order."""
    groups, plain = optimize(name)[2], optimize(name[:-1])[2]
    assert list(groups) == list(plain)
    settings = ('lr', 'weight_decay', 'betas', 'eps')
    for key, group in groups.items():
        assert [group[s] for s in settings] == [plain[key][s] for s in settings]


@pytest.mark.parametrize('name', [*DETECTORS, *SEGMENTORS])
def test_downstream_spares_the_norm_of_the_scan_only(name):
    """7 blocks with a weight and a bias each; SSDLite has no stage 3 and therefore only 5."""
    model, _, groups = optimize(name)
    decayed, plain = split(groups)
    blocks = [path for path, _ in model.named_modules() if path.endswith('.ss2d.out_norm')]
    assert len(blocks) == (5 if name.startswith('ssd') else 7)
    assert plain == {f'{path}.{kind}' for path in blocks for kind in ('weight', 'bias')}
    assert all(isinstance(model.get_submodule(path), nn.LayerNorm) for path in blocks)
    assert {'backbone.stem.0.bn.bias', 'backbone.stages.0.blocks.0.mixer.fn.global_op.ss2d.D'} <= decayed


@pytest.mark.parametrize('name', [*DETECTORS, *SEGMENTORS])
def test_downstream_rates(name):
    """One learning rate for all parameters, ten times as high for the head of Semantic FPN."""
    _, _, groups = optimize(name)
    head = {key for key in groups if key.startswith('decode_head.')} if name == 'fpn' else set()
    assert len(head) == (14 if name == 'fpn' else 0)
    for key, group in groups.items():
        assert group['lr'] == pytest.approx(PEAKS[name] * (10 if key in head else 1), rel=1e-12)


@pytest.mark.parametrize('name', RECIPES)
def test_precision(name):
    """Classifiers are trained in float16 mixed precision with PyTorch's default scaler, others in float32."""
    config = load(name)
    if CODEBASES[name] == 'mmpretrain':
        assert config.optim_wrapper.type == 'AmpOptimWrapper'
        assert not {'loss_scale', 'dtype', 'use_fp64'} & set(config.optim_wrapper)
        defaults = inspect.signature(AmpOptimWrapper.__init__).parameters
        assert (defaults['loss_scale'].default, defaults['dtype'].default) == ('dynamic', None)
    else:
        assert config.optim_wrapper.type == 'OptimWrapper'
    assert not config.val_cfg.get('fp16') and not config.test_cfg.get('fp16')


@pytest.mark.parametrize('name', RECIPES)
def test_batches(name):
    config = load(name)
    gpus, batch = BATCHES[name]
    assert config.train_dataloader.batch_size == batch
    if f'{gpus}xb{batch}' not in RECIPES[name]:  # not in the name of mmdet's 1x
        assert name in ('retinanet', 'maskrcnn') and '_1x_' in RECIPES[name]
    if name in SEGMENTORS:
        assert 'auto_scale_lr' not in config and config.train_dataloader.sampler.type == 'InfiniteSampler'
        return
    assert config.auto_scale_lr == dict(base_batch_size=gpus * batch, enable=False)
    assert (
        config.train_dataloader.sampler.type == 'DefaultSampler' and config.train_dataloader.sampler.shuffle
    )


def test_other_loaders():
    """Test batch size and workers per GPU; an epoch of SSDLite repeats COCO five times."""
    loaders = {name: (load(name).train_dataloader, load(name).val_dataloader) for name in RECIPES}
    assert all(load(name).test_dataloader == val for name, (_, val) in loaders.items())
    for name in (*CLASSIFIERS, *DISTILLED):
        train, val = loaders[name]
        assert train.drop_last and val.batch_size == 125 and not val.get('drop_last')
    for name in DETECTORS:
        train, val = loaders[name]
        ssd = name.startswith('ssd')
        assert (train.num_workers, val.batch_size, val.num_workers) == ((12, 8, 2) if ssd else (4, 1, 2))
        assert train.dataset.type == ('RepeatDataset' if ssd else 'CocoDataset')
        coco = train.dataset.dataset if ssd else train.dataset
        assert not ssd or train.dataset.times == 5
        assert coco.filter_cfg == dict(filter_empty_gt=True, min_size=32)
        sampler = train.batch_sampler
        assert sampler is None if ssd else sampler.type == 'AspectRatioBatchSampler'
    for name in SEGMENTORS:
        train, val = loaders[name]
        assert (train.num_workers, val.batch_size) == (8, 1)


def epochs_of_tests(train_cfg):
    """The epochs after which mmengine's training loop validates."""
    tested = []
    runner = SimpleNamespace(
        val_loop=SimpleNamespace(run=lambda: tested.append(loop.epoch)),
        call_hook=lambda *args: None,
        model=None,
        visualizer=None,
    )
    settings = {key: value for key, value in train_cfg.items() if key not in ('by_epoch', 'type', '_scope_')}
    loop = EpochBasedTrainLoop(runner, DataLoader(range(1)), **settings)

    def run_epoch():
        loop._epoch += 1

    loop.run_epoch = run_epoch
    loop.run()
    return tested


@pytest.mark.parametrize('name', RECIPES)
def test_when_to_test_and_save(name):
    config = load(name)
    saving = config.default_hooks.checkpoint
    if name in SEGMENTORS:
        total = 160_000 if name == 'fpn' else 80_000
        assert config.train_cfg == dict(type='IterBasedTrainLoop', max_iters=total, val_interval=total // 10)
        assert (saving.interval, saving.by_epoch) == (total // 10, False)
        return
    tested, last = epochs_of_tests(config.train_cfg), config.train_cfg.max_epochs
    if name in DETECTORS:
        assert last == (120 if name.startswith('ssd') else 12) and saving.interval == 1
        assert 'save_best' not in saving
        assert tested == list(range(5, 121, 5) if last == 120 else range(1, 13))
    else:
        assert last == (1000 if name in DISTILLED else 300)
        assert tested == [*range(5, 200, 5), *range(200, last + 1)]
        assert (saving.interval, saving.save_best) == (15, 'accuracy/top1')


@pytest.mark.parametrize('name', [*CLASSIFIERS, *DISTILLED])
def test_moving_average(name):
    """EMA with momentum 0.0002 (decay 0.9998), of weights and running statistics, from the start."""
    (config,) = load(name).custom_hooks
    assert config.pop('priority') == 'ABOVE_NORMAL'  # used by the Runner
    hook = HOOKS.build(config)
    assert hook.evaluate_on_ema and hook.evaluate_on_origin
    assert (hook.begin_iter, hook.begin_epoch) == (0, 0)
    model = nn.BatchNorm1d(2)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    runner = SimpleNamespace(model=model, iter=0, epoch=0, optim_wrapper=wrapper)
    hook.before_run(runner)
    assert type(hook.ema_model) is ExponentialMovingAverage
    hook.after_train_iter(runner, 0)  # mmengine copies the weights at the first step
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.running_mean.fill_(5.0)
    for _ in range(3):
        hook.after_train_iter(runner, 0)
    average = hook.ema_model.module
    assert average.weight.tolist() == pytest.approx([3 - 2 * 0.9998**3] * 2, rel=1e-6)
    assert average.running_mean.tolist() == pytest.approx([5 - 5 * 0.9998**3] * 2, rel=1e-3)


def test_only_classifiers_are_averaged():
    for name in (*DETECTORS, *SEGMENTORS):
        hooks = [hook.type for hook in load(name).get('custom_hooks', [])]
        expected = ['NumClassCheckHook', 'CheckInvalidLossHook'] if name.startswith('ssd') else []
        assert hooks == expected


@pytest.mark.parametrize('name', RECIPES)
def test_seed_and_cudnn(name):
    config = load(name)
    if CODEBASES[name] == 'mmpretrain':
        assert config.randomness == dict(seed=42, diff_rank_seed=True, deterministic=False)
    else:
        assert 'randomness' not in config  # random seed, as in the authors' runs
    assert config.env_cfg.cudnn_benchmark is (name not in ('retinanet', 'maskrcnn'))


@pytest.mark.parametrize('name', RECIPES)
def test_batch_norm_and_drop_path(name):
    """Detectors freeze the statistics of batch norms; all recipes train their weights."""
    model = build(load(name)).train()
    assert model.backbone.frozen_stages == -1
    norms = [module for module in model.backbone.modules() if isinstance(module, _BatchNorm)]
    assert {type(norm) for norm in norms} == {nn.BatchNorm2d}
    assert {norm.training for norm in norms} == {name not in DETECTORS}
    assert count(model.backbone) == sum(p.numel() for p in model.backbone.parameters())
    small = name in ('t2', 't4', 's6', 't2s', 't4s', 's6s')
    assert model.backbone.arch['drop_path_rate'] == (0 if small else 0.03)
