"""The digits scenes, generated once for all tests in this folder."""

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
