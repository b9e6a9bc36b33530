"""Separate virtual environments for converters that cannot be installed alongside OpenMMLab.

An environment is created on first use and cached. It inherits the packages of the parent environment,
including PyTorch; the packages of the converter take precedence over them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.logging import print_log

from ..errors import DeploymentError

LINES = 12  # last lines of pip's output in an error message


def cache_folder() -> Path:
    """Return the cache folder of environments (Path).

    It is MMMOBILEMAMBA_CACHE if set, otherwise ``mmmobilemamba`` in XDG_CACHE_HOME or ``~/.cache``.
    """
    named = os.environ.get('MMMOBILEMAMBA_CACHE')
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache', 'mmmobilemamba')


def environment(name: str, pins: Sequence[str], size: str) -> Path:
    """Return the Python interpreter of an environment, and create the environment if necessary (Path).

    A cached environment is used without network access. Different pins, or another version of Python or
    PyTorch, create a new one. An interrupted installation leaves no cached environment.

    Args:
        name (str): Name of the environment, also used in messages.
        pins (Sequence[str]): Requirements for pip.
        size (str): Disk space, for the message.

    Raises:
        DeploymentError: If the environment cannot be created.
    """
    packages = [path for path in sys.path if Path(path).name in ('site-packages', 'dist-packages')]
    key = '\n'.join([*pins, sys.version, torch.__version__, *packages])
    folder = cache_folder() / f'{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}'
    if not folder.exists():
        print_log(f'Making the environment of {name} once ({size}), in {folder}', 'current')
        make(folder, name, pins, packages)
    return python_of(folder)


def python_of(folder: Path) -> Path:
    """Return the Python interpreter of a virtual environment (Path)."""
    return folder / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python')


def make(folder: Path, name: str, pins: Sequence[str], packages: Sequence[str]) -> None:
    """Create an environment in a temporary folder, and rename the folder when the environment is complete.

    Args:
        folder (Path): The final folder.
        name (str): See :func:`environment`.
        pins (Sequence[str]): See :func:`environment`.
        packages (Sequence[str]): Package folders of the parent environment, searched after its own.

    Raises:
        DeploymentError: If the environment cannot be created.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix='unfinished-', dir=folder.parent))
    try:
        python = python_of(unfinished)
        step([sys.executable, '-m', 'venv', '--clear', unfinished], name)
        own = subprocess.check_output(
            [python, '-c', 'import sysconfig; print(sysconfig.get_paths()["purelib"])'], text=True
        ).strip()
        Path(own, 'parent.pth').write_text('\n'.join(packages) + '\n', encoding='utf-8')
        step([python, '-m', 'pip', 'install', '--disable-pip-version-check', *pins], name)
        if not folder.exists():  # another process may have created it
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def step(command: Sequence[str | Path], name: str) -> None:
    """Run a command.

    Raises:
        DeploymentError: If it fails; the message includes the last lines of its output.
    """
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace'
    )
    if done.returncode:
        last = '\n'.join(done.stdout.strip().splitlines()[-LINES:])
        raise DeploymentError(
            f'The environment of {name} could not be made, for which the network is needed once:\n{last}\n'
            f'Check the network, or the index that pip is set up with, and run the command again.'
        )
