"""Checks files, annotations, classes and masks of a config's data."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from torch import nn
from torch.utils.data import DataLoader

from ..engine.mask_check import check_masks
from ..engine.runners import PortableRunner
from ..engine.training_check_hook import (
    check_classes,
    check_iterations,
    check_smallest_batch,
    check_validation,
)
from .finding import Finding, nest
from .maps import FAILURES, flatten

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


# Files.


def check_paths(config: Config) -> list[Finding]:
    """Check that annotation files and folders of datasets and evaluators exist."""
    findings = []
    for name, loader in loaders_of(config).items():
        for path, settings in innermost(loader.get('dataset') or {}, f'{name}.dataset'):
            missing = [
                each for each in paths_of(settings) if ANYWHERE not in each and not os.path.exists(each)
            ]
            if missing and downloads(settings):
                text = f'{path}: {", ".join(missing)} is not here and will be downloaded: not looked at.'
                findings.append(Finding('ok', 'files', text))
            elif missing and not is_remote(settings):
                text = f'{path}: there is no {", no ".join(missing)} here.'
                advice = f'Set data_root, ann_file and data_prefix of {path}, relative to {Path.cwd()}.'
                findings.append(Finding('error', 'files', text, advice))
    for name in ('val_evaluator', 'test_evaluator'):
        evaluators = config.get(name) or []
        for each in evaluators if isinstance(evaluators, Sequence) else [evaluators]:
            file = each.get('ann_file') if isinstance(each, Mapping) else None
            if not file or ANYWHERE in file:
                continue
            given = evaluated_files(config, name.replace('evaluator', 'dataloader'))
            right = given[0] if len(given) == 1 else None
            other = right and os.path.abspath(file) != os.path.abspath(right)
            mend = nest(f'{name}.ann_file', right) if other and isinstance(evaluators, Mapping) else {}
            if not os.path.exists(file):
                text = f'{name}: there is no {file} here.'
                findings.append(Finding('error', 'files', text, mend=mend))
            elif other:
                text = f'{name} compares with {file}, and the images are those of {right}.'
                findings.append(Finding('error', 'files', text, mend=mend))
    return findings


def is_remote(settings: Mapping[str, Any]) -> bool:
    """Whether the ``backend_args`` of a dataset select remote storage (bool)."""
    owners = [settings, *(step for step in settings.get('pipeline') or [] if isinstance(step, Mapping))]
    given = [owner.get(key) or {} for owner in owners for key in ('backend_args', 'file_client_args')]
    return any(each.get('backend', 'local') not in ('local', 'disk') for each in given)


def downloads(settings: Mapping[str, Any]) -> bool:
    """Whether a dataset downloads its files itself, as mmpretrain's CIFAR and MNIST do (bool)."""
    kind = settings.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:  # the registry of the default scope
            kind = registry.get(kind)
    if not isinstance(kind, type):
        return False
    owners = [vars(each)['__init__'] for each in kind.__mro__[:-1] if '__init__' in vars(each)]
    arguments = [signature(owner).parameters.get('download') for owner in owners]
    defaults = [argument.default for argument in arguments if argument is not None]
    return bool(settings.get('download', defaults[0] if defaults else False))


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
            text = f'{path}: {len(missing)} of {looked} files looked up are missing: {missing[0]} first.'
            advice = 'Compare data_root and data_prefix with the folders, or leave these images out.'
            findings.append(Finding('error', 'files', text, advice))
    return findings


# Loaders.


def build_loader(name: str, settings: Mapping[str, Any]) -> DataLoader | Finding:
    """Build a dataloader as the Runner does.

    Returns:
        DataLoader | Finding: The dataloader, or the error.
    """
    try:
        return PortableRunner.build_dataloader(dict(settings), seed=0)
    except FAILURES as error:
        text = f'{name} cannot be built: {type(error).__name__}: {shorten(error)}'
        names = [found for _, each in innermost(settings['dataset'], '') for found in names_in(each)]
        advice = f'Its annotations have the classes {", ".join(names[:10])}.' if names else ''
        return Finding('error', 'data', text, advice)


def shorten(error: BaseException) -> str:
    """Return the message of an error on one line, cut after 600 characters (str)."""
    text = ' '.join(str(error).split()) or repr(error)
    return text if len(text) <= 600 else f'{text[:600]} [...]'


def names_in(settings: Mapping[str, Any]) -> list[str]:
    """Return the category names of a dataset's COCO annotation file (list[str]), [] for other formats."""
    file = os.path.join(settings.get('data_root') or '', settings.get('ann_file') or '')
    if not file.endswith('.json') or not os.path.isfile(file):
        return []
    try:
        content = json.loads(Path(file).read_text())
    except ValueError:
        return []
    categories = content.get('categories') if isinstance(content, dict) else None
    return [str(each.get('name')) for each in categories or [] if isinstance(each, dict)]


def check_loader(model: nn.Module, name: str, loader: DataLoader, runs: bool) -> list[Finding]:
    """Check batches, classes and masks of a dataloader, and report its number of images.

    Args:
        model (nn.Module): The model to train or test.
        name (str): Name of the dataloader in the config.
        loader (DataLoader): The dataloader.
        runs (bool): Whether earlier checks found no error that keeps the model from running.
    """
    training = name == 'train_dataloader'
    findings = attempt('batches', name, check_iterations if training else check_validation, loader)
    if findings:
        return findings
    if training:
        findings += attempt('classes', name, check_classes, model, loader.dataset)
    if training and runs and not findings:
        as_in_training()
        findings += attempt('batch norm', name, check_smallest_batch, model, loader)
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


# Classes.


def check_names(name: str, loader: DataLoader, settings: Mapping[str, Any]) -> list[Finding]:
    """Check for class names that are missing from the annotations, and for classes without objects.

    Args:
        name (str): Name of the dataloader in the config.
        loader (DataLoader): The dataloader.
        settings (dict): Its config.
    """
    findings = []
    places = dict(innermost(settings['dataset'], f'{name}.dataset'))
    for path, dataset in innermost(loader.dataset, f'{name}.dataset'):
        classes = classes_of(dataset)
        known = getattr(dataset, 'cat_ids', None)
        if isinstance(known, list) and len(known) < len(classes):
            there = names_in(places.get(path) or {})
            absent = [each for each in classes if each not in there]
            text = (
                f'{path}: the annotations have {len(known)} of {len(classes)} classes: not {listed(absent)}.'
            )
            findings.append(Finding('error', 'classes', text, *advise_names(path, there)))
            continue
        seen = Counter(labels_in(dataset))
        empty = [each for label, each in enumerate(classes) if not seen[label]]
        if seen and empty and name == 'train_dataloader':
            text = f'{path}: no image that was looked at has {listed(empty)}.'
            findings.append(Finding('warning', 'classes', text))
    return findings


def classes_of(dataset: Any) -> list[str]:
    """Return the class names of a dataset, in the order of their labels (list[str]); [] if it has none."""
    return list((getattr(dataset, 'metainfo', None) or {}).get('classes') or ())


def check_order(name: str, dataset: Any, learnt: Sequence[str]) -> list[Finding]:
    """Check that the classes of a test dataset have the labels that they have in the training data.

    Args:
        name (str): Name of the dataloader in the config.
        dataset (Dataset): Its dataset.
        learnt (Sequence[str]): Class names of the training data; [] if unknown.
    """
    findings = []
    for path, each in innermost(dataset, f'{name}.dataset'):
        classes = classes_of(each)
        if classes == list(learnt) or sorted(classes) != sorted(learnt):  # other names are another finding
            continue
        label = next(index for index, pair in enumerate(zip(classes, learnt)) if len(set(pair)) > 1)
        text = (
            f'{path}: label {label} is {classes[label]}, but {learnt[label]} in the training data; '
            f'predictions would be scored as other classes.'
        )
        change = {} if '[' in path else nest(f'{path}.metainfo.classes', tuple(learnt))
        findings.append(Finding('error', 'classes', text, 'Use the order of the training data:', change))
    return findings


def advise_names(path: str, names: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the advice for wrong class names: a text, and config changes unless the dataset is in a list."""
    if not names:
        return 'Set metainfo=dict(classes=...) to the names in the annotations.', {}
    if '[' in path:
        return f'Set metainfo=dict(classes=...) in each of the datasets; there are {listed(names)}.', {}
    return 'The names that there are, of which some will do:', nest(f'{path}.metainfo.classes', tuple(names))


def listed(names: Sequence[Any]) -> str:
    """Join the first five names with commas (str)."""
    return ', '.join(map(str, names[:5])) + (f' and {len(names) - 5} more' if len(names) > 5 else '')


def labels_in(dataset: Any) -> Iterator[int]:
    """Yield the labels of images or objects in a dataset, for at most ``IMAGES`` images."""
    if not hasattr(dataset, 'get_data_info'):
        return
    for index in sample_indices(len(dataset)):
        info = dataset.get_data_info(index)
        labels = info.get('gt_label')
        for label in labels if isinstance(labels, Sequence) else [labels]:
            if isinstance(label, (int, np.integer)):
                yield int(label)
        for each in info.get('instances') or []:
            if isinstance(each, Mapping) and isinstance(each.get('bbox_label'), (int, np.integer)):
                yield int(each['bbox_label'])


def check_heads(model: nn.Module, dataset: Any) -> list[Finding]:
    """Compare the classes of a detector's heads with the data; ``check_classes`` handles other models."""
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    if not classes or hasattr(model, 'num_things_classes') or hasattr(model, 'panoptic_fusion_head'):
        return []
    findings = {}
    for name, module in model.named_modules():
        number = getattr(module, 'num_classes', None)
        path = '.'.join(each for each in name.split('.') if not each.isdigit())
        if path not in DETECTION_HEADS or not isinstance(number, int) or number == len(classes):
            continue
        if path.endswith('mask_head') and getattr(module, 'class_agnostic', False):
            continue
        level = 'error' if number < len(classes) else 'warning'
        text = f'The data have {len(classes)} classes ({listed(classes)}), and the {path} has {number}.'
        several = path != name
        advice = f'Set num_classes={len(classes)} in each of them.' if several else ''
        mend = {} if several else nest(f'model.{path}.num_classes', len(classes))
        findings[path] = Finding(level, 'classes', text, advice, mend)
    return list(findings.values())


DETECTION_HEADS = ('bbox_head', 'mask_head', 'roi_head.bbox_head', 'roi_head.mask_head')


# One batch.


def as_in_training() -> None:
    """Set the progress in the message hub if it is missing; YOLOX, for example, resizes by iteration."""
    hub = MessageHub.get_current_instance()
    for key, value in dict(epoch=0, iter=0, max_epochs=1, max_iters=1).items():
        if hub.get_info(key) is None:
            hub.update_info(key, value)


def lost_objects(dataset: Any, samples: Sequence[Any]) -> Finding | None:
    """Check that the pipeline keeps objects of a detector's first images.

    Args:
        dataset (Dataset): The training dataset.
        samples (Sequence[dict]): Its first items, as the pipeline makes them.
    """
    if not hasattr(dataset, 'get_data_info'):
        return None
    infos = [dataset.get_data_info(index) for index in range(len(samples))]
    annotated = sum(len(info.get('instances') or []) for info in infos)
    targets = [getattr(sample.get('data_samples'), 'gt_instances', None) for sample in samples]
    if not annotated or any(target is None or len(target) for target in targets):
        return None
    text = (
        f'The first {len(samples)} images have {annotated} objects, and the pipeline keeps none of them, so '
        f'that nothing would be learnt.'
    )
    advice = (
        'Look at its output with browse_dataset. LoadAnnotations with poly2mask=False, for example, reads '
        'polygons alone and drops objects whose masks are run lengths (RLE): set poly2mask=True.'
    )
    return Finding('error', 'data', text, advice)


def check_loss(model: nn.Module, loader: DataLoader) -> Finding | None:
    """Check that the loss of the first two images (one if the batch size is 1) is computable and finite."""
    if not isinstance(model, BaseModel):
        return None
    as_in_training()
    number = min(2, len(loader.dataset), loader.batch_sampler.batch_size or 1)
    try:
        samples = [loader.dataset[index] for index in range(number)]
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
