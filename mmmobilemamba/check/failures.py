"""Errors of third-party models, datasets and damaged files, and how they are reported."""

from __future__ import annotations

import os
import pickle
import struct
import traceback
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2

# Raised while damaged files are decoded, and no subclass of the more general ones below. Those of json, of
# text in another encoding, and of PIL are.
DAMAGED = (EOFError, SyntaxError, cv2.error, pickle.PickleError, struct.error, zlib.error)
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    *DAMAGED,
)
LONGEST = 600  # characters of a message
SAMPLE_FILES = ('img_path', 'seg_map_path')  # keys of a sample in OpenMMLab's pipelines
CODE = ('.py', '.pyc', '.so')


def shorten(error: BaseException) -> str:
    """Return the message of an error on one line, cut after 600 characters (str).

    For an error without a message, such as that of a plain ``assert``, this is the line of code.
    """
    text = ' '.join(str(error).split()) or _raised_by(error)
    return text if len(text) <= LONGEST else f'{text[:LONGEST]} [...]'


def _raised_by(error: BaseException) -> str:
    """Return file and line of the code that raised an error (str)."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return repr(error)
    last = frames[-1]
    place = '/'.join(Path(last.filename).parts[-3:])
    return f'{last.line or repr(error)} ({place}, line {last.lineno})'


def describe(error: BaseException) -> str:
    """Return type and message of an error, and the file that was read unless the message names it (str)."""
    text = f'{type(error).__name__}: {shorten(error)}'
    files = files_of(error)
    if not files or any(file in text for file in files):
        return text
    return f'{text} (in {", ".join(files)})'


def files_of(error: BaseException) -> list[str]:
    """Return the files that were read when an error was raised (list[str]); [] if they are unknown.

    Readers of XML, pickles and images leave the name of the file out of their messages. It is an argument of
    one of the functions that were running, or in the sample that a pipeline was working on.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        found = [
            str(value)
            for variable in frame.f_locals.values()
            for value in _paths_in(variable)
            if os.path.isfile(value) and not str(value).endswith(CODE)
        ]
        if found:
            return list(dict.fromkeys(found))
    return []


def _paths_in(variable: Any) -> Iterator[str | Path]:
    """Yield a variable that may be a path, or the paths in a sample of a dataset."""
    if isinstance(variable, Mapping):
        found = [variable.get(key) for key in SAMPLE_FILES]
        yield from (each for each in found if isinstance(each, str))
    elif isinstance(variable, (str, Path)) and 0 < len(str(variable)) < 4096 and '\0' not in str(variable):
        yield variable
