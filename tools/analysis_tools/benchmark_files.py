"""Load networks from functions in Python files, named ``PATH.py:FUNCTION``."""

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path

from torch import nn


def is_file(name):
    """Whether a model is a function in a Python file."""
    return '.py:' in name


def call_function(name):
    """Call a function without arguments and return its network.

    Args:
        name (str): ``PATH.py:FUNCTION``; FUNCTION may also be a class.

    Raises:
        ValueError: If the file or function does not exist, the file cannot be imported, or the function
            needs arguments or does not return a network.
    """
    function = load_function(name)
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        message = f'{name} is called without arguments: {error}; write a function that sets them'
        raise ValueError(message) from error
    model = function()
    if not isinstance(model, nn.Module):
        raise ValueError(f'{name} must return a torch.nn.Module, not {type(model).__name__}')
    return model


def load_function(name):
    """Load the function of a name, see :func:`call_function`."""
    path, _, function = name.rpartition(':')
    path = Path(path).resolve()
    if not path.is_file():
        raise ValueError(f'{name}: there is no file {path}')
    try:
        module = load_module(path)
    except ImportError as error:
        raise ValueError(f'{name}: {path} cannot be imported: {error}') from error
    if not callable(getattr(module, function, None)):
        raise ValueError(f'{name}: there is no function {function!r} in {path}')
    return getattr(module, function)


def load_module(path):
    """Import a file, as part of its package if its folder is one; it can import neighbouring files.

    Raises:
        ImportError: If the import fails, or another package of that name was imported before.
    """
    folder, names = path.parent, [path.stem]
    while (folder / '__init__.py').is_file():
        folder, names = folder.parent, [folder.name, *names]
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    if len(names) > 1:
        module = importlib.import_module('.'.join(names))
        if Path(module.__file__) != path:
            raise ImportError(f'the package {names[0]!r} is that of {module.__file__} here')
        return module
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module
