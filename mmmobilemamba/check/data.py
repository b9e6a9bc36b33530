"""Checks the batches of a config's data, its masks, and the loss of one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from ..engine.mask_check import check_masks
from ..engine.runners import PortableRunner
from ..engine.training_check_hook import (
    check_iterations,
    check_metainfo,
    check_smallest_batch,
    check_validation,
    is_endless,
    mixes_datasets,
)
from .build import shorten
from .classes import advise_names, given_classes, listed, names_in
from .files import innermost, loaders_of
from .finding import Finding, has_error, merge, nest
from .maps import FAILURES, flatten

PICTURES = 20  # images in which a detector's pipeline has to keep an object


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
        text = f'{name} cannot be built: {type(error).__name__}: {shorten(error)}'
        for path, each in innermost(settings.get('dataset') or {}, f'{name}.dataset'):
            names = names_in(each)
            if names and not set(names) & set(given_classes(each)):
                return Finding('error', 'data', text, *advise_names(path, names, config))
        inherited = 'Dataset.__init__() got an unexpected keyword argument' in str(error)
        advice = 'Settings of the previous dataset are inherited: dataset=dict(_delete_=True, '
        advice += 'type=..., pipeline=..., ...) drops them, the pipeline, too.'
        return Finding('error', 'data', text, advice if inherited else '')


def check_loader(model: nn.Module, name: str, loader: DataLoader, runs: bool) -> list[Finding]:
    """Check batches and masks of a dataloader, and report its number of images.

    Args:
        model (nn.Module): The model to train or test.
        name (str): Name of the dataloader in the config.
        loader (DataLoader): The dataloader.
        runs (bool): Whether earlier checks found no error that keeps the model from running.
    """
    training = name == 'train_dataloader'
    findings = attempt('batches', name, check_iterations if training else check_validation, loader)
    if findings:
        return [findings[0]._replace(mend=fuller_batches(name, loader))]
    if training:
        findings += attempt('classes', name, check_metainfo, loader.dataset)
        findings += check_batch_size(name, loader)
    if training and runs and not has_error(findings):
        as_in_training()
        single = attempt('batch norm', name, check_smallest_batch, model, loader)
        findings += [each._replace(mend=fuller_batches(name, loader)) for each in single]
    try:
        message = check_masks(model, loader.dataset, training)
        findings += [Finding('warning', 'masks', message)] if message else []
    except FAILURES as error:
        findings.append(Finding('error', 'masks', f'{name}: {shorten(error)}'))
    if hasattr(loader.dataset, '__len__'):
        findings.append(Finding('ok', 'data', f'{name} has {len(loader.dataset)} images.'))
    return findings


def attempt(subject: str, name: str, check: Callable, *arguments: Any) -> list[Finding]:
    """Run a check that raises an error, and return the error as a finding (list[Finding])."""
    try:
        check(*arguments)
    except FAILURES as error:
        return [Finding('error', subject, f'{name}: {shorten(error)}')]
    return []


def check_batch_size(name: str, loader: DataLoader) -> list[Finding]:
    """Check that a training dataset has as many images as a batch; fewer are one smaller batch, or repeat."""
    batches = loader.batch_sampler
    size = getattr(batches, 'batch_size', None)
    images = len(loader.dataset) if hasattr(loader.dataset, '__len__') else None
    if size is None or images is None or images >= size:
        return []
    effect = 'a batch has some of them twice' if is_endless(loader) else f'an epoch is one batch of {images}'
    text = f'{name} has {images} images, fewer than its batch_size of {size}: {effect}.'
    advice = 'One image needs to be repeated: RepeatDataset, or the same file twice.' if images == 1 else ''
    return [Finding('warning', 'batches', text, advice, fuller_batches(name, loader))]


def fuller_batches(name: str, loader: DataLoader) -> dict[str, Any]:
    """Return the config changes that leave neither an empty epoch nor a batch of one image.

    Args:
        name (str): Name of the dataloader in the config.
        loader (DataLoader): The dataloader.

    Returns:
        dict: The changes; {} for a single image, which no batch size helps.
    """
    batches = loader.batch_sampler
    images = len(loader.dataset) if hasattr(loader.dataset, '__len__') else 0
    size = getattr(batches, 'batch_size', None)
    if size is None or images < 2:
        return {}
    new = min(max(size, 2), images)
    changes = {} if new == size else nest(f'{name}.batch_size', new)
    if name == 'train_dataloader' and images % new == 1 and not batches.drop_last:
        own = '' if type(batches) is BatchSampler else 'batch_sampler.'
        changes = merge([changes, nest(f'{name}.{own}drop_last', True)])
    return changes


# One batch.


def as_in_training() -> None:
    """Set the progress in the message hub if it is missing; YOLOX, for example, resizes by iteration."""
    hub = MessageHub.get_current_instance()
    for key, value in dict(epoch=0, iter=0, max_epochs=1, max_iters=1).items():
        if hub.get_info(key) is None:
            hub.update_info(key, value)


def has_objects(sample: Any) -> bool:
    """Whether an item of a dataset has objects, or is not one of detection (bool)."""
    target = getattr(sample.get('data_samples'), 'gt_instances', None)
    return target is None or len(target) > 0


def lost_objects(dataset: Any, samples: Sequence[Any]) -> Finding | None:
    """Check that the pipeline keeps objects of a detector's first images.

    Args:
        dataset (Dataset): The training dataset.
        samples (Sequence[dict]): Its first items, as the pipeline makes them.
    """
    if not hasattr(dataset, 'get_data_info'):
        return None
    if any(map(has_objects, samples)):
        return None
    indices = range(min(len(dataset), PICTURES))  # a random crop may lose the objects of a few
    infos = [dataset.get_data_info(index) for index in indices]
    annotated = sum(not each.get('ignore_flag') for info in infos for each in info.get('instances') or [])
    if not annotated or any(has_objects(dataset[index]) for index in indices):
        return None
    text = (
        f'The first {len(indices)} images have {annotated} objects, but the pipeline keeps none of them, so '
        f'that nothing would be learnt.'
    )
    advice = (
        'Look at its output with browse_dataset. LoadAnnotations with poly2mask=False, for example, reads '
        'polygons alone and drops objects whose masks are run lengths (RLE): set poly2mask=True.'
    )
    return Finding('error', 'data', text, advice)


def check_loss(model: nn.Module, loader: DataLoader) -> Finding | None:
    """Check that the loss of the first two images (one if the batch size is 1) is computable and finite.

    Where all batches have images of several datasets, it is that of a batch.
    """
    if not isinstance(model, BaseModel):
        return None
    as_in_training()
    number = min(2, len(loader.dataset), loader.batch_sampler.batch_size or 1)
    indices = next(iter(loader.batch_sampler)) if mixes_datasets(loader) else range(number)
    number = len(indices)
    try:
        samples = [loader.dataset[index] for index in indices]
        lost = lost_objects(loader.dataset, samples)
        if lost:
            return lost
        batch = loader.collate_fn(samples)
        with torch.no_grad():
            batch = model.train().data_preprocessor(batch, True)
            losses = model(**batch, mode='loss') if isinstance(batch, dict) else model(*batch, mode='loss')
    except FAILURES as error:
        text = f'The loss of {number} images cannot be computed: {type(error).__name__}: {shorten(error)}'
        return Finding('error', 'loss', text)
    if all(value.isfinite().all() for value in flatten(losses) if value.is_floating_point()):
        return Finding('ok', 'loss', f'The loss of {number} images can be computed.')
    names = [name for name, value in losses.items() if not all(x.isfinite().all() for x in flatten(value))]
    return Finding('error', 'loss', f'The loss of {number} images is not finite: {listed(names)}.')
