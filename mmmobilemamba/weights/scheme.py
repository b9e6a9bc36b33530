"""Registers ``mobilemamba://NAME`` with mmengine, for ``init_cfg``, ``load_from`` and ``--checkpoint``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mmengine.runner import CheckpointLoader

from ..models.checkpoint import read_checkpoint
from .store import fetch
from .table import SCHEME, WEIGHTS, Weights, weights_of

# The dataset of each task, whose class names inferencers read from the checkpoint.
DATASETS = dict(detection=('mmdet.datasets', 'CocoDataset'), segmentation=('mmseg.datasets', 'ADE20KDataset'))


# mmengine logs the part of the function's name after `load_from_`. `force` permits importing the module
# again. The URLs of metafiles are registered as well: mmengine would save all of them under one name,
# `download`.
@CheckpointLoader.register_scheme([SCHEME, *(re.escape(weights.url) for weights in WEIGHTS)], force=True)
def load_from_mobilemamba(filename: str, map_location: str | None = None) -> Mapping:
    """Load published weights; those of detectors and segmentors include their class names.

    Args:
        filename (str): A name such as ``'mobilemamba://b1'``, or the URL of ``Weights`` in a metafile.
        map_location (str, optional): As in ``torch.load``. Defaults to None, the CPU.

    Raises:
        ValueError: If no weights have this name.
        CheckpointError: If they cannot be downloaded or read.
    """
    content = read_checkpoint(fetch(filename), map_location or 'cpu')
    return with_classes(content, weights_of(filename))


def with_classes(content: Mapping, weights: Weights) -> Mapping:
    """Add ``meta['dataset_meta']`` to a checkpoint if it has none.

    Without it, mmseg's inferencer uses the class names of Cityscapes.

    Args:
        content (Mapping): A checkpoint or a state dict.
        weights (Weights): The entry of its weights.

    Returns:
        Mapping: The checkpoint. For classifiers, or if the dataset's package is not installed, ``content``
        unchanged.
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
