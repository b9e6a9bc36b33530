"""Test pipelines and class names of a config's test data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ..utils import codebase_of
from .errors import DeploymentError


def datasets_of(config: Config) -> list[tuple[Mapping[str, Any], list[Mapping[str, Any]]]]:
    """Return the innermost test datasets of a config, each with its pipeline.

    Wrappers of one (``dataset``) or several (``datasets``) datasets are unwrapped; the pipeline of a wrapper,
    such as MultiImageMixDataset, follows that of the wrapped dataset. Falls back to the validation data if
    the config has no test data.

    Args:
        config (Config): A config of mmpretrain, mmdet or mmseg.

    Returns:
        list[tuple[dict, list[dict]]]: The config of each dataset and the steps of its pipeline.
    """
    loaders = config.get('test_dataloader') or config.get('val_dataloader') or []
    loaders = loaders if isinstance(loaders, Sequence) else [loaders]
    return [found for loader in loaders for found in _innermost(loader.get('dataset') or {}, [])]


def _innermost(dataset, after) -> Iterator[tuple[Mapping[str, Any], list[Mapping[str, Any]]]]:
    """Yield the datasets inside a dataset, with their pipelines followed by the steps ``after``."""
    steps = [*(dataset.get('pipeline') or []), *after]
    inside = dataset.get('datasets') or [dataset[key] for key in ('dataset',) if dataset.get(key)]
    if not inside:
        yield dataset, steps
    for each in inside:
        yield from _innermost(each, steps)


def labels_of(config: Config, trained: Sequence[str] | None = None) -> list[str]:
    """Return the class names of the built test data (list[str]), or [] if they are unknown.

    If the data cannot be opened, the names come from the first of these that has any: ``metainfo`` or
    ``classes`` of the config, the checkpoint, ``METAINFO`` of the dataset class.

    Args:
        config (Config): A config of mmpretrain, mmdet or mmseg.
        trained (Sequence[str], optional): The checkpoint's ``meta['dataset_meta']['classes']``.

    Raises:
        DeploymentError: If test sets have different class names, if the names are a file that does not exist,
            or if ``metainfo`` has the key ``CLASSES``, used before mmengine.
    """
    init_default_scope(codebase_of(config) or 'mmengine')
    every = [_names(dataset, trained) for dataset, _ in datasets_of(config)] or [list(trained or ())]
    if any(names != every[0] for names in every):
        raise DeploymentError(
            'The test sets of the config name different classes: give one of them in test_dataloader.dataset.'
        )
    return every[0]


def _names(dataset, trained) -> list[str]:
    """Return the class names of one dataset, see :func:`labels_of`."""
    if 'type' not in dataset:
        return _checked((dataset.get('metainfo') or {}).get('classes') or trained)
    if 'CLASSES' in (dataset.get('metainfo') or {}):
        raise DeploymentError(
            "The test data's metainfo has CLASSES, which mmengine's datasets do not read: write classes."
        )
    given = dataset.get('classes') or (dataset.get('metainfo') or {}).get('classes')
    try:
        built = DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True})
        if not built.metainfo.get('classes'):
            built.full_init()  # reads the class names from folders or annotations
        names = built.metainfo.get('classes')
    except (AssertionError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = f'{type(error).__name__}: {error}'
    else:
        return _checked(names or trained)
    names = given if given and not isinstance(given, str) else trained
    source = "the config's" if names is given else "those of the checkpoint's training"
    if not names:
        kind = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
        names, source = getattr(kind, 'METAINFO', {}).get('classes'), "those of the dataset's class"
    warnings.warn(
        f'The test data cannot be opened ({reason}), so the names of the classes are '
        f'{source if names else "left out"}.',
        stacklevel=3,
    )
    return _checked(names)


def _checked(names) -> list[str]:
    if isinstance(names, str):
        raise DeploymentError(
            f"The test data's classes are {names!r}, which is neither a list of names nor a file of such, a "
            f'name a line, that is there.'
        )
    return [str(name) for name in names or ()]
