"""Fetch published weights and their configs into a folder.

    mim run mmmobilemamba download b1 retinanet-b1 --dest checkpoints
    mim run mmmobilemamba download mobilemamba-b1_8xb128_in1k --dest checkpoints

takes names of weights or of configs and writes what ``mim download`` does: the file of the weights, and the
config in one file. Unlike that, it takes the folders and the mirror of this machine into account, and checks
what it gets.
"""

import argparse
import filecmp
import os
import shutil
import sys
from pathlib import Path

from mmmobilemamba.models.checkpoint import CheckpointError
from mmmobilemamba.utils import config_path, read_config
from mmmobilemamba.weights import fetch, weights_of


def download(name, folder):
    """Fetch one file of weights and its config.

    Args:
        name (str): Of weights, or of the config that they are for.
        folder (Path): Where both are written; it is made if need be.

    Returns:
        tuple[Path, Path]: The weights and the config.

    Raises:
        CheckpointError: If the weights cannot be had.
        FileExistsError: If there is another file under one of their names.
        ValueError: If there are no weights of that name.
    """
    weights = weights_of(name)
    config, text = folder / f'{weights.config}.py', text_of(weights.config)
    if config.exists() and config.read_text(encoding='utf-8') != text:
        raise FileExistsError(f'{config} is another file than the config; move it away')
    source = fetch(weights.name)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / Path(weights.file_name).with_suffix(source.suffix)
    if not target.exists():
        partial = target.with_name(f'.{target.name}.{os.getpid()}.part')
        try:
            shutil.copyfile(source, partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    elif not filecmp.cmp(source, target, shallow=False):
        raise FileExistsError(f'{target} is another file than the weights {weights.name!r}; move it away')
    config.write_text(text, encoding='utf-8')
    return target, config


def text_of(name):
    """A config without its bases, as text (str)."""
    return read_config(config_path(name), import_custom_modules=False).pretty_text


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('names', nargs='+', metavar='NAME', help='of weights, or of a config')
    parser.add_argument('--dest', type=Path, default=Path(), help='a folder (default: the current one)')
    args = parser.parse_args(argv)
    for name in args.names:
        try:
            paths = download(name, args.dest)
        except (CheckpointError, OSError, ValueError) as error:
            sys.exit(f'{parser.prog}: error: {error}')
        print(*paths, sep='\n')


if __name__ == '__main__':
    main()
