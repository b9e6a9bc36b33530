"""Environments of their own, for converters that cannot be installed beside OpenMMLab.

One is made when it is first needed, and kept. It sees the packages of the environment that it is made from,
PyTorch among them, and has what a converter needs beside or instead of them.
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

LINES = 12  # of what pip says, in a message


def cache_folder() -> Path:
    """Where environments are kept (Path).

    That is MMMOBILEMAMBA_CACHE, if it is set, else ``mmmobilemamba`` in XDG_CACHE_HOME or ``~/.cache``.
    """
    named = os.environ.get('MMMOBILEMAMBA_CACHE')
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache', 'mmmobilemamba')


def environment(name: str, pins: Sequence[str], size: str) -> Path:
    """The interpreter of an environment, which is made if it is not there (Path).

    Once it is there, nothing is asked of the network. Another one is made for other pins, another Python or
    another PyTorch. One whose set-up was interrupted does not get its name.

    Args:
        name (str): What it is for, in its name and in messages.
        pins (Sequence[str]): What to install, as pip takes it.
        size (str): What it takes of the disk, for the message.

    Raises:
        DeploymentError: If it cannot be made.
    """
    packages = [path for path in sys.path if Path(path).name in ('site-packages', 'dist-packages')]
    key = '\n'.join([*pins, sys.version, torch.__version__, *packages])
    folder = cache_folder() / f'{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}'
    if not folder.exists():
        print_log(f'Making the environment of {name} once ({size}), in {folder}', 'current')
        make(folder, name, pins, packages)
    return python_of(folder)


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment (Path)."""
    return folder / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python')


def make(folder: Path, name: str, pins: Sequence[str], packages: Sequence[str]) -> None:
    """Make an environment beside its place, and move it there when it is finished.

    Args:
        folder (Path): Its place.
        name (str): See :func:`environment`.
        pins (Sequence[str]): Likewise.
        packages (Sequence[str]): Folders of packages that it sees after its own.

    Raises:
        DeploymentError: If it cannot be made.
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
        if not folder.exists():  # else another process was faster
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def step(command: Sequence[str | Path], name: str) -> None:
    """Run a command.

    Raises:
        DeploymentError: If it fails, with the last of what it says.
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
