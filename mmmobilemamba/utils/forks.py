"""Makes the onedl forks of OpenMMLab available under the distribution names of the original packages.

    python -m mmmobilemamba.utils.forks

The forks are imported as ``mmdet``, ``mmseg`` and so on, but their distributions are called
``onedl-mmdetection``, ``onedl-mmsegmentation`` and so on. Lookups by the original name fail: mmengine's for
``_base_ = 'mmseg::...'`` and mim's for ``mim train mmdet``. For each installed fork, this script writes
metadata under the original name: name, version and module, without files.

It only uses the standard library, because the set-up runs it as a script.
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
    """Return an installed distribution, or None."""
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def is_hidden(name: str) -> bool:
    """Whether a fork is installed but not available under the original name (bool).

    Args:
        name (str): Original name of the distribution, a key of ``FORKS``.
    """
    return name in FORKS and find(name) is None and find(FORKS[name]) is not None


def write_name(name: str) -> Path:
    """Write metadata that make a fork available as ``name`` as well; returns their folder (Path).

    They have no RECORD of files: mim's fork would take the folder of the first file in it, which is the
    metadata folder, for that of the package.
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
    """Write the original names of all installed forks."""
    for name in filter(is_hidden, FORKS):
        sys.stdout.write(f'{FORKS[name]} is now found as {name}, too: {write_name(name)}\n')


if __name__ == '__main__':
    main()
