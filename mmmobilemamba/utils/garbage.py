"""A context in which the garbage collector skips what exists already."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Exclude all existing objects from garbage collection, for code that makes many objects.

    Every full collection visits each object of the process, several hundred thousand after the imports of
    OpenMMLab, and an export triggers many. Nothing is done in a program that has frozen objects itself,
    because ``gc.unfreeze`` would release these, too.

    Source: https://docs.python.org/3/library/gc.html#gc.freeze
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
