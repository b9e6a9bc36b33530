"""Checks the batches of a config's data, and its masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.config import Config
from torch import nn
from torch.utils.data import DataLoader

from ..engine.mask_check import check_masks, same_random_numbers
from ..engine.runners import PortableRunner
from ..engine.training_check_hook import (
    check_iterations,
    check_metainfo,
    check_smallest_batch,
    check_validation,
)
from .batches import check_batch_size, check_sources, fuller_batches
from .classes import advise_names, given_classes, names_in
from .failures import FAILURES, describe, shorten
from .files import innermost, loaders_of
from .finding import Finding, has_error
from .loss import as_in_training

READ = 2  # training images that are read


def build_loader(name: str, config: Config) -> DataLoader | Finding:
    """Build a dataloader as the Runner does.

    Args:
        name (str): Its name in the config.
        config (Config): The whole config.

    Returns:
        DataLoader | Finding: The dataloader, or the error.
    """
    settings = loaders_of(config)[name]
    try:
        return PortableRunner.build_dataloader(dict(settings), seed=0)
    except FAILURES as error:
        text = f'{name} cannot be built: {describe(error)}'
        for path, each in innermost(settings.get('dataset') or {}, f'{name}.dataset'):
            names = names_in(each)
            if names and not set(names) & set(given_classes(each)):
                return Finding('error', 'data', text, *advise_names(path, names, config))
        inherited = 'Dataset.__init__() got an unexpected keyword argument' in str(error)
        advice = 'Settings of the previous dataset are inherited: dataset=dict(_delete_=True, '
        advice += 'type=..., pipeline=..., ...) drops them, the pipeline, too.'
        return Finding('error', 'data', text, advice if inherited else '')


def check_loader(
    model: nn.Module, name: str, loader: DataLoader, complete: bool, runs: bool
) -> list[Finding]:
    """Check batches and masks of a dataloader, and report its number of images.

    Args:
        model (nn.Module): The model to train or test.
        name (str): Name of the dataloader in the config.
        loader (DataLoader): The dataloader.
        complete (bool): Whether its files are there.
        runs (bool): Whether earlier checks found no error that keeps the model from running.
    """
    training = name == 'train_dataloader'
    findings = attempt('batches', name, check_iterations if training else check_validation, loader)
    if findings:
        return [findings[0]._replace(mend=fuller_batches(name, loader))]
    findings += check_reading(name, loader) if complete else []
    if training:
        findings += attempt('classes', name, check_metainfo, loader.dataset)
        findings += [*check_batch_size(name, loader), *check_sources(name, loader)]
    if training and runs and not has_error(findings):
        as_in_training()
        single = attempt('batch norm', name, check_smallest_batch, model, loader)
        findings += [each._replace(mend=fuller_batches(name, loader)) for each in single]
    if complete and not any(each.subject == 'data' for each in findings):
        findings += check_labels(model, name, loader)
    if hasattr(loader.dataset, '__len__'):
        findings.append(Finding('ok', 'data', f'{name} has {len(loader.dataset)} images.'))
    return findings


def check_reading(name: str, loader: DataLoader) -> list[Finding]:
    """Check that the first images of a dataset can be read and pass through its pipeline.

    Args:
        name (str): Name of the dataloader in the config.
        loader (DataLoader): The dataloader.
    """
    if not hasattr(loader.dataset, '__len__'):
        return []
    for index in range(min(len(loader.dataset), READ if name == 'train_dataloader' else 1)):
        try:
            with same_random_numbers():
                loader.dataset[index]
        except FAILURES as error:
            text = f'{name}: image {index} cannot be read: {describe(error)}'
            return [Finding('error', 'data', text)]
    return []


def check_labels(model: nn.Module, name: str, loader: DataLoader) -> list[Finding]:
    """Check some masks of a segmentor's dataset."""
    try:
        message = check_masks(model, loader.dataset, training=name == 'train_dataloader')
        return [Finding('warning', 'masks', message)] if message else []
    except FAILURES as error:  # the check's own error names the mask
        reason = shorten(error) if type(error) is ValueError else describe(error)
        return [Finding('error', 'masks', f'{name}: {reason}')]


def attempt(subject: str, name: str, check: Callable, *arguments: Any) -> list[Finding]:
    """Run a check that raises an error, and return the error as a finding (list[Finding])."""
    try:
        check(*arguments)
    except FAILURES as error:
        return [Finding('error', subject, f'{name}: {shorten(error)}')]
    return []
