"""Loads tensors, plain values and what mmengine's Runner writes, and nothing else, in any version of torch.

Since torch 2.6, :mod:`mmmobilemamba.compat` extends the allow-list of ``torch.load``. Older versions accept
no named objects there, so a Runner's checkpoint needs an unpickler with a list of its own.
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
    """Load a file that ``torch.save`` wrote.

    Args:
        path (str | Path): The file.
        map_location (str): Where the tensors go.

    Returns:
        Any: Its content.

    Raises:
        pickle.UnpicklingError: If the file names an object that is not on the list.
    """
    if has_list():
        return torch.load(path, map_location=map_location, weights_only=True)
    return torch.load(path, map_location=map_location, pickle_module=_RESTRICTED)


class _Unpickler(pickle.Unpickler):
    """Resolves only what torch's weights-only loader allows and what a Runner writes."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {**torch._weights_only_unpickler._get_allowed_globals(), **runner_globals()}
        allowed['_codecs.encode'] = _encode
        found = allowed.get(f'{IMPORT_MAPPING.get(module, module)}.{name}')
        if found is None:
            raise pickle.UnpicklingError(f'Unsupported class {module}.{name}')
        return found


def _encode(*args: Any) -> bytes:
    """Stands in for ``codecs.encode``, which pickle uses for the bytes of numpy's scalars."""
    if len(args) != 2 or not isinstance(args[0], str) or args[1] != 'latin1':
        raise pickle.UnpicklingError('Unsupported class _codecs.encode, but for latin1')
    return args[0].encode('latin1')


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


# What torch.load takes for the module ``pickle``.
_RESTRICTED = SimpleNamespace(__name__=__name__, Unpickler=_Unpickler, load=_load)
