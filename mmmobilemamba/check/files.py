"""Checks that the files of a config's data exist."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader

from .finding import Finding, nest_in

IMAGES = 2000  # images of a dataset whose files and labels are checked, at even intervals
ANYWHERE = '://'  # part of an address that is not a local path


def sample_indices(number: int) -> list[int]:
    """Return up to ``IMAGES`` indices below ``number``, at even intervals (list[int])."""
    return np.unique(np.linspace(0, number - 1, IMAGES).round().astype(int)).tolist() if number else []


def loaders_of(config: Config) -> dict[str, Mapping[str, Any]]:
    """Return the dataloader configs of a config by name."""
    names = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    return {name: config[name] for name in names if isinstance(config.get(name), Mapping)}


def innermost(dataset: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the innermost datasets of a dataset and their paths in the config.

    Args:
        dataset (dict | Dataset): The config of a dataset, or a built one.
        path (str): Its own path in the config.
    """

    def get(key):
        return dataset.get(key) if isinstance(dataset, Mapping) else getattr(dataset, key, None)

    several = get('datasets')
    if isinstance(several, Sequence):
        for index, each in enumerate(several):
            yield from innermost(each, f'{path}.datasets[{index}]')
    elif get('dataset') is not None:
        yield from innermost(get('dataset'), f'{path}.dataset')
    else:
        yield path, dataset


def check_paths(config: Config) -> list[Finding]:
    """Check that annotation files and folders of datasets and evaluators exist."""
    findings = []
    for name, loader in loaders_of(config).items():
        for path, settings in innermost(loader.get('dataset') or {}, f'{name}.dataset'):
            missing = [
                each
                for each in paths_of(settings)
                if ANYWHERE not in each and not os.path.exists(os.path.expanduser(each))
            ]
            if missing and downloads(settings):
                text = f'{path}: {", ".join(missing)} is not here and will be downloaded: not checked.'
                findings.append(Finding('ok', 'files', text))
            elif missing and not is_remote(settings):
                text = f'{path}: there is no {", no ".join(missing)} here.'
                advice = f'Set data_root, ann_file and data_prefix of {path}, relative to {Path.cwd()}.'
                findings.append(Finding('error', 'files', text, advice))
    for name in ('val_evaluator', 'test_evaluator'):
        evaluators = config.get(name) or []
        images = name.replace('evaluator', 'dataloader')
        if config.get(images) is None:
            continue
        several = isinstance(evaluators, Sequence)
        for index, each in enumerate(evaluators if several else [evaluators]):
            file = each.get('ann_file') if isinstance(each, Mapping) else None
            if not file or ANYWHERE in file:
                continue
            given = evaluated_files(config, images)
            right = given[0] if len(given) == 1 else None
            other = right and os.path.realpath(file) != os.path.realpath(right)
            place = f'{name}.{index}' if several else name
            mend = nest_in(config, f'{place}.ann_file', right) if other else {}
            if not os.path.exists(file):
                text = f'{name}: there is no {file} here.'
                findings.append(Finding('error', 'files', text, mend=mend))
            elif other:
                text = f'{name} compares with {file}, but the images are those of {right}.'
                findings.append(Finding('error', 'files', text, mend=mend))
            elif right and (subset := subset_of(config, images)):
                text = f'{name} scores all images of {file}, but {subset}: '
                text += 'objects in the others count as missed.'
                advice = 'Evaluate all images, or write the annotations of these to a file of their own.'
                findings.append(Finding('warning', 'files', text, advice))
    return findings


def is_remote(settings: Mapping[str, Any]) -> bool:
    """Whether the ``backend_args`` of a dataset select remote storage (bool)."""
    owners = [settings, *(step for step in settings.get('pipeline') or [] if isinstance(step, Mapping))]
    given = [owner.get(key) or {} for owner in owners for key in ('backend_args', 'file_client_args')]
    return any(each.get('backend', 'local') not in ('local', 'disk') for each in given)


def downloads(settings: Mapping[str, Any]) -> bool:
    """Whether a dataset downloads its files itself, as mmpretrain's CIFAR and MNIST do (bool)."""
    return bool(argument_of(settings, 'download'))


def kind_of(settings: Mapping[str, Any]) -> Any:
    """Return the class of a dataset from its config; None if there is no such class."""
    kind = settings.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:  # the registry of the default scope
            return registry.get(kind)
    return kind


def argument_of(settings: Mapping[str, Any], name: str) -> Any:
    """Return an argument of a dataset from its config, or its default; None if there is no such argument."""
    kind = kind_of(settings)
    if name in settings or not isinstance(kind, type):
        return settings.get(name)
    owners = [vars(each)['__init__'] for each in kind.__mro__[:-1] if '__init__' in vars(each)]
    arguments = [signature(owner).parameters.get(name) for owner in owners]
    return next((argument.default for argument in arguments if argument is not None), None)


def paths_of(settings: Mapping[str, Any]) -> list[str]:
    """Return the files and folders in a dataset config, joined as in mmengine's BaseDataset (list[str])."""
    root = settings.get('data_root') or ''
    prefixes = settings.get('data_prefix') or {}
    prefixes = {'': prefixes} if isinstance(prefixes, str) else prefixes
    files = [settings.get('ann_file') or '', *prefixes.values()]
    joined = [os.path.join(root, file) for file in files if isinstance(file, str) and file]
    return list(dict.fromkeys(joined or ([root] if root else [])))


def evaluated_files(config: Config, name: str) -> list[str]:
    """Return the annotation files of a dataloader's datasets (list[str])."""
    dataset = (config.get(name) or {}).get('dataset') or {}
    return [
        os.path.join(settings.get('data_root') or '', settings['ann_file'])
        for _, settings in innermost(dataset, '')
        if settings.get('ann_file')
    ]


def subset_of(config: Config, name: str) -> str:
    """Describe which images a dataloader's dataset selects (str); '' if it takes all of them."""
    dataset = (config.get(name) or {}).get('dataset') or {}
    for path, settings in innermost(dataset, f'{name}.dataset'):
        indices = settings.get('indices')
        if indices is not None:
            return f'{path} reads {indices if isinstance(indices, int) else len(indices)} of them (indices)'
    return ''


def check_images(name: str, loader: DataLoader, settings: Mapping[str, Any]) -> list[Finding]:
    """Check that the images and masks listed in the annotations exist.

    Args:
        name (str): Name of the dataloader in the config.
        loader (DataLoader): The dataloader.
        settings (dict): Its config.
    """
    findings = []
    places = dict(innermost(settings['dataset'], f'{name}.dataset'))
    for path, dataset in innermost(loader.dataset, f'{name}.dataset'):
        if not hasattr(dataset, 'get_data_info') or is_remote(places.get(path) or {}):
            continue
        looked, missing = 0, []
        for index in sample_indices(len(dataset)):
            info = dataset.get_data_info(index)
            for file in (info.get('img_path'), info.get('seg_map_path')):
                if isinstance(file, str) and ANYWHERE not in file:
                    looked += 1
                    missing += [] if os.path.exists(file) else [file]
        if missing:
            text = f'{path}: {len(missing)} of {looked} checked files are missing: {missing[0]} first.'
            advice = 'Compare data_root and data_prefix with the folders, or leave these images out.'
            findings.append(Finding('error', 'files', text, advice))
    return findings
