"""Runs all checks of a config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.utils.data import DataLoader

from ..models import MobileMamba
from ..utils import codebase_of
from .checkpoints import check_init_cfg, check_load_from, check_pixels, check_whole
from .data import (
    build_loader,
    check_heads,
    check_images,
    check_loader,
    check_loss,
    check_names,
    check_order,
    check_paths,
    classes_of,
    loaders_of,
    shorten,
)
from .finding import LEVELS, Finding, nest
from .kernels import check_kernels
from .maps import FAILURES, parts_of
from .schedule import check_learning_rate, check_schedule
from .start import check_maps, python_style


class Report(NamedTuple):
    """The result of :func:`check_config`.

    Args:
        model (str): Name of the model's class, or '' if it cannot be built.
        findings (list[Finding]): The findings: errors first, then warnings, then passed checks.
        python_style (bool): Whether the config is in mmengine's pure Python style.
    """

    model: str
    findings: list[Finding]
    python_style: bool

    @property
    def failed(self) -> bool:
        """Whether there is an error (bool)."""
        return has_error(self.findings)


def check_config(config: Config, checkpoint: str | Path | None = None, gpus: int = 1) -> Report:
    """Check a config of any OpenMMLab project, as far as its data and files are available.

    Nothing is downloaded, trained or written. The config's scope becomes the default scope of the registries.

    Args:
        config (Config): A config with a model and, for training, data and a schedule.
        checkpoint (str | Path, optional): A checkpoint to test with the config. Defaults to None.
        gpus (int): Number of training processes, for the learning rate. Defaults to 1.

    Returns:
        Report: The findings.
    """
    init_default_scope(config.get('default_scope') or codebase_of(config) or 'mmengine')
    findings = check_imports(config)
    model = build_model(config)
    if isinstance(model, Finding):
        findings += [model, *check_paths(config)]
        return Report('', in_order(findings), python_style(config))
    parts = parts_of(model, MobileMamba)
    if not parts:
        text = f'{type(model).__name__} has no MobileMamba: the checks of maps are for that backbone.'
        findings.append(Finding('warning', 'model', text))
    for part in parts:
        findings += [*check_maps(part, config), check_kernels(part)]
    runs = not has_error(findings)
    for part in parts:
        findings += [check_init_cfg(part, config), *check_pixels(part, config)]
    findings += check_load_from(config, model, parts)
    if checkpoint is not None:
        findings.append(check_whole(model, checkpoint))
    findings += check_data(config, model, gpus, runs)
    return Report(type(model).__name__, in_order(findings), python_style(config))


def in_order(findings: list[Finding]) -> list[Finding]:
    """Remove duplicate findings and sort them, errors first."""
    unique = {(found.level, found.subject, found.text): found for found in findings}
    return sorted(unique.values(), key=lambda found: LEVELS.index(found.level))


def check_imports(config: Config) -> list[Finding]:
    """Check that the config imports this package, which the tools of other projects do not."""
    imports = (config.get('custom_imports') or {}).get('imports') or []
    imports = [imports] if isinstance(imports, str) else imports
    if python_style(config) or any(name.partition('.')[0] == 'mmmobilemamba' for name in imports):
        return []
    scope = config.get('default_scope')
    name = f'mmmobilemamba.{scope}' if scope in ('mmdet', 'mmseg', 'mmpretrain') else 'mmmobilemamba'
    text = 'The config does not import mmmobilemamba, so that other tools than ours do not know the backbone.'
    return [Finding('warning', 'imports', text, mend={'custom_imports': dict(imports=[*imports, name])})]


def build_model(config: Config) -> nn.Module | Finding:
    """Build the model of a config without loading weights.

    Returns:
        nn.Module | Finding: The model, or the error.
    """
    settings = config.get('model')
    if not isinstance(settings, Mapping):
        return Finding('error', 'model', 'The config has no model.')
    scope = config.get('default_scope')
    if scope and find_spec(scope) is None:
        text = f'The config needs {scope}, which is not installed.'
        return Finding('error', 'model', text, f'Install it: mim install {scope}')
    settings = dict(settings)
    if 'data_preprocessor' in config:  # as in the Runner
        settings.setdefault('data_preprocessor', config['data_preprocessor'])
    try:
        return MODELS.build(settings)
    except FAILURES as error:
        text = f'The model cannot be built: {type(error).__name__}: {shorten(error)}'
        return Finding('error', 'model', text, *advise(config, str(error)))


def advise(config: Config, message: str) -> tuple[str, dict[str, Any]]:
    """Return the advice for a model that cannot be built: a text and config changes, empty if unknown.

    Args:
        config (Config): The whole config.
        message (str): The message of the error.
    """
    settings = config['model']
    backbone = settings.get('backbone')
    if 'is not in the' in message:
        scope = config.get('default_scope')
        if scope in ('mmdet', 'mmseg', 'mmpretrain'):
            return '', {'custom_imports': dict(imports=[f'mmmobilemamba.{scope}'])}
        return 'Name the package that has it in custom_imports.', {}
    if settings.get('pretrained') and 'pretrained' in message:
        return 'Weights of another backbone are named:', nest('model.pretrained', None)
    if isinstance(backbone, Mapping) and 'unexpected keyword' in message and 'MobileMamba' in message:
        kept = ('type', 'arch', 'in_channels', 'out_indices', 'init_cfg')
        mine = {key: backbone[key] for key in kept if key in backbone}
        advice = 'Settings of the backbone that was there before are inherited; _delete_ drops them:'
        return advice, nest('model.backbone', dict(_delete_=True, **mine))
    return '', {}


def check_data(config: Config, model: nn.Module, gpus: int, runs: bool) -> list[Finding]:
    """Check data, batches, schedule and learning rate.

    Args:
        config (Config): The whole config.
        model (nn.Module): Its model.
        gpus (int): Number of training processes.
        runs (bool): Whether earlier checks found no error that keeps the model from running.
    """
    findings = check_paths(config)
    absent = {re.split(r'[.:]', found.text)[0] for found in findings if found.subject == 'files'}
    learnt: list[str] = []  # names of the classes in the order of the training data
    for name, settings in loaders_of(config).items():
        if name in absent:
            continue
        loader = build_loader(name, settings)
        if isinstance(loader, Finding):
            findings.append(loader)
            continue
        found = [*check_images(name, loader, settings), *check_names(name, loader, settings)]
        if name == 'train_dataloader':
            learnt = classes_of(loader.dataset)
            found += check_heads(model, loader.dataset)
        else:
            found += check_order(name, loader.dataset, learnt)
        found += check_loader(model, name, loader, runs and not has_error(found))
        if name == 'train_dataloader':
            found += check_training(config, model, loader, gpus, runs and not has_error(found))
        findings += found
    return findings


def has_error(findings: list[Finding]) -> bool:
    """Whether any of the findings is an error (bool)."""
    return any(finding.level == 'error' for finding in findings)


def check_training(
    config: Config, model: nn.Module, loader: DataLoader, gpus: int, runs: bool
) -> list[Finding]:
    """Check the schedule, the learning rate and, if ``runs``, the loss of two images."""
    loss = check_loss(model, loader) if runs else None
    findings = [loss] if loss is not None else []
    if config.get('train_cfg') is not None and len(loader) > 0:
        findings += check_schedule(config, model, loader)
    rate = check_learning_rate(config, loader.batch_sampler.batch_size or 1, gpus)
    return [*findings, *([rate] if rate is not None else [])]
