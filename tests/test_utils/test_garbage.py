"""What exists already is excluded from garbage collection, and only inside of the context."""

import gc
import weakref

import pytest

from mmmobilemamba.utils.garbage import frozen_heap


class Cycle:
    """An object that refers to itself, which only the garbage collector deletes."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def thawed():
    """Nothing is frozen, unlike in the other tests."""
    gc.unfreeze()
    yield
    gc.freeze()


def test_older_objects_are_skipped(thawed):
    older = weakref.ref(Cycle())
    with pytest.raises(KeyError), frozen_heap():
        newer = weakref.ref(Cycle())
        gc.collect()
        assert older() is not None and newer() is None
        raise KeyError
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert older() is None


def test_objects_that_a_program_froze_stay_frozen(thawed):
    gc.freeze()
    count = gc.get_freeze_count()
    with frozen_heap():
        newer = weakref.ref(Cycle())
    assert gc.get_freeze_count() > 0.9 * count  # some are deleted without the collector
    gc.collect()
    assert newer() is None
