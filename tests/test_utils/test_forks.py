"""Forks under the names of the original packages, in simulated site-packages."""

import subprocess
import sys
from importlib import metadata

import pytest

from ..conftest import ROOT

SCRIPT = ROOT / 'mmmobilemamba/utils/forks.py'


@pytest.fixture
def packages(tmp_path):
    """A fork of mmsegmentation, and a fork of mmdet together with mmdet."""
    install(tmp_path, 'onedl-mmsegmentation', '1.4.2', 'mmseg')
    install(tmp_path, 'onedl-mmdetection', '3.5.1', 'mmdet')
    install(tmp_path, 'mmdet', '3.3.0', 'mmdet')
    return tmp_path


def install(packages, name, version, module):
    folder = packages / f'{name.replace("-", "_")}-{version}.dist-info'
    folder.mkdir()
    (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
    (folder / 'top_level.txt').write_text(f'{module}\n')
    (folder / 'RECORD').write_text(f'{folder.name}/METADATA,,\n{module}/__init__.py,,\n')


def run(packages):
    """Run the script with only ``packages`` installed; returns its output."""
    code = f'import runpy, sys; sys.path = [{str(packages)!r}, *sys.path[1:]]; '
    code += f'runpy.run_path({str(SCRIPT)!r}, run_name="__main__")'
    # -S: the environment that runs the tests has mmdet and mmsegmentation.
    command = [sys.executable, '-S', '-c', code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_fork_is_found_under_both_names(packages):
    before = sorted(path.name for path in packages.iterdir())
    folder = packages / 'mmsegmentation-1.4.2.dist-info'
    assert run(packages) == f'onedl-mmsegmentation is now found as mmsegmentation, too: {folder}\n'
    assert sorted(path.name for path in packages.iterdir()) == sorted([*before, folder.name])
    (found,) = metadata.distributions(name='mmsegmentation', path=[str(packages)])
    assert found.version == '1.4.2' and found.read_text('top_level.txt') == 'mmseg\n'
    assert found.requires == ['onedl-mmsegmentation']
    assert found.files is None  # otherwise, mim takes the folder of the first file for the package


def test_a_second_call_and_no_forks(packages):
    run(packages)
    assert run(packages) == ''
    empty = packages / 'empty'
    empty.mkdir()
    assert run(empty) == ''
