"""Registers ``mobilemamba://NAME`` with mmengine: for ``init_cfg``, ``load_from`` and ``--checkpoint``."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.runner import CheckpointLoader

from ..models.checkpoint import read_checkpoint
from .store import fetch
from .table import SCHEME


# mmengine names the loader in its log by what follows `load_from_`. `force`: a module may be imported again.
@CheckpointLoader.register_scheme(SCHEME, force=True)
def load_from_mobilemamba(filename: str, map_location: str | None = None) -> Mapping:
    """The content of published weights.

    Args:
        filename (str): Such as ``'mobilemamba://b1'``.
        map_location (str, optional): As in ``torch.load``. Defaults to None, the CPU.

    Raises:
        ValueError: If there are no weights of this name.
        CheckpointError: If they cannot be had or read.
    """
    return read_checkpoint(fetch(filename), map_location or 'cpu')
