"""Runs all checks of a config."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn
from torch.utils.data import DataLoader

from ..models import MobileMamba
from ..utils import codebase_of
from .batches import given_batch_sizes
from .build import build_model
from .checkpoints import check_init_cfg, check_load_from, check_pixels, check_whole
from .classes import check_heads, check_names, check_order, given_classes, label_names
from .data import build_loader, check_loader
from .files import check_images, check_paths, innermost, loaders_of
from .finding import LEVELS, Finding, change, has_error, importing, merge
from .kernels import check_kernels
from .loss import check_loss, initialise
from .maps import parts_of
from .panoptic import check_order_of_things, check_things, counting_heads
from .rounds import check_in_rounds
from .schedule import check_groups, check_learning_rate, check_schedule
from .sides import check_padding
from .start import python_style
from .zero_label import check_zero_label


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
    mended = check_in_rounds(config, MobileMamba)
    model = mended.model
    findings += mended.findings
    if model is None:
        findings += [*check_groups(config), *check_paths(config)]
        rate = check_learning_rate(config, given_batch_sizes(config), gpus)
        findings += [rate] if rate is not None else []
        return Report('', in_order(findings), python_style(config))
    parts = parts_of(model, MobileMamba)
    if not parts:
        text = f'{type(model).__name__} contains no MobileMamba, so its feature maps were not checked.'
        findings.append(Finding('warning', 'model', text))
    kernels = [check_kernels(part) for part in parts]
    findings += kernels
    runs = mended.runs and not has_error(kernels)
    starts = check_load_from(config, model, parts)
    for part in parts:
        found = check_init_cfg(part, config)
        findings += [found] if found.level != 'ok' or not has_error(starts) else []
        findings += check_pixels(part, config)
    findings += starts
    if checkpoint is not None:
        findings.append(check_whole(model, checkpoint))
    findings += [*check_groups(config), *check_data(mended.config, model, gpus, runs)]
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
    text = 'The config does not import mmmobilemamba, so only the tools of this package find the backbone.'
    return [Finding('warning', 'imports', text, mend=importing(config, name))]


def check_data(config: Config, model: nn.Module, gpus: int, runs: bool) -> list[Finding]:
    """Check data, batches, schedule and learning rate.

    Args:
        config (Config): The whole config, with the changes that the checks of maps suggest.
        model (nn.Module): Its model.
        gpus (int): Number of training processes.
        runs (bool): Whether the model can run.
    """
    padding = check_padding(model, config)
    runs = runs and not has_error(padding)
    findings = [*padding, *check_paths(config)]
    absent = {re.split(r'[.:]', found.text)[0] for found in findings if found.subject == 'files'}
    loaders, config, found = build_loaders(config, absent)
    findings += found
    zero = check_zero_label(config, loaders)
    if has_error(zero):
        config = change(config, merge(each.mend for each in zero))
        loaders, config, _ = build_loaders(config, absent)
    findings += zero
    learnt: list[str] = []  # names of the classes in the order of the training data
    for name, loader in loaders.items():
        found = [*check_images(name, loader, config[name]), *check_names(name, loader, config)]
        heads: list[Finding] = []
        named = not any(each.subject == 'classes' for each in found if each.level == 'error')
        if name == 'train_dataloader':
            learnt = learnt_names(loader, config[name]) if named else []
            heads = check_outputs(model, loader.dataset, config)
        found += check_order(name, loader, learnt, config) if named else []
        found += check_order_of_things(name, loader, config) if named and counting_heads(model) else []
        model, runs = with_classes(model, config, heads, runs)
        if name == 'train_dataloader' and runs and not has_error(found):
            found += initialise(model)
        complete = not any(each.subject == 'files' for each in found)
        found += check_loader(model, name, loader, complete, runs and not has_error(found))
        if name == 'train_dataloader':
            found += check_training(config, model, loader, gpus, runs and not has_error(found))
        findings += [*heads, *found]
    if 'train_dataloader' not in loaders and config.get('train_dataloader') is not None:
        findings += check_without_data(config, model, gpus)
    return findings


def check_without_data(config: Config, model: nn.Module, gpus: int) -> list[Finding]:
    """Check the heads, the schedule and the learning rate of a training whose data are missing."""
    _, settings = next(innermost(config['train_dataloader'].get('dataset') or {}, ''))
    named = SimpleNamespace(metainfo=dict(classes=given_classes(settings)))
    return [*check_outputs(model, named, config), *check_training(config, model, None, gpus, runs=False)]


def check_outputs(model: nn.Module, dataset: Any, config: Config) -> list[Finding]:
    """Compare the number of classes of all heads with the training data."""
    if not counting_heads(model):
        return check_heads(model, dataset, config)
    _, settings = next(innermost(config['train_dataloader'].get('dataset') or {}, ''))
    return check_things(model, next(innermost(dataset, ''))[1], settings, config)


def learnt_names(loader: DataLoader, settings: Mapping[str, Any]) -> list[str]:
    """Return the class names of the first training dataset, by label (list[str])."""
    path, dataset = next(innermost(loader.dataset, 'dataset'))
    return label_names(dataset, dict(innermost(settings['dataset'], 'dataset')).get(path) or {})


def build_loaders(
    config: Config, absent: Container[str]
) -> tuple[dict[str, DataLoader], Config, list[Finding]]:
    """Build the dataloaders, if necessary with the class names in the annotations.

    Args:
        config (Config): The whole config.
        absent (Container[str]): Names of the dataloaders whose files are missing.

    Returns:
        tuple[dict[str, DataLoader], Config, list[Finding]]: The dataloaders by name, the config with the
        changes that were necessary, and the errors.
    """
    loaders: dict[str, DataLoader] = {}
    findings = []
    for name in loaders_of(config):
        # Test data are often the validation data, whose annotations would be read once more.
        same = next((each for each in loaders if config[each] == config[name]), None)
        if same is not None:
            loaders[name] = loaders[same]
            continue
        loader = build_loader(name, config) if name not in absent else None
        if isinstance(loader, Finding):
            findings.append(loader)
            config = change(config, loader.mend)
            loader = build_loader(name, config) if loader.mend else None
        if isinstance(loader, DataLoader):
            loaders[name] = loader
    return loaders, config, findings


def with_classes(
    model: nn.Module, config: Config, heads: list[Finding], runs: bool
) -> tuple[nn.Module, bool]:
    """Return a model whose heads have the classes of the data, and whether it can run."""
    if not has_error(heads):
        return model, runs
    built = build_model(change(config, merge(each.mend for each in heads)))
    return (model, False) if isinstance(built, Finding) else (built, runs)


def check_training(
    config: Config, model: nn.Module, loader: DataLoader | None, gpus: int, runs: bool
) -> list[Finding]:
    """Check the schedule, the learning rate and, if ``runs``, the loss of two images.

    ``loader`` is None if the data are missing.
    """
    loss = check_loss(model, loader) if runs and loader is not None else None
    findings = [loss] if loss is not None else []
    complete = None not in (config.get('train_cfg'), config.get('optim_wrapper'))
    if complete and (loader is None or len(loader) > 0):
        findings += check_schedule(config, model, loader)
    rate = check_learning_rate(config, given_batch_sizes(config), gpus)
    return [*findings, *([rate] if rate is not None else [])]
