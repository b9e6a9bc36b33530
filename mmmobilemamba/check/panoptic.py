"""Compares things and stuff of mmdet's panoptic segmentors with the data.

Their heads take the first ``num_things_classes`` labels for things, and the ``num_stuff_classes`` after them
for stuff. Instance segmentation with the same heads has no stuff.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from torch import nn
from torch.utils.data import DataLoader

from ..engine.training_check_hook import metainfo_of
from .classes import categories_in, class_weights, classes_of, dotted, has_classes, label_names, listed
from .files import innermost, kind_of
from .finding import Finding, lookup, merge, nest_in

HEADS = ('panoptic_head', 'panoptic_fusion_head', 'semantic_head')
METAINFO_KEYS = ('thing_classes', 'stuff_classes')


def counting_heads(model: nn.Module) -> dict[str, nn.Module]:
    """Return the heads of a model that count things and stuff, by name (dict); {} for other models."""
    heads = {name: getattr(model, name, None) for name in HEADS}
    return {name: head for name, head in heads.items() if hasattr(head, 'num_things_classes')}


def things_and_stuff(dataset: Any, settings: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names of things and stuff of a dataset, by label (tuple[list[str], list[str]]).

    Args:
        dataset (Dataset): The dataset.
        settings (Mapping): Its config.
    """
    names = label_names(dataset, settings)
    own = getattr(kind_of(settings), 'METAINFO', None) or {}
    if list(own.get('classes') or ()) == names:  # COCO's annotations take long to read
        stuff = set(own.get('stuff_classes') or ())
    else:
        stuff = {str(each.get('name')) for each in categories_in(settings) if each.get('isthing') == 0}
    return [name for name in names if name not in stuff], [name for name in names if name in stuff]


def check_order_of_things(name: str, loader: DataLoader, config: Config) -> list[Finding]:
    """Check that things come before stuff, and that the names in the metainfo are those of the data.

    Args:
        name (str): Name of the dataloader in the config.
        loader (DataLoader): The dataloader.
        config (Config): The whole config.
    """
    places = dict(innermost(config[name]['dataset'], f'{name}.dataset'))
    return [
        finding
        for path, dataset in innermost(loader.dataset, f'{name}.dataset')
        for finding in _check_order(path, dataset, places.get(path) or {}, config)
    ]


def _check_order(path, dataset, settings, config) -> list[Finding]:
    """Check the order and the names of one dataset."""
    things, stuff = things_and_stuff(dataset, settings)
    names = label_names(dataset, settings)
    if not stuff:
        return []
    if names != things + stuff:
        text = (
            f'{path}: label {names.index(stuff[0])}, {stuff[0]}, is stuff, and labels after it are things. '
            f'Heads take the first labels for things.'
        )
        return [Finding('error', 'classes', text, 'Order the categories in the annotations: things first.')]
    metainfo = metainfo_of(dataset)
    given = [[name for name in metainfo.get(key) or () if name in names] for key in METAINFO_KEYS]
    if given == [things, stuff]:
        return []
    text = (
        f'{path}: metainfo names {len(given[0])} of {len(things)} things and {len(given[1])} of '
        f'{len(stuff)} stuff classes, and the metric takes only those for things.'
    )
    mends = [
        nest_in(config, f'{dotted(path)}.metainfo.{key}', tuple(right))
        for key, right in zip(METAINFO_KEYS, (things, stuff))
    ]
    return [Finding('error', 'classes', text, 'Name all of them:', merge(mends))]


def check_things(
    model: nn.Module, dataset: Any, settings: Mapping[str, Any], config: Config
) -> list[Finding]:
    """Compare the number of things and stuff classes of all heads with the data.

    Args:
        model (nn.Module): A model with :func:`counting_heads`.
        dataset (Dataset): The training dataset.
        settings (Mapping): Its config.
        config (Config): The whole config.

    Returns:
        list[Finding]: Errors for heads with fewer classes than the data, or where stuff would be taken for
        things; warnings for those with more classes.
    """
    if not classes_of(dataset):
        return []
    things, stuff = map(len, things_and_stuff(dataset, settings))
    data = f'The data have {things} things and {stuff} stuff classes ({listed(classes_of(dataset))})'
    findings: dict[str, Finding] = {}
    for name, head in counting_heads(model).items():
        given = head.num_things_classes, head.num_stuff_classes
        if given == (things, stuff):
            continue
        shifted = stuff > 0 and given[0] != things
        level = 'error' if shifted or given[0] < things or given[1] < stuff else 'warning'
        weights = class_weights(lookup(config, f'model.{name}') or {}, sum(given), things + stuff)
        right = dict(num_things_classes=things, num_stuff_classes=stuff, **weights)
        text = f'{data}, but the {name} has {given[0]} and {given[1]}.'
        findings[name] = Finding(level, 'classes', text, mend=nest_in(config, f'model.{name}', right))
    for name, module in model.named_modules():  # of boxes and masks, which are of things
        path = re.sub(r'\.\d+', '', name)
        number: Any = getattr(module, 'num_classes', None)
        own = has_classes(path, module, lookup(config, f'model.{name}')) and path not in HEADS
        if not own or number == things:
            continue
        text = f'{data}, but the {path} has {number}, for things.'
        mend = nest_in(config, f'model.{name}.num_classes', things)
        mend = merge([findings[path].mend if path in findings else {}, mend])
        level = 'error' if number < things else 'warning'
        findings[path] = Finding(level, 'classes', text, mend=mend)
    return list(findings.values())
