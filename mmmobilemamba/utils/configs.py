"""Finds the recipes of this package and reads configs."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .forks import FORKS, is_hidden


def find_root() -> Path:
    """Return the folder that contains ``configs``: ``.mim`` of the package, or the root of a checkout (Path).

    Raises:
        FileNotFoundError: If neither contains it.
    """
    package = Path(__file__).resolve().parents[1]
    for root in (package / '.mim', package.parent):
        if (root / 'configs/mobilemamba/metafile.yml').is_file():
            return root
    raise FileNotFoundError(
        f'There are no configs in {package / ".mim"} or {package.parent}. Install the package again, with '
        f'`pip install .` in its repository.'
    )


def config_path(name: str) -> str:
    """Return the path of a recipe (str), for APIs that require a path, such as mmdet's and mmseg's
    inferencers.

    Args:
        name (str): Name of the recipe as listed by ``mim search mmmobilemamba``, with or without ``.py``.

    Raises:
        FileNotFoundError: If the installed configs are missing.
        ValueError: If the recipe does not exist; the message has the closest name.

    Example:
        >>> from mmdet.apis import DetInferencer
        >>> config = config_path('retinanet_mobilemamba-b1_fpn_1x_coco')
        >>> detector = DetInferencer(config, 'mobilemamba://retinanet-b1')
    """
    folder = find_root() / 'configs'
    paths = folder.rglob('*.py')
    configs = {path.stem: path for path in paths if '_base_' not in path.relative_to(folder).parts}
    stem = name.removesuffix('.py')
    if stem in configs:
        return str(configs[stem])
    close = get_close_matches(stem, configs, n=1)
    raise ValueError(
        f'There is no recipe {stem!r}{f"; {close[0]!r} is close" if close else ""}. '
        f'`mim search mmmobilemamba` lists them all.'
    )


def config_argument(text: str) -> str:
    """Parse a config on the command line; a ``type`` for argparse.

    Args:
        text (str): A file, or the name of a recipe, see :func:`config_path`.

    Returns:
        str: The path of the file.

    Raises:
        ArgumentTypeError: If neither exists; the message has the closest name.
    """
    if Path(text).is_file():
        return text
    if Path(text).name != text:
        raise ArgumentTypeError(f'there is no config file {text}')
    try:
        return config_path(text)
    except (FileNotFoundError, ValueError) as error:
        raise ArgumentTypeError(f'there is no config file {text} here. {error}') from error


def read_config(path: str | Path, options: Mapping[str, Any] | None = None, **kwargs: Any) -> Config:
    """Read a config.

    If it inherits from a package of which only a fork is installed, the error says what to do.

    Args:
        path (str | Path): The file.
        options (dict, optional): Changes, as from ``--cfg-options``. Defaults to None.
        **kwargs: Arguments of ``Config.fromfile``.

    Raises:
        ModuleNotFoundError: If the config inherits from a package that is not found.
    """
    try:
        config = Config.fromfile(path, **kwargs)
    except ModuleNotFoundError as error:
        name = str(error).partition(' ')[0]
        if not is_hidden(name):
            raise
        raise ModuleNotFoundError(
            f'{path} inherits from {name}, and mmengine does not find its fork, {FORKS[name]}, under that '
            f'name. Run `python -m mmmobilemamba.utils.forks` once, which lets it be found.'
        ) from error
    config.merge_from_dict(options or {})
    return config
