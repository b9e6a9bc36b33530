"""Compares ``reduce_zero_label`` of mmseg's datasets with their pipelines and with the labels in masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mmcv
import mmengine.fileio
import numpy as np
from mmengine.config import Config
from torch.utils.data import DataLoader

from .classes import classes_of, dotted, listed
from .failures import FAILURES
from .files import argument_of, innermost
from .finding import Finding, merge, nest_in

KEY = 'reduce_zero_label'
MASKS = 50  # number of masks that are read, at even intervals in a dataset
IGNORED = 255


def check_zero_label(config: Config, loaders: Mapping[str, DataLoader]) -> list[Finding]:
    """Check that datasets and pipelines agree, and that label 0 is left out only if it is no class.

    mmseg (1.2.2) stops at the first image if a dataset and its ``LoadAnnotations`` differ.

    Args:
        config (Config): The whole config.
        loaders (dict[str, DataLoader]): The dataloaders by name.

    Returns:
        list[Finding]: One finding for all dataloaders, or none.
    """
    places = [place for name, loader in loaders.items() for place in _places(config, name, loader)]
    differing = [place for place in places if any(value != place.reduced for value in place.steps.values())]
    findings = []
    if differing:
        told = next((needs for needs in map(needs_reduction, differing) if needs is not None), None)
        right = told is not False
        text = (
            f'{listed([place.path for place in differing])}: LoadAnnotations has {KEY}='
            f'{not differing[0].reduced} and the dataset {differing[0].reduced}, so mmseg stops at the first '
            f'image.'
        )
        why = 'is no class, and 1 the first one' if right else 'is the first class'
        advice = f'The masks look as if label 0 {why}:' if told is not None else f'If label 0 {why}:'
        findings.append(
            Finding('error', 'masks', text, advice, merge(place.change(config, right) for place in differing))
        )
    agreeing = [place for place in places if place not in differing and place.reduced]
    for place in agreeing[:1]:
        if needs_reduction(place) is False:
            text = (
                f'{place.path}: {KEY}=True leaves out label 0 and makes label 1 the first class, and no mask '
                f'that was looked at has label {len(place.classes)}, which would be the last.'
            )
            mend = merge(each.change(config, False) for each in agreeing)
            findings.append(Finding('warning', 'masks', text, 'If label 0 is the first class:', mend))
    return findings


class _Place:
    """A dataset with masks, and its place in the config."""

    def __init__(self, path: str, settings: Mapping[str, Any], dataset: Any) -> None:
        self.path, self.dataset, self.classes = path, dataset, classes_of(dataset)
        self.reduced = bool(getattr(dataset, KEY))
        steps = enumerate(settings.get('pipeline') or [])
        found = {index: step.get(KEY) for index, step in steps if isinstance(step, Mapping)}
        self.steps = {index: value for index, value in found.items() if value is not None}

    def change(self, config: Config, right: bool) -> dict[str, Any]:
        """The changes of dataset and pipeline that set the value to ``right`` (dict)."""
        path = dotted(self.path)
        changes = [nest_in(config, f'{path}.{KEY}', right)] if self.reduced != right else []
        changes += [
            nest_in(config, f'{path}.pipeline.{index}.{KEY}', right)
            for index, value in self.steps.items()
            if value != right
        ]
        return merge(changes)


def _places(config: Config, name: str, loader: DataLoader) -> Iterator[_Place]:
    settings = dict(innermost(config[name]['dataset'], f'{name}.dataset'))
    for path, dataset in innermost(loader.dataset, f'{name}.dataset'):
        own = settings.get(path)
        if own is not None and argument_of(own, KEY) is not None and hasattr(dataset, KEY):
            yield _Place(path, own, dataset)


def needs_reduction(place: _Place) -> bool | None:
    """Whether label 0 is no class (bool), as the labels tell: 1 to N or 0 to N - 1 for N classes.

    Returns:
        bool, optional: None if the labels do not tell.
    """
    labels, number = labels_of(place.dataset) - {IGNORED}, len(place.classes)
    if number in labels:
        return True
    return False if labels == set(range(number)) else None


def labels_of(dataset: Any) -> set[int]:
    """Return the labels in the mask files of a dataset (set[int]); those that cannot be read have none."""
    labels: set[int] = set()
    for index in np.unique(np.linspace(0, len(dataset) - 1, MASKS).round().astype(int)):
        path = dataset.get_data_info(int(index)).get('seg_map_path')
        try:
            content = mmengine.fileio.get(path, backend_args=dataset.backend_args)
            labels |= set(np.unique(mmcv.imfrombytes(content, flag='unchanged', backend='pillow')).tolist())
        except FAILURES:  # reported by the other checks of masks
            continue
    return labels
