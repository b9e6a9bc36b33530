"""A folder with small data and checkpoints for the runs, created once."""

import pytest

from . import workplace


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    """Data and checkpoints at the paths used by the configs."""
    folder = tmp_path_factory.mktemp('workplace')
    workplace.make(folder)
    return folder


@pytest.fixture
def at_work(folder, monkeypatch):
    """The same folder as the working directory; its weights take precedence over others on this machine."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv('MMMOBILEMAMBA_WEIGHTS', str(folder / 'checkpoints'))
    return folder
