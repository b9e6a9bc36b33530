"""Loads only tensors, plain values and the objects of mmengine's Runner, in any version of torch.

Since torch 2.6, :mod:`mmmobilemamba.compat` extends the allow-list of ``torch.load``. Older versions do not
accept named objects there, so Runner checkpoints need an unpickler with its own list.
"""

from __future__ import annotations

import pickle
from _compat_pickle import IMPORT_MAPPING  # torch writes names of Python 2, as pickle's protocol 2 has them
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ...compat import has_list, runner_globals


def load_weights(path: str | Path, map_location: str) -> Any:
    """Load a file written by ``torch.save``, without running code from it.

    Args:
        path (str | Path): The file.
        map_location (str): As in ``torch.load``.

    Returns:
        Any: Content of the file.

    Raises:
        pickle.UnpicklingError: If the file contains an object that is not on the allow-list.
    """
    if has_list():
        return torch.load(path, map_location=map_location, weights_only=True)
    return torch.load(path, map_location=map_location, pickle_module=_RESTRICTED)


class _Unpickler(pickle.Unpickler):
    """Resolves only the names on torch's weights-only list and those in Runner checkpoints."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {**torch._weights_only_unpickler._get_allowed_globals(), **runner_globals()}
        allowed['_codecs.encode'] = _encode
        found = allowed.get(f'{IMPORT_MAPPING.get(module, module)}.{name}')
        if found is None:
            raise pickle.UnpicklingError(f'Unsupported class {module}.{name}')
        return found


def _encode(*args: Any) -> bytes:
    """Replacement of ``codecs.encode``, by which pickle stores the bytes of numpy scalars."""
    if len(args) != 2 or not isinstance(args[0], str) or args[1] != 'latin1':
        raise pickle.UnpicklingError('Unsupported class _codecs.encode, but for latin1')
    return args[0].encode('latin1')


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


# The attributes of the module ``pickle`` that torch.load uses.
_RESTRICTED = SimpleNamespace(__name__=__name__, Unpickler=_Unpickler, load=_load)
