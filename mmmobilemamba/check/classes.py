"""Compares classes of a config with annotations, other datasets and the heads of the model."""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from torch import nn
from torch.utils.data import DataLoader

from ..engine.training_check_hook import metainfo_of
from .files import innermost, kind_of, sample_indices
from .finding import Finding, lookup, merge, nest, nest_in


def categories_in(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the categories in a dataset's COCO annotation file (list[dict]), [] for other formats."""
    file = os.path.join(settings.get('data_root') or '', settings.get('ann_file') or '')
    if not file.endswith('.json') or not os.path.isfile(file):
        return []
    return read_categories(file, os.stat(file).st_mtime_ns)


@functools.lru_cache(maxsize=16)  # several checks need them, and large files take long to read
def read_categories(file: str, changed: int) -> list[dict[str, Any]]:
    """Return the categories in a JSON file (list[dict]), [] if it cannot be read or has none.

    Args:
        file (str): The file.
        changed (int): When it was changed, so that a new one is read again.
    """
    try:
        content = json.loads(Path(file).read_text())
    except (OSError, ValueError):
        return []
    categories = content.get('categories') if isinstance(content, dict) else None
    return [each for each in categories or [] if isinstance(each, dict)]


def names_in(settings: Mapping[str, Any]) -> list[str]:
    """Return the category names of a dataset's COCO annotation file (list[str]), [] for other formats."""
    return [str(each.get('name')) for each in categories_in(settings)]


def given_classes(settings: Mapping[str, Any]) -> Sequence[str]:
    """Return the class names of a dataset config, or those of its class; [] if there are none."""
    given = (settings.get('metainfo') or {}).get('classes')
    return given or (getattr(kind_of(settings), 'METAINFO', None) or {}).get('classes') or []


def check_names(name: str, loader: DataLoader, config: Config) -> list[Finding]:
    """Check class names against the annotations: names that they lack, have twice, or have in another order.

    Classes of the training data without objects are a warning.

    Args:
        name (str): Name of the dataloader in the config.
        loader (DataLoader): The dataloader.
        config (Config): The whole config.
    """
    findings = []
    places = dict(innermost(config[name]['dataset'], f'{name}.dataset'))
    for path, dataset in innermost(loader.dataset, f'{name}.dataset'):
        classes = classes_of(dataset)
        wrong = _check_names(path, dataset, places.get(path) or {}, config)
        if wrong:
            findings.append(wrong)
            continue
        seen = Counter(labels_in(dataset))
        empty = [each for label, each in enumerate(classes) if not seen[label]]
        if seen and empty and name == 'train_dataloader':
            text = f'{path}: none of the checked images has {listed(empty)}.'
            findings.append(Finding('warning', 'classes', text))
    return findings


def _check_names(path, dataset, settings, config) -> Finding | None:
    """Compare the class names of a dataset with its annotations or folders."""
    classes, known = classes_of(dataset), getattr(dataset, 'cat_ids', None)
    there = names_in(settings) if isinstance(known, list) and len(known) != len(classes) else []
    if isinstance(known, list) and len(known) < len(classes):
        absent = [each for each in classes if each not in there]
        text = f'{path}: the annotations have {len(known)} of {len(classes)} classes: not {listed(absent)}.'
        return Finding('error', 'classes', text, *advise_names(path, there, config))
    twice = [each for each, times in Counter(there).items() if times > 1 and each in classes]
    if twice:
        text = (
            f'{path}: several categories of the annotations have the same name: {listed(twice)}. Each of '
            f'them is a label of its own, and there are {len(classes)} classes.'
        )
        return Finding('error', 'classes', text, 'Give each name to one category.')
    labels = label_names(dataset, settings)
    label = first_difference(labels, classes)
    if label is None:
        return None
    text = (
        f'{path}: label {label} is {labels[label]}, and metainfo calls it {classes[label]}. Labels have the '
        f'order of the categories in the annotations, or of the folders.'
    )
    mend = nest_in(config, f'{dotted(path)}.metainfo.classes', tuple(labels))
    return Finding('error', 'classes', text, 'Give the names in that order:', mend)


def classes_of(dataset: Any) -> list[str]:
    """Return the class names in the metainfo of a dataset (list[str]); [] if it has none."""
    return list(metainfo_of(dataset).get('classes') or ())


def label_names(dataset: Any, settings: Mapping[str, Any]) -> list[str]:
    """Return the class names of a dataset in the order of its labels (list[str]).

    mmdet's COCO datasets (3.3.0) number the classes in the order of the annotations, and mmpretrain's
    CustomDataset (1.2.0) in that of the folders, whatever the order in the metainfo.

    Args:
        dataset (Dataset): The dataset.
        settings (Mapping): Its config.
    """
    classes = classes_of(dataset)
    found = classes
    folders, ids = getattr(dataset, 'folder_to_idx', None), getattr(dataset, 'cat_ids', None)
    if isinstance(folders, Mapping):
        found = sorted(folders, key=folders.__getitem__)
    # COCO itself has the order of its dataset class, and its annotations take long to read.
    elif isinstance(ids, list) and classes != list(getattr(dataset, 'METAINFO', {}).get('classes') or ()):
        names = {each.get('id'): str(each.get('name')) for each in categories_in(settings)}
        found = [names[each] for each in ids if each in names]
    return found if sorted(found) == sorted(classes) else classes


def first_difference(names: Sequence[str], others: Sequence[str]) -> int | None:
    """Return the first label whose names differ (int), None if there is none."""
    return next((label for label, pair in enumerate(zip(names, others)) if len(set(pair)) > 1), None)


def check_order(name: str, loader: DataLoader, learnt: Sequence[str], config: Config) -> list[Finding]:
    """Check that the classes of each dataset have the labels that they have in the training data.

    Args:
        name (str): Name of the dataloader in the config.
        loader (DataLoader): The dataloader.
        learnt (Sequence[str]): Class names of the (first) training dataset, by label; [] if unknown.
        config (Config): The whole config.
    """
    findings = []
    places = dict(innermost(config[name]['dataset'], f'{name}.dataset'))
    for path, each in innermost(loader.dataset, f'{name}.dataset'):
        names = label_names(each, places.get(path) or {})
        mend = nest_in(config, f'{dotted(path)}.metainfo.classes', tuple(learnt))
        if learnt and not names and hasattr(each, 'reduce_zero_label'):
            text = f'{path} has no class names, which the metrics of mmseg need.'
            findings.append(Finding('error', 'classes', text, 'Those of the training data:', mend))
        label = first_difference(names, learnt)
        if label is None:
            continue
        text = (
            f'{path}: label {label} is {names[label]}, but {learnt[label]} in the training data; '
            f'predictions would be scored as other classes.'
        )
        advice = 'Use the classes of the training data:'
        if hasattr(each, 'cat_ids') or hasattr(each, 'folder_to_idx'):
            advice = (
                'Labels have the order of the categories in the annotations, or of the folders: give both '
                'datasets the same ones in the same order; a folder may be empty.'
            )
            mend = {}
        findings.append(Finding('error', 'classes', text, advice, mend))
    return findings


def advise_names(path: str, names: Sequence[str], config: Config) -> tuple[str, dict[str, Any]]:
    """Return the advice for wrong class names: a text and config changes.

    Args:
        path (str): Path of the dataset in the config.
        names (Sequence[str]): The names in its annotations; [] if unknown.
        config (Config): The whole config.
    """
    if not names:
        return 'Set metainfo=dict(classes=...) to the names in the annotations.', {}
    return 'The names in the annotations; remove those that should not be learnt:', nest_in(
        config, f'{dotted(path)}.metainfo.classes', tuple(names)
    )


def dotted(path: str) -> str:
    """Write the indices of a path as keys: ``'datasets[0]'`` as ``'datasets.0'`` (str)."""
    return re.sub(r'\[(\d+)\]', r'.\1', path)


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


def check_heads(model: nn.Module, dataset: Any, config: Config) -> list[Finding]:
    """Compare the number of classes of all heads with the data.

    Args:
        model (nn.Module): The model.
        dataset (Dataset): The training dataset.
        config (Config): The whole config.

    Returns:
        list[Finding]: Errors for heads with fewer classes than the data, warnings for those with more.
    """
    classes = classes_of(dataset)
    if not classes:
        return []
    findings: dict[str, Finding] = {}
    for name, module in model.named_modules():
        number: Any = getattr(module, 'num_classes', None)
        path = re.sub(r'\.\d+|^(student|teacher)\.', '', name)
        settings = lookup(config, f'model.{name}')
        if number == len(classes) or not has_classes(path, module, settings):
            continue
        level = 'error' if number < len(classes) else 'warning'
        text = f'The data have {len(classes)} classes ({listed(classes)}), but the {path} has {number}.'
        change = dict(num_classes=len(classes), **class_weights(settings, number, len(classes)))
        mends = [nest_in(config, f'model.{name}', change), preprocessor_classes(config, number, len(classes))]
        mend = merge([findings[path].mend if path in findings else {}, *mends])
        findings[path] = Finding(level, 'classes', text, mend=mend)
    return list(findings.values())


def has_classes(path: str, module: nn.Module, settings: Any) -> bool:
    """Whether a module is a head for the classes of the data, whose number its settings give (bool).

    Those of region proposals and of semantic heads of instance segmentation are others.
    """
    if not isinstance(getattr(module, 'num_classes', None), int) or not isinstance(settings, Mapping):
        return False
    own = inspect.signature(type(module).__init__).parameters
    if path.rpartition('.')[2] in ('rpn_head', 'semantic_head', 'backbone') or path.startswith('teacher'):
        return False
    if path.endswith('mask_head') and getattr(module, 'class_agnostic', False):
        return False
    return 'num_classes' in settings or 'num_classes' in own


def class_weights(settings: Mapping[str, Any], number: int, right: int) -> dict[str, Any]:
    """Return the changes of a head's losses with a weight for each class, of which one may be no class."""
    changes: dict[str, Any] = {}
    for key in ('loss_cls', 'loss_decode'):
        loss = settings.get(key)
        given = loss.get('class_weight') if isinstance(loss, Mapping) else None
        if isinstance(given, Sequence) and len(given) == number + 1:
            changes[key] = dict(class_weight=[given[0]] * right + [given[-1]])
        elif isinstance(given, Sequence) and len(given) == number:
            changes[key] = dict(class_weight=None)
    return changes


def preprocessor_classes(config: Config, number: int, right: int) -> dict[str, Any]:
    """Return the change of mmpretrain's data preprocessor, whose mixup makes a score for each class."""
    for key in ('data_preprocessor', 'model.data_preprocessor'):
        settings = lookup(config, key)
        if isinstance(settings, Mapping) and settings.get('num_classes') == number:
            return nest(f'{key}.num_classes', right)
    return {}
