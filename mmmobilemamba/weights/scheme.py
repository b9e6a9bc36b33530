"""Registers ``mobilemamba://NAME`` with mmengine: for ``init_cfg``, ``load_from`` and ``--checkpoint``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mmengine.runner import CheckpointLoader

from ..models.checkpoint import read_checkpoint
from .store import fetch
from .table import SCHEME, WEIGHTS


# mmengine names the loader in its log by what follows `load_from_`. `force`: a module may be imported again.
# The addresses of metafiles are ours, too: mmengine would download all files under one name, `download`.
@CheckpointLoader.register_scheme([SCHEME, *(re.escape(weights.url) for weights in WEIGHTS)], force=True)
def load_from_mobilemamba(filename: str, map_location: str | None = None) -> Mapping:
    """The content of published weights.

    Args:
        filename (str): Such as ``'mobilemamba://b1'``, or a ``Weights`` of our metafiles.
        map_location (str, optional): As in ``torch.load``. Defaults to None, the CPU.

    Raises:
        ValueError: If there are no weights of this name.
        CheckpointError: If they cannot be had or read.
    """
    return read_checkpoint(fetch(filename), map_location or 'cpu')
