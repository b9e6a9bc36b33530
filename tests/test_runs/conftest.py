"""What the runs need: a folder with small data and checkpoints, made once."""

import pytest

from . import workplace


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    """Data and checkpoints where the configs look for them."""
    folder = tmp_path_factory.mktemp('workplace')
    workplace.make(folder)
    return folder


@pytest.fixture
def at_work(folder, monkeypatch):
    """The same, as the current folder, whose weights come before any of this machine."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv('MMMOBILEMAMBA_WEIGHTS', str(folder / 'checkpoints'))
    return folder
