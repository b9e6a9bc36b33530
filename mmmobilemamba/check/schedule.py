"""Checks the length of the training, its schedulers, and the learning rate for the batch size."""

from __future__ import annotations

import tempfile

from mmengine.config import Config
from torch import nn
from torch.utils.data import DataLoader

from ..engine.runners import PortableRunner
from ..engine.training_check_hook import late_schedulers
from .data import shorten
from .finding import Finding, nest
from .maps import FAILURES


def check_schedule(config: Config, model: nn.Module, loader: DataLoader) -> list[Finding]:
    """Build optimizer and schedulers as the Runner does, and compare them with the length of the training.

    Args:
        config (Config): A config with ``train_cfg`` and ``optim_wrapper``.
        model (nn.Module): Its model.
        loader (DataLoader): Its training dataloader.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            runner = build_runner(config, model, loader, folder)
            loop = runner.build_train_loop(runner._train_loop)
            runner._train_loop = loop
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
            if runner.param_schedulers is not None:
                runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
        except FAILURES as error:
            text = f'The training cannot be set up: {type(error).__name__}: {shorten(error)}'
            return [Finding('error', 'schedule', text)]
        late = [*late_schedulers(runner), *late_steps(runner)]
        iterations, epochs = loop.max_iters, loop.max_epochs
        interval = getattr(loop, 'val_interval', 0)
    findings = [
        Finding('error', 'schedule', text, 'Shorten param_scheduler, or train for longer.') for text in late
    ]
    images = f'{len(loader.dataset)} images' if hasattr(loader.dataset, '__len__') else 'its images'
    text = f'{iterations} iterations of {loader.batch_sampler.batch_size} images, of {images}.'
    by_epoch = config.train_cfg.get('by_epoch', 'max_epochs' in config.train_cfg)
    length, unit = (epochs, 'epochs') if by_epoch else (iterations, 'iterations')
    if config.get('val_cfg') is not None and interval > length:
        late_text = f'Validation is every {interval} {unit}, and there are {length}: it never runs.'
        mend = nest('train_cfg.val_interval', length)
        findings.append(Finding('warning', 'schedule', late_text, mend=mend))
    return findings or [Finding('ok', 'schedule', text)]


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


def late_steps(runner: PortableRunner) -> list[str]:
    """Return one sentence for each scheduler whose milestones all lie after the end of the training."""
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):
        schedulers = [scheduler for several in schedulers.values() for scheduler in several]
    sentences = []
    for scheduler in schedulers:
        unit, steps = (
            ('epochs', runner.max_epochs) if scheduler.by_epoch else ('iterations', runner.max_iters)
        )
        late = sorted(step for step in getattr(scheduler, 'milestones', ()) if step >= steps)
        if late and len(late) == len(scheduler.milestones):
            name = type(scheduler).__name__
            sentences.append(f'{name} steps after {late[0]} of {steps} {unit}, which is never.')
    return sentences


def check_learning_rate(config: Config, batch_size: int, gpus: int) -> Finding | None:
    """Compare the total batch size with the ``base_batch_size`` of the learning rate.

    Args:
        config (Config): The whole config.
        batch_size (int): Batch size of one process.
        gpus (int): Number of processes.

    Returns:
        Finding, optional: None if the config has no ``base_batch_size`` or no learning rate.
    """
    auto = config.get('auto_scale_lr') or {}
    base = auto.get('base_batch_size')
    wrapper = config.get('optim_wrapper') or {}
    rate = (wrapper.get('optimizer') or {}).get('lr')
    if not base or not rate:
        return None
    images = batch_size * gpus
    where = f'{gpus} x {batch_size} images a step'
    if images == base:
        return Finding(
            'ok', 'lr', f'The learning rate of {rate:g} is meant for {base} images, and there are as many.'
        )
    scaled = rate * images / base
    if auto.get('enable'):
        return Finding(
            'ok', 'lr', f'{where} instead of {base}: auto_scale_lr makes {scaled:g} of lr {rate:g}.'
        )
    text = f'The learning rate of {rate:g} is meant for {base} images a step, and there are {where}.'
    advice = f'Give --auto-scale-lr to the training, or lr={scaled:g}. This check takes --gpus N:'
    return Finding('warning', 'lr', text, advice, nest('auto_scale_lr.enable', True))
