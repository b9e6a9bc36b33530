"""Registers ``mobilemamba://NAME`` with mmengine: for ``init_cfg``, ``load_from`` and ``--checkpoint``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mmengine.runner import CheckpointLoader

from ..models.checkpoint import read_checkpoint
from .store import fetch
from .table import SCHEME, WEIGHTS, Weights, weights_of

# The dataset of a task, whose classes inferencers take from the checkpoint.
DATASETS = dict(detection=('mmdet.datasets', 'CocoDataset'), segmentation=('mmseg.datasets', 'ADE20KDataset'))


# mmengine names the loader in its log by what follows `load_from_`. `force`: a module may be imported again.
# The addresses of metafiles are ours, too: mmengine would download all files under one name, `download`.
@CheckpointLoader.register_scheme([SCHEME, *(re.escape(weights.url) for weights in WEIGHTS)], force=True)
def load_from_mobilemamba(filename: str, map_location: str | None = None) -> Mapping:
    """The content of published weights; those of detectors and segmentors with the names of their classes.

    Args:
        filename (str): Such as ``'mobilemamba://b1'``, or a ``Weights`` of our metafiles.
        map_location (str, optional): As in ``torch.load``. Defaults to None, the CPU.

    Raises:
        ValueError: If there are no weights of this name.
        CheckpointError: If they cannot be had or read.
    """
    content = read_checkpoint(fetch(filename), map_location or 'cpu')
    return with_classes(content, weights_of(filename))


def with_classes(content: Mapping, weights: Weights) -> Mapping:
    """The content of a file with ``meta['dataset_meta']``, which not every form of it has.

    mmseg's inferencer would draw with the classes of Cityscapes.

    Args:
        content (Mapping): Of a checkpoint, or a state dict.
        weights (Weights): Which it holds.

    Returns:
        Mapping: A checkpoint. For classifiers, or if the dataset's package is missing, ``content`` as it is.
    """
    meta: Mapping[str, Any] = content.get('meta') or {}
    if weights.task not in DATASETS or 'dataset_meta' in meta:
        return content
    package, name = DATASETS[weights.task]
    try:
        metainfo = getattr(import_module(package), name).METAINFO
    except ImportError:
        return content
    whole = content if 'state_dict' in content else dict(state_dict=content)
    return {**whole, 'meta': {**meta, 'dataset_meta': dict(metainfo)}}
