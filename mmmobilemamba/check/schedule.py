"""Checks the length of the training, its schedulers, and the learning rate for the batch size."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Container, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from torch import nn
from torch.utils.data import DataLoader

from ..engine.runners import PortableRunner
from ..engine.training_check_hook import batch_sizes, is_warmup, late_scheduler
from .failures import FAILURES, shorten
from .finding import Finding, merge, nest

TENTH = 10  # the part of a training that a shortened warm-up takes
LONGER = 1.01  # times the training, up to which the end of a decay is that of the training


GROUPS = dict(
    train=('train_dataloader', 'train_cfg', 'optim_wrapper'),
    val=('val_dataloader', 'val_cfg', 'val_evaluator'),
    test=('test_dataloader', 'test_cfg', 'test_evaluator'),
)


def check_groups(config: Config) -> list[Finding]:
    """Check that dataloader, loop, and evaluator or optimizer are given together, as the Runner demands."""
    findings = []
    for name, keys in GROUPS.items():
        absent = [key for key in keys if config.get(key) is None]
        given = [key for key in keys if key not in absent]
        if not absent or not given:
            continue
        text = (
            f'The config has {" and ".join(given)}, but no {" and no ".join(absent)}: the Runner needs all '
            f'or none of them.'
        )
        if keys[0] in absent:
            mend = dict.fromkeys(given)
            findings.append(Finding('error', 'schedule', text, f'Without {name}_dataloader:', mend))
        elif name != 'train' and absent == [keys[1]]:
            mend = {keys[1]: dict(_delete_=True, type=f'{name.capitalize()}Loop')}  # in place of None
            findings.append(Finding('error', 'schedule', text, mend=mend))
        else:
            findings.append(Finding('error', 'schedule', text))
    return findings


def check_schedule(config: Config, model: nn.Module, loader: DataLoader | None) -> list[Finding]:
    """Build optimizer and schedulers as the Runner does, and compare them with the length of the training.

    Args:
        config (Config): A config with ``train_cfg`` and ``optim_wrapper``.
        model (nn.Module): Its model.
        loader (DataLoader, optional): Its training dataloader. None if the data are missing, so that only
            schedulers in the unit of the training's length, epochs or iterations, can be compared.
    """
    by_epoch = config.train_cfg.get('by_epoch', 'max_epochs' in config.train_cfg)
    known = (True, False) if loader is not None else (by_epoch,)
    source = config
    if loader is None:
        source, loader = without_data(config)
    with tempfile.TemporaryDirectory() as folder:
        try:
            runner = build_runner(source, model, loader, folder)
            loop = runner.build_train_loop(runner._train_loop)
            runner._train_loop = loop
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
            if runner.param_schedulers is not None:
                runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
        except FAILURES as error:
            text = f'The training cannot be set up: {type(error).__name__}: {shorten(error)}'
            return [Finding('error', 'schedule', text)]
        iterations, epochs = loop.max_iters, loop.max_epochs
        begin = getattr(loop, 'val_begin', 0)
        findings = check_schedulers(config, runner.param_schedulers, epochs, iterations, known)
    length, unit = (epochs, 'epochs') if by_epoch else (iterations, 'iterations')
    if len(known) == 1:
        text = f'{length} {unit}; without the images, schedulers in other units are not checked.'
    else:
        images = f'{len(loader.dataset)} images' if hasattr(loader.dataset, '__len__') else 'its images'
        sizes = ' or '.join(map(str, batch_sizes(loader)))
        text = f'{iterations} iterations of {sizes} images, of {images}.'
    # mmengine (0.10.7) also validates after the last one, whatever the interval.
    if config.get('val_cfg') is not None and begin > length:
        late_text = f'Validation begins after {begin} of {length} {unit}, so it never runs.'
        mend = nest('train_cfg.val_begin', 1)
        findings.append(Finding('warning', 'schedule', late_text, mend=mend))
    return findings or [Finding('ok', 'schedule', text)]


def without_data(config: Config) -> tuple[Config, DataLoader]:
    """Return a config and a dataloader for a training whose images are missing.

    Schedulers by epochs stay so, as the number of iterations to convert them to is unknown.

    Returns:
        tuple[Config, DataLoader]: The config, and a dataloader with one iteration per epoch.
    """
    config = copy.deepcopy(config)
    given = config.get('param_scheduler') or []
    for each in [given] if isinstance(given, Mapping) else given:
        if isinstance(each, dict):
            each.pop('convert_to_iter_based', None)
    return config, DataLoader([0], batch_size=1)


def build_runner(config: Config, model: nn.Module, loader: DataLoader, work_dir: str) -> PortableRunner:
    """Build a Runner for training only, with logging disabled, that writes into ``work_dir``."""
    return PortableRunner(
        model=model,
        work_dir=work_dir,
        train_dataloader=loader,
        train_cfg=config.train_cfg,
        optim_wrapper=config.get('optim_wrapper'),
        param_scheduler=config.get('param_scheduler'),
        auto_scale_lr=config.get('auto_scale_lr'),
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        log_level='ERROR',
        default_scope=config.get('default_scope', 'mmengine'),
        experiment_name=f'check_{work_dir.replace("/", "_")}',
    )


def check_schedulers(
    config: Config, built: Any, epochs: int, iterations: int, known: Container[bool]
) -> list[Finding]:
    """Compare schedulers with the length of the training.

    Args:
        config (Config): The whole config.
        built (list | dict): The schedulers, in the order of the config, or lists of them by optimizer.
        epochs (int): Epochs of the training.
        iterations (int): Iterations of the training.
        known (Container[bool]): Values of ``by_epoch`` of the schedulers that can be compared.
    """
    several = built.values() if isinstance(built, dict) else [built or []]
    schedulers = [scheduler for each in several for scheduler in each]
    errors, slow = [], []
    for each in schedulers:
        compared = each.by_epoch in known
        late = late_scheduler(each, epochs, iterations) or late_steps(each, epochs, iterations)
        errors.append(late if compared else '')
        slow.append(early_end(each, epochs, iterations) if compared else '')
    findings = [Finding('error', 'schedule', text) for text in errors if text]
    findings += [
        Finding('warning', 'schedule', text) for text, error in zip(slow, errors) if text and not error
    ]
    settings = config.get('param_scheduler')
    settings = [settings] if isinstance(settings, Mapping) else settings
    if isinstance(settings, Sequence):  # mmengine adds its scope to what is inherited from another package
        settings = [{key: value for key, value in each.items() if key != '_scope_'} for each in settings]
    # How many iterations a tenth of a few epochs has is unknown.
    unsure = False not in known and any(is_warmup(each) for each, text in zip(schedulers, errors) if text)
    if findings and isinstance(settings, Sequence) and len(settings) == len(schedulers) and not unsure:
        wrong = [bool(error or text) for error, text in zip(errors, slow)]
        mend = dict(param_scheduler=fit_schedulers(settings, schedulers, wrong, epochs, iterations))
        advice = 'Shorten it to the training:'
        findings[0] = findings[0]._replace(advice=advice, mend=mend)  # one list replaces the other
    return findings


def late_steps(scheduler: Any, epochs: int, iterations: int) -> str:
    """Return a sentence if all milestones of a scheduler lie after the training (str), '' otherwise."""
    unit, steps = ('epochs', epochs) if scheduler.by_epoch else ('iterations', iterations)
    milestones = getattr(scheduler, 'milestones', ())
    late = sorted(step for step in milestones if step >= steps)
    if not late or len(late) < len(milestones):
        return ''
    return f'{type(scheduler).__name__} steps after {late[0]} of {steps} {unit}, so it never does.'


def early_end(scheduler: Any, epochs: int, iterations: int) -> str:
    """Return a sentence if a polynomial or cosine decay lasts longer than the training, '' otherwise."""
    unit, steps = ('epochs', epochs) if scheduler.by_epoch else ('iterations', iterations)
    if hasattr(scheduler, 'T_max'):
        end = scheduler.begin + scheduler.T_max
    elif hasattr(scheduler, 'power'):
        end = scheduler.end
    else:
        return ''
    if end <= steps * LONGER:
        return ''
    return (
        f'{type(scheduler).__name__} decays for {end} of {steps} {unit}, so the training ends before it does.'
    )


def fit_schedulers(
    settings: Sequence[Mapping[str, Any]],
    built: Sequence[Any],
    wrong: Sequence[bool],
    epochs: int,
    iterations: int,
) -> list[dict[str, Any]]:
    """Return the configs of schedulers, shortened to the length of the training.

    A warm-up gets a tenth of the training. What begins where another scheduler ended begins where that ends
    now, and the rest is scaled by the length of the training that the schedulers are for.

    Args:
        settings (Sequence[dict]): The configs of the schedulers.
        built (Sequence[_ParamScheduler]): The schedulers.
        wrong (Sequence[bool]): Whether a scheduler has to be shortened.
        epochs (int): Epochs of the training.
        iterations (int): Iterations of the training.
    """
    # The ends of the warm-ups, and of what is not shortened: before -> after.
    ends: dict[tuple[bool, Any], tuple[bool, int]] = {}
    fitted = []
    for given, scheduler, too_long in zip(settings, built, wrong):
        by_epoch, begin = given.get('by_epoch', True), given.get('begin', 0)
        steps = epochs if by_epoch else iterations
        new = dict(given)
        if too_long and is_warmup(scheduler) and begin < steps:
            new = shorter_warmup(new, steps, iterations)
            ends[by_epoch, given['end']] = new.get('by_epoch', True), new['end']
        elif too_long:
            planned = [
                each['end'] for each in settings if each.get('by_epoch', True) == by_epoch and 'end' in each
            ]
            planned += [begin + (given.get('T_max') or 0), *given.get('milestones', ())]
            factor = steps / max(steps, *planned)
            new = scaled(new, factor, steps)
            if ends.get((by_epoch, begin), (not by_epoch, 0))[0] == by_epoch:
                new['begin'] = ends[by_epoch, begin][1]
            if 'T_max' in new:
                new['T_max'] = max(new.get('end', steps) - new.get('begin', 0), 1)
        elif 'end' in given:
            ends[by_epoch, given['end']] = by_epoch, given['end']
        if new.get('milestones') != []:
            fitted.append(new)
    return fitted


def shorter_warmup(given: dict[str, Any], steps: int, iterations: int) -> dict[str, Any]:
    """Return the config of a warm-up of a tenth of the training, in iterations if that is under one epoch.

    Args:
        given (dict): The config of the warm-up.
        steps (int): Length of the training, in the unit of the warm-up.
        iterations (int): Length of the training in iterations.
    """
    begin = given.get('begin', 0)
    if given.get('by_epoch', True) and begin == 0 and steps < TENTH:
        new = {key: value for key, value in given.items() if key != 'convert_to_iter_based'}
        return dict(new, by_epoch=False, end=max(iterations // TENTH, 1))
    return dict(given, end=begin + max((steps - begin) // TENTH, 1))


def scaled(given: dict[str, Any], factor: float, steps: int) -> dict[str, Any]:
    """Return the config of a scheduler with its times multiplied by ``factor`` and limited to ``steps``."""
    new = dict(given)
    if 'begin' in given:
        new['begin'] = min(int(given['begin'] * factor), steps - 1)
    if 'end' in given:
        new['end'] = min(max(round(given['end'] * factor), new.get('begin', 0) + 1), steps)
    if 'milestones' in given:
        times = {max(round(each * factor), 1) for each in given['milestones']}
        new['milestones'] = sorted(each for each in times if each < steps)
    return new


def check_learning_rate(config: Config, batch_sizes: Sequence[int], gpus: int) -> Finding | None:
    """Compare the total batch size with the ``base_batch_size`` of the learning rate.

    Args:
        config (Config): The whole config.
        batch_sizes (Sequence[int]): Batch size of one process, or that of each of several datasets.
        gpus (int): Number of processes.

    Returns:
        Finding, optional: None if the config has no ``base_batch_size`` or no learning rate.
    """
    auto = config.get('auto_scale_lr') or {}
    base = auto.get('base_batch_size')
    wrapper = config.get('optim_wrapper') or {}
    rate = (wrapper.get('optimizer') or {}).get('lr')
    if not base or not rate or not batch_sizes:
        return None
    batch_size = batch_sizes[0]
    if len(batch_sizes) > 1:
        return check_rate_of_several(rate, base, batch_sizes, gpus, bool(auto.get('enable')))
    times = wrapper.get('accumulative_counts', 1)  # iterations per step, which auto_scale_lr ignores
    images = batch_size * gpus * times
    where = f'{gpus} x {batch_size}{f" x {times}" if times > 1 else ""} images per step'
    scaled = rate * images / base
    if times > 1 and auto.get('enable'):
        text = f'There are {where}, but auto_scale_lr ignores that {times} iterations are accumulated.'
        mend = merge([nest('auto_scale_lr.enable', False), nest('optim_wrapper.optimizer.lr', scaled)])
        return Finding('warning', 'lr', text, 'Set the learning rate itself:', mend)
    if images == base:
        return Finding('ok', 'lr', f'The learning rate of {rate:g} is for {base} images per step, as here.')
    if auto.get('enable'):
        return Finding(
            'ok', 'lr', f'{where} instead of {base}: auto_scale_lr changes lr {rate:g} to {scaled:g}.'
        )
    text = f'The learning rate of {rate:g} is for {base} images per step, but there are {where}.'
    if times > 1:
        mend = nest('optim_wrapper.optimizer.lr', scaled)
        return Finding('warning', 'lr', text, 'For more GPUs, pass --gpus N to this check:', mend)
    advice = f'Train with --auto-scale-lr or lr={scaled:g}; for more GPUs, pass --gpus N to this check:'
    return Finding('warning', 'lr', text, advice, nest('auto_scale_lr.enable', True))


def check_rate_of_several(
    rate: float, base: int, batch_sizes: Sequence[int], gpus: int, scales: bool
) -> Finding | None:
    """Compare the batch sizes of several datasets with the one that the learning rate is meant for.

    Args:
        rate (float): The learning rate.
        base (int): Images of a step that it is meant for.
        batch_sizes (Sequence[int]): Batch size of each dataset, in one process.
        gpus (int): Number of processes.
        scales (bool): Whether ``auto_scale_lr`` is on; mmengine (0.10.7) fails on several sizes.
    """
    sizes = ' or '.join(map(str, batch_sizes))
    if scales:
        text = f'auto_scale_lr needs one batch_size, but there are {sizes}: the training would not start.'
        mend = nest('auto_scale_lr.enable', False)
        return Finding('error', 'lr', text, 'Set the learning rate itself:', mend)
    if all(size * gpus == base for size in batch_sizes):
        return None
    text = f'The learning rate of {rate:g} is for {base} images per step, but there are {gpus} x {sizes}.'
    return Finding('warning', 'lr', text)
