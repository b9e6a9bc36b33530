"""Determines the OpenMMLab codebase of a config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

CODEBASES = ('mmdet', 'mmseg', 'mmpretrain')


def codebase_of(config: Config) -> str | None:
    """Return the codebase of a config, one of ``CODEBASES``, or None if it cannot be determined.

    This is the config's ``default_scope``. Configs in mmengine's pure Python style may have none, because
    their types are classes (https://mmengine.readthedocs.io/en/latest/advanced_tutorials/config.html); for
    them, it is the package of the model's type or else of the test dataset's.
    """
    scope = config.get('default_scope')
    if scope and scope != 'mmengine':
        return scope if scope in CODEBASES else None
    model = config.get('model') or {}
    for kind in (model.get('model_type'), model.get('type'), *_test_datasets(config)):
        for package in _packages(kind):
            if package in CODEBASES:
                return package
    return None


def _packages(kind: Any) -> list[str]:
    """Return the package of a type, a class or a scoped name, and those of its base classes."""
    names = [each.__module__ for each in kind.__mro__] if isinstance(kind, type) else [str(kind)]
    return [name.partition('.')[0] for name in names]


def _test_datasets(config: Config) -> Iterator[Any]:
    """Yield the types of the test dataset and of the datasets it wraps."""
    loader = config.get('test_dataloader') or {}
    waiting = [each.get('dataset') for each in (loader if isinstance(loader, list) else [loader])]
    while waiting:
        dataset = waiting.pop(0) or {}
        yield dataset.get('type')
        waiting += [dataset.get('dataset'), *dataset.get('datasets', [])] if 'type' in dataset else []
