"""Let the forks of OpenMMLab be found under the names of what they fork: ``python tools/misc/name_forks.py``.

The forks are imported as ``mmdet``, ``mmseg`` and so on, and installed as ``onedl-mmdetection``,
``onedl-mmsegmentation``. What looks for an installed package by its old name does not find them: mmengine for
``_base_ = 'mmseg::...'``, mim for ``mim train mmdet``. This writes metadata of the old name beside those of
each fork that is installed where it runs: a name, a version and the module, and no files.
"""

import argparse
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


def find(name):
    """An installed distribution, or ``None``."""
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def write_name(name, fork):
    """Write the metadata by which ``fork``, a distribution, is also found as ``name``; returns their folder.

    There is no RECORD of files: with one, the mim of the forks would look for the package where its first
    file is, which is among the metadata.
    """
    folder = Path(fork.locate_file('')) / f'{name}-{fork.version}.dist-info'
    folder.mkdir()
    texts = {
        'METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {fork.version}\n'
        f'Summary: Another name of {fork.metadata["Name"]}\nRequires-Dist: {fork.metadata["Name"]}\n',
        'top_level.txt': fork.read_text('top_level.txt') or '',
        'INSTALLER': 'name_forks.py of mmmobilemamba\n',
    }
    for file, text in texts.items():
        (folder / file).write_text(text, encoding='utf-8')
    return folder


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    for name, fork in FORKS.items():
        own, other = find(name), find(fork)
        if own is None and other is not None:
            print(f'{fork} {other.version} is also {name}: {write_name(name, other)}')


if __name__ == '__main__':
    main()
