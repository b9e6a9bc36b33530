"""``torch.load`` of tensors, plain values and what mmengine's Runner writes, in any version of torch.

Since 2.6 torch has a list of what is allowed, which :mod:`mmmobilemamba.compat` extends. Before, its list was
its own, and a checkpoint of a Runner could be read with no check at all, or not.
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
    """What a file of ``torch.save`` holds.

    Raises:
        pickle.UnpicklingError: If it names anything that is not allowed.
    """
    if has_list():
        return torch.load(path, map_location=map_location, weights_only=True)
    return torch.load(path, map_location=map_location, pickle_module=_RESTRICTED)


class _Unpickler(pickle.Unpickler):
    """Finds what torch's reader of weights allows, and what a Runner writes."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {**torch._weights_only_unpickler._get_allowed_globals(), **runner_globals()}
        allowed['_codecs.encode'] = _encode
        found = allowed.get(f'{IMPORT_MAPPING.get(module, module)}.{name}')
        if found is None:
            raise pickle.UnpicklingError(f'Unsupported class {module}.{name}')
        return found


def _encode(*args: Any) -> bytes:
    """Stands in for ``codecs.encode``, by which numpy's numbers are written."""
    if len(args) != 2 or not isinstance(args[0], str) or args[1] != 'latin1':
        raise pickle.UnpicklingError('Unsupported class _codecs.encode, but for latin1')
    return args[0].encode('latin1')


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


# What torch.load takes for the module ``pickle``.
_RESTRICTED = SimpleNamespace(__name__=__name__, Unpickler=_Unpickler, load=_load)
