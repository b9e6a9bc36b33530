"""Lets torch >= 2.6 load the checkpoints that mmengine's Runner writes.

Since 2.6 ``torch.load`` reads with ``weights_only=True`` unless told otherwise: it builds tensors,
plain containers and whatever is on an allow-list, and refuses a file that names anything else.
mmengine (up to 0.10.7 at least) does not tell it otherwise and does not extend the list, while
its checkpoints carry the training log as ``HistoryBuffer`` objects around numpy arrays. So
``mim test``, ``--resume`` and ``load_from`` stop with ``Unsupported global: GLOBAL
mmengine.logging.history_buffer.HistoryBuffer``:

- https://github.com/open-mmlab/mmengine/issues/1655 (the report)
- https://github.com/open-mmlab/mmengine/pull/1650 (a change that turns the check off)

:func:`allow_runner_checkpoints` keeps the check on and puts on torch's own allow-list, by
``torch.serialization.add_safe_globals``, what such a file needs:

- ``HistoryBuffer`` itself;
- ``numpy.ndarray``, ``numpy.dtype``, the bool, integer and float dtypes, and numpy's functions that
  rebuild an array and a scalar (a ``save_best`` score is often a ``numpy.float64``);
- ``builtins.getattr``, by which pickle names the methods of ``HistoryBuffer`` and the function of
  ``OneCycleLR``. The real one would hand a crafted file every attribute of every object it can name,
  so a stand-in answers to the name, for the statistics of ``HistoryBuffer``, the two annealing
  functions of ``OneCycleLR`` and nothing else;
- ``OneCycleParamScheduler``, of which a stand-in is named and never built;
- ``ConfigDict``, as which nested ``metainfo`` of a config comes into a checkpoint. A stand-in reads it
  as a plain dict: the class itself imports modules that its lazy entries name.

That is all that the stock schedulers, optimizers, optimizer wrappers and averages of mmengine, mmdet,
mmseg and mmpretrain leave in a checkpoint.

Nothing of torch, numpy or mmengine is replaced, and files with other contents are refused as before.
torch says of ``weights_only=True`` that it keeps a file from running code of its choice but not
always from corrupting memory; numpy's array constructors are no exception. Load files whose source
you trust.

The list takes a name beside each object since torch 2.6.0, the release in which the default changed.
With an older one (pre-releases of 2.6 included) mmengine reads everything, and nothing is put anywhere;
our own readers take :func:`runner_globals`.
"""

import pickle
from typing import Any

import numpy as np
import torch

# The methods that HistoryBuffer registers itself. They are spelled out because the register,
# ``HistoryBuffer._statistics_methods``, is filled from the files that are being loaded: a crafted
# file could first register a name and then ask for it.
_STATISTICS = ('current', 'max', 'mean', 'min')

# Static functions of numbers; the state of a OneCycleLR holds one of them.
_ANNEALING = ('_annealing_cos', '_annealing_linear')

# What numpy makes of Python's and torch's numbers. Strings, objects, records and times stay out.
_DTYPES = ('bool', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64',
           'float16', 'float32', 'float64')  # fmt: skip

# numpy 2 renamed the module of its rebuilding functions, and importing the old name there warns.
# Either numpy has the same functions, so each is listed under both names, for files of both.
_NUMPY_MODULES = ('numpy.core.multiarray', 'numpy._core.multiarray')


def allow_runner_checkpoints() -> None:
    """Puts what mmengine's Runner checkpoints need on the allow-list of ``torch.load``.

    Runs in the package's ``__init__``, so ``custom_imports`` of a config is in time for every load.
    Calling it again changes nothing. With torch before 2.6 it does nothing.
    """
    found = runner_globals() if has_list() else {}
    if found:
        # Two entries of one name would leave it to chance which is used: who came first keeps it.
        taken = [name for name, value in found.items() if value in _STAND_INS and _is_listed(name)]
        torch.serialization.add_safe_globals([(found[name], name) for name in found if name not in taken])


def has_list() -> bool:
    """Whether this torch has a list of what may be loaded that takes a name beside each object."""
    return torch.__version__ >= '2.6'  # a TorchVersion, which compares by version and not by letter


def runner_globals() -> dict[str, Any]:
    """What the checkpoints of a Runner name beside tensors and plain values, by those names."""
    try:
        from mmengine.logging import HistoryBuffer
    except ImportError:
        # A fork without this class writes no checkpoints that hold it.
        return {}

    # Names are always given, though torch could derive most: an entry without one is dropped from
    # the list when anybody leaves a ``torch.serialization.safe_globals`` block that holds the same.
    classes = [HistoryBuffer, np.ndarray, np.dtype, *(type(np.dtype(name)) for name in _DTYPES)]
    entries: dict[str, Any] = {f'{cls.__module__}.{cls.__qualname__}': cls for cls in classes}
    # Pickle's own protocol leads to numpy's functions without importing its private modules.
    for function in (np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]):
        entries.update({f'{module}.{function.__name__}': function for module in _NUMPY_MODULES})
    return {
        **entries,
        'builtins.getattr': _known_getattr,
        'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler': _one_cycle,
        'mmengine.config.config.ConfigDict': _plain_dict,
    }


def _is_listed(name: str) -> bool:
    """Whether anybody has put an object on torch's allow-list under ``name``."""
    for entry in torch.serialization.get_safe_globals():
        if isinstance(entry, tuple):
            listed = entry[-1]
        else:
            listed = f'{entry.__module__}.{entry.__qualname__}'
        if listed == name:
            return True
    return False


def _known_getattr(*args: Any) -> Any:
    """Stands in for ``getattr`` inside checkpoints.

    Args:
        *args: What the file passes: in a Runner's checkpoint ``HistoryBuffer`` and the name of one
            of its statistics, or the scheduler of ``OneCycleLR`` and the name of its annealing.
            Not two named parameters, since a wrong number of them has to end in the error that
            loaders expect, too.

    Returns:
        The function.

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
    """Stands in for ``OneCycleParamScheduler``, which checkpoints name and do not build.

    Raises:
        pickle.UnpicklingError: Always.
    """
    raise pickle.UnpicklingError(
        "The file builds a OneCycleParamScheduler. No checkpoint of mmengine's Runner does, so the file may "
        'be harmful: get it again from a source you trust.'
    )


def _plain_dict(*args: Any) -> dict:
    """Stands in for ``ConfigDict``: a dict with the same entries.

    Raises:
        pickle.UnpicklingError: If the file passes anything but one dict.
    """
    if len(args) != 1 or type(args[0]) is not dict:
        raise pickle.UnpicklingError('The file builds a ConfigDict from other things than one dict.')
    return dict(args[0])


_STAND_INS = (_known_getattr, _one_cycle, _plain_dict)


def _describe(value: Any) -> str:
    """Names an argument in an error message without calling its ``repr``, which may be anything."""
    if isinstance(value, str):
        return repr(value[:80])
    if isinstance(value, type):
        return f'{value.__module__}.{value.__qualname__}'
    return f'<{type(value).__module__}.{type(value).__qualname__} object>'
