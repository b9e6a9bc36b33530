"""Checks batch sizes: those of a dataloader, of its sampler, and of several datasets."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config
from torch.utils.data import BatchSampler, DataLoader

from ..engine.training_check_hook import batch_sizes, is_endless, sampler_of
from .finding import Finding, merge, nest


def check_batch_size(name: str, loader: DataLoader) -> list[Finding]:
    """Check that a training dataset has as many images as a batch.

    Datasets with a batch size each are left out: their sampler draws images more than once.
    """
    sizes = batch_sizes(loader)
    images = len(loader.dataset) if hasattr(loader.dataset, '__len__') else None
    if len(sizes) != 1 or images is None or images >= sizes[0]:
        return []
    effect = 'a batch has some of them twice' if is_endless(loader) else f'an epoch is one batch of {images}'
    text = f'{name} has {images} images, fewer than its batch_size of {sizes[0]}: {effect}.'
    advice = 'One image needs to be repeated: RepeatDataset, or the same file twice.' if images == 1 else ''
    return [Finding('warning', 'batches', text, advice, fuller_batches(name, loader))]


def check_sources(name: str, loader: DataLoader) -> list[Finding]:
    """Check that a sampler can fill its batches from each of several datasets.

    mmdet's MultiSourceSampler and GroupMultiSourceSampler (3.3.0) know the batch size themselves, and search
    an empty dataset for images forever.
    """
    sampler, sizes = sampler_of(loader), batch_sizes(loader)
    if not hasattr(sampler, 'num_per_source'):
        return []
    if sizes and sizes != [sampler.batch_size]:
        text = (
            f'{name} has a batch_size of {sizes[0]}, but its {type(sampler).__name__} fills batches of '
            f'{sampler.batch_size}: a batch would have images of only one dataset.'
        )
        mend = nest(f'{name}.sampler.batch_size', sizes[0])
        return [Finding('error', 'batches', text, 'Set both to the same number:', mend)]
    kinds = ('portrait', 'landscape or square')
    sources = [{'': len(dataset)} for dataset in sampler.dataset.datasets]
    if hasattr(sampler, 'group2size_per_source'):
        groups = [group for group, ratio in enumerate(sampler.group_ratio) if ratio > 0]
        sources = [
            {kinds[group]: numbers[group] for group in groups} for numbers in sampler.group2size_per_source
        ]
    findings = []
    for source, (numbers, share) in enumerate(zip(sources, sampler.num_per_source)):
        for kind, images in numbers.items():
            if share and not images:
                what = f'no {kind} images' if kind else 'no images'
                text = (
                    f'{name}.dataset.datasets[{source}] has {what}, but {type(sampler).__name__} takes '
                    f'{share} per batch: it would search for them forever.'
                )
                advice = 'Take MultiSourceSampler, which does not group by orientation.' if kind else ''
                findings.append(Finding('error', 'batches', text, advice))
    return findings


def fuller_batches(name: str, loader: DataLoader) -> dict[str, Any]:
    """Return the config changes that leave neither an empty epoch nor a batch of one image.

    Args:
        name (str): Name of the dataloader in the config.
        loader (DataLoader): The dataloader.

    Returns:
        dict: The changes; {} for a single image, which no batch size helps.
    """
    batches, sizes = loader.batch_sampler, batch_sizes(loader)
    datasets = loader.dataset.datasets if len(sizes) > 1 else [loader.dataset]
    images = [len(dataset) if hasattr(dataset, '__len__') else 0 for dataset in datasets]
    if not sizes or min(images) < 2:
        return {}
    new = [min(max(size, 2), number) for size, number in zip(sizes, images)]
    changes = {} if new == sizes else nest(f'{name}.batch_size', new if len(new) > 1 else new[0])
    remainder = images[0] % new[0] if len(sizes) == 1 else None
    if name == 'train_dataloader' and remainder == 1 and not batches.drop_last:
        own = '' if type(batches) is BatchSampler else 'batch_sampler.'
        changes = merge([changes, nest(f'{name}.{own}drop_last', True)])
    return changes


def given_batch_sizes(config: Config) -> list[int]:
    """Return the batch sizes of the training in a config, one for each dataset if they differ; [] if none."""
    loader = config.get('train_dataloader') or {}
    given = loader.get('batch_size') or (loader.get('batch_sampler') or {}).get('batch_size')
    return [given] if isinstance(given, int) else list(given or [])
