"""The digits scenes, generated once for all tests in this folder."""

import pytest

from ..conftest import load_script


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    """8 training and 4 validation scenes, in an otherwise empty folder."""
    folder = tmp_path_factory.mktemp('check')
    script = load_script('tools/dataset_converters/digits_scenes.py')
    script.main([str(folder / 'data/digits_scenes'), '--train', '8', '--val', '4'])
    return folder
