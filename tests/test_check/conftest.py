"""The digits scenes, generated once for all tests in this folder, and configs that use them."""

import pytest

from ..conftest import load_script
from ..helpers import write_digits_start


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    """8 training and 4 validation scenes, and the weights that digits configs start from."""
    folder = tmp_path_factory.mktemp('check')
    script = load_script('tools/dataset_converters/digits_scenes.py')
    script.main([str(folder / 'data/digits_scenes'), '--train', '8', '--val', '4'])
    write_digits_start(folder)
    return folder


@pytest.fixture(scope='session')
def twins(scenes):
    """Correct configs of three codebases on the digits scenes."""
    from .twins import load_twins

    return load_twins()


@pytest.fixture
def check(twins, scenes, tmp_path_factory, monkeypatch):
    """Return findings other than 'ok' for a twin with changes."""
    from .twins import Check

    monkeypatch.chdir(scenes)
    return Check(twins, tmp_path_factory.mktemp('pasted'))
