"""Lets torch >= 2.6 load the checkpoints that mmengine's Runner writes.

Since 2.6, ``torch.load`` reads with ``weights_only=True`` by default: it builds tensors, plain
containers and the objects on an allow-list, and refuses files with anything else. mmengine (at least up
to 0.10.7) neither changes this default nor extends the list, but its checkpoints contain the training
log as ``HistoryBuffer`` objects with numpy arrays. Therefore ``mim test``, ``--resume`` and
``load_from`` fail with ``Unsupported global: GLOBAL
mmengine.logging.history_buffer.HistoryBuffer``:

- https://github.com/open-mmlab/mmengine/issues/1655 (the report)
- https://github.com/open-mmlab/mmengine/pull/1650 (a change that disables the check)

:func:`allow_runner_checkpoints` keeps the check enabled and adds the objects of such files to torch's
allow-list, with ``torch.serialization.add_safe_globals``:

- ``HistoryBuffer`` itself;
- ``numpy.ndarray``, ``numpy.dtype``, the bool, integer and float dtypes, and the functions by which
  numpy rebuilds an array and a scalar (a ``save_best`` score is often a ``numpy.float64``);
- ``builtins.getattr``, by which pickle refers to the methods of ``HistoryBuffer`` and the function of
  ``OneCycleLR``. The real function would give a crafted file access to every attribute of every allowed
  object. Its replacement returns only the statistics of ``HistoryBuffer`` and the two annealing
  functions of ``OneCycleLR``;
- ``OneCycleParamScheduler``: checkpoints refer to it but do not build it, so its replacement cannot be
  built;
- ``ConfigDict``, the type of nested ``metainfo`` of a config in a checkpoint. Its replacement is read as
  a plain dict, as the class itself imports the modules that its lazy entries name.

The stock schedulers, optimizers, optimizer wrappers and averaged models of mmengine, mmdet, mmseg and
mmpretrain leave no other objects in a checkpoint.

Nothing in torch, numpy or mmengine is replaced, and files with other contents are refused as before.
According to torch, ``weights_only=True`` prevents a file from running arbitrary code but not always
from corrupting memory; numpy's array constructors are no exception. Load only files from sources that
you trust.

Since torch 2.6.0, the release that changed the default, the list accepts a name beside each object.
With older versions (pre-releases of 2.6 included) mmengine loads everything, and the list is not
changed; the readers of this package use :func:`runner_globals`.
"""

import pickle
from typing import Any

import numpy as np
import torch

# The methods that HistoryBuffer registers itself. They are listed here because loaded files extend the
# register, ``HistoryBuffer._statistics_methods``: a crafted file could register a name and then use it.
_STATISTICS = ('current', 'max', 'mean', 'min')

# Static functions of numbers; the state of a OneCycleLR contains one of them.
_ANNEALING = ('_annealing_cos', '_annealing_linear')

# Numpy dtypes of Python's and torch's numbers. Strings, objects, records and times are excluded.
_DTYPES = ('bool', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64',
           'float16', 'float32', 'float64')  # fmt: skip

# numpy 2 renamed the module of its rebuilding functions, and importing the old name raises a warning.
# The functions are the same, so each is listed under both names, for files of both versions.
_NUMPY_MODULES = ('numpy.core.multiarray', 'numpy._core.multiarray')


def allow_runner_checkpoints() -> None:
    """Add the objects of mmengine's Runner checkpoints to the allow-list of ``torch.load``.

    It runs when the package is imported, so with ``custom_imports`` in a config it precedes every load.
    A second call changes nothing. It does nothing with torch before 2.6.
    """
    found = runner_globals() if has_list() else {}
    if found:
        # With two entries of one name, it would be undefined which is used: the first one is kept.
        taken = [name for name, value in found.items() if value in _STAND_INS and _is_listed(name)]
        torch.serialization.add_safe_globals([(found[name], name) for name in found if name not in taken])


def has_list() -> bool:
    """Whether this version of torch has an allow-list that accepts a name beside each object (bool)."""
    return torch.__version__ >= '2.6'  # a TorchVersion, compared as a version and not as a string


def runner_globals() -> dict[str, Any]:
    """The objects in Runner checkpoints other than tensors and plain values, by name (dict[str, Any])."""
    try:
        from mmengine.logging import HistoryBuffer
    except ImportError:
        # Forks without this class do not write it into checkpoints.
        return {}

    # All entries have explicit names, although torch could derive most: an entry without a name is removed
    # from the list when any ``torch.serialization.safe_globals`` block with the same object ends.
    classes = [HistoryBuffer, np.ndarray, np.dtype, *(type(np.dtype(name)) for name in _DTYPES)]
    entries: dict[str, Any] = {f'{cls.__module__}.{cls.__qualname__}': cls for cls in classes}
    # The pickle protocol gives numpy's functions without importing its private modules.
    for function in (np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]):
        entries.update({f'{module}.{function.__name__}': function for module in _NUMPY_MODULES})
    return {
        **entries,
        'builtins.getattr': _known_getattr,
        'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler': _one_cycle,
        'mmengine.config.config.ConfigDict': _plain_dict,
    }


def _is_listed(name: str) -> bool:
    """Whether torch's allow-list has an object under ``name`` (bool)."""
    for entry in torch.serialization.get_safe_globals():
        if isinstance(entry, tuple):
            listed = entry[-1]
        else:
            listed = f'{entry.__module__}.{entry.__qualname__}'
        if listed == name:
            return True
    return False


def _known_getattr(*args: Any) -> Any:
    """Replacement of ``getattr`` inside checkpoints.

    Args:
        *args: The arguments in the file. In Runner checkpoints these are ``HistoryBuffer`` and the name of
            one of its statistics, or the scheduler of ``OneCycleLR`` and the name of its annealing. They
            are not two named parameters, as a wrong number must raise the error that loaders expect.

    Returns:
        Callable: The function.

    Raises:
        pickle.UnpicklingError: If the file asks for anything else.
    """
    from mmengine.logging import HistoryBuffer
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

    if len(args) == 2 and isinstance(args[1], str):
        if args[0] is HistoryBuffer and args[1] in _STATISTICS:
            return getattr(HistoryBuffer, args[1])
        if args[0] is _one_cycle and args[1] in _ANNEALING:
            return getattr(OneCycleParamScheduler, args[1])
    asked = ', '.join(_describe(arg) for arg in args)
    raise pickle.UnpicklingError(
        f'The file asks for getattr({asked}). mmmobilemamba allows only the statistics methods of '
        f'mmengine.logging.HistoryBuffer in a checkpoint: {", ".join(_STATISTICS)}; and the annealing of '
        "OneCycleLR. No checkpoint of mmengine's Runner needs more, so the file may be harmful: get it again "
        'from a source you trust.'
    )


def _one_cycle(*args: Any) -> None:
    """Replacement of ``OneCycleParamScheduler``, which checkpoints refer to but do not build.

    Raises:
        pickle.UnpicklingError: Always.
    """
    raise pickle.UnpicklingError(
        "The file builds a OneCycleParamScheduler. No checkpoint of mmengine's Runner does, so the file may "
        'be harmful: get it again from a source you trust.'
    )


def _plain_dict(*args: Any) -> dict:
    """Replacement of ``ConfigDict``: a dict with the same entries.

    Raises:
        pickle.UnpicklingError: If the file passes anything other than one dict.
    """
    if len(args) != 1 or type(args[0]) is not dict:
        raise pickle.UnpicklingError('The file builds a ConfigDict from other things than one dict.')
    return dict(args[0])


_STAND_INS = (_known_getattr, _one_cycle, _plain_dict)


def _describe(value: Any) -> str:
    """Describe an argument for an error message without calling its ``repr``, which may run any code."""
    if isinstance(value, str):
        return repr(value[:80])
    if isinstance(value, type):
        return f'{value.__module__}.{value.__qualname__}'
    return f'<{type(value).__module__}.{type(value).__qualname__} object>'
