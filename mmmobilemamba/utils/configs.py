"""Where the recipes of this package are installed, and how configs are read."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .forks import FORKS, is_hidden


def find_root() -> Path:
    """Folder that holds ``configs``: ``.mim`` of an installed package, or the root of a checkout.

    Raises:
        FileNotFoundError: If neither has them.
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
    """The file of a recipe, for what takes configs by path only, as mmdet's and mmseg's inferencers do.

    Args:
        name (str): As ``mim search mmmobilemamba`` lists it; ``.py`` behind it is allowed.

    Raises:
        FileNotFoundError: If the configs are not where they were installed.
        ValueError: If there is no such recipe; the message has the nearest name.

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
    """The ``type`` of an argument of argparse that is a config.

    Args:
        text (str): A file, or a recipe as :func:`config_path` takes it.

    Returns:
        str: The path of the file.

    Raises:
        ArgumentTypeError: If there is neither; the message has the nearest name.
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
    """Read a config, and say what to do where only a fork of what it inherits from is installed.

    Args:
        path (str | Path): The file.
        options (dict, optional): Changes, as ``--cfg-options`` gives them.
        kwargs: As ``Config.fromfile`` takes them.

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
