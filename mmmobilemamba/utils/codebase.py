"""Which codebase of OpenMMLab a config is for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

CODEBASES = ('mmdet', 'mmseg', 'mmpretrain')


def codebase_of(config: Config) -> str | None:
    """One of ``CODEBASES``: the config's ``default_scope``, or else where its types are from.

    None if neither tells. Configs in mmengine's pure Python style may have no ``default_scope``, as their
    types are classes (https://mmengine.readthedocs.io/en/latest/advanced_tutorials/config.html). The model's
    type counts, then that of the test data.
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
    """Where a type is from, a class or a name with a scope, and those that it is made from."""
    names = [each.__module__ for each in kind.__mro__] if isinstance(kind, type) else [str(kind)]
    return [name.partition('.')[0] for name in names]


def _test_datasets(config: Config) -> Iterator[Any]:
    """Types of the test dataset and of those in it."""
    loader = config.get('test_dataloader') or {}
    waiting = [each.get('dataset') for each in (loader if isinstance(loader, list) else [loader])]
    while waiting:
        dataset = waiting.pop(0) or {}
        yield dataset.get('type')
        waiting += [dataset.get('dataset'), *dataset.get('datasets', [])] if 'type' in dataset else []
