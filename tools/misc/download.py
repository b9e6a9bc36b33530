"""Download published weights and their configs to a folder.

    mim run mmmobilemamba download b1 retinanet-b1 --dest checkpoints
    mim run mmmobilemamba download mobilemamba-b1_8xb128_in1k --dest checkpoints

Accepts names of weights or of configs. Like ``mim download``, it writes the weights, and the config in one
file. Unlike that, it uses the local folders and the mirror of this machine, and verifies every file.
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
    """Download one file of weights and its config.

    Args:
        name (str): Name of the weights or of their config.
        folder (Path): Target folder, created if missing.

    Returns:
        tuple[Path, Path]: The weights and the config.

    Raises:
        CheckpointError: If the weights cannot be downloaded or are invalid.
        FileExistsError: If another file with one of the names exists.
        ValueError: If there are no weights with that name.
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
    """A config with its bases merged, as text (str)."""
    return read_config(config_path(name), import_custom_modules=False).pretty_text


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('names', nargs='+', metavar='NAME', help='name of weights or of a config')
    parser.add_argument('--dest', type=Path, default=Path(), help='target folder (default: current folder)')
    args = parser.parse_args(argv)
    for name in args.names:
        try:
            paths = download(name, args.dest)
        except (CheckpointError, OSError, ValueError) as error:
            sys.exit(f'{parser.prog}: error: {error}')
        print(*paths, sep='\n')


if __name__ == '__main__':
    main()
