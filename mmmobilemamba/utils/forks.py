"""Lets the onedl forks of OpenMMLab be found under the names of what they fork.

    python -m mmmobilemamba.utils.forks

The forks are imported as ``mmdet``, ``mmseg`` and so on, and installed as ``onedl-mmdetection``,
``onedl-mmsegmentation``. What looks for an installed package by its old name does not find them: mmengine for
``_base_ = 'mmseg::...'``, mim for ``mim train mmdet``. This writes metadata of the old name beside those of
each fork that is installed where it runs: a name, a version and the module, and no files.

It needs nothing but Python, as the set-up runs it as a file.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

FORKS = dict(
    mmengine='onedl-mmengine',
    mmcv='onedl-mmcv',
    mmdet='onedl-mmdetection',
    mmsegmentation='onedl-mmsegmentation',
    mmpretrain='onedl-mmpretrain',
    openmim='onedl-mim',
)


def find(name: str) -> metadata.Distribution | None:
    """An installed distribution, or None."""
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def is_hidden(name: str) -> bool:
    """Whether a fork is installed, and not found under the name of what it forks."""
    return name in FORKS and find(name) is None and find(FORKS[name]) is not None


def write_name(name: str) -> Path:
    """Write the metadata by which a fork is found as ``name``, too; returns their folder.

    There is no RECORD of files: with one, the mim of the forks would look for the package where its first
    file is, which is among the metadata.
    """
    fork = metadata.distribution(FORKS[name])
    folder = Path(str(fork.locate_file(f'{name}-{fork.version}.dist-info')))
    folder.mkdir()
    texts = {
        'METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {fork.version}\n'
        f'Summary: Another name of {FORKS[name]}\nRequires-Dist: {FORKS[name]}\n',
        'top_level.txt': fork.read_text('top_level.txt') or '',
        'INSTALLER': 'mmmobilemamba.utils.forks\n',
    }
    for file, text in texts.items():
        (folder / file).write_text(text, encoding='utf-8')
    return folder


def main() -> None:
    for name in filter(is_hidden, FORKS):
        sys.stdout.write(f'{FORKS[name]} is now found as {name}, too: {write_name(name)}\n')


if __name__ == '__main__':
    main()
