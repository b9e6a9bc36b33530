"""Where a file of published weights is looked for, and under which names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from ..models.checkpoint import CheckpointError
from .table import Weights

FOLDER = 'MMMOBILEMAMBA_WEIGHTS'  # environment variable: the folder that downloads go to
MIRROR = 'MMMOBILEMAMBA_MIRROR'  # environment variable: an address or a folder, before Google Drive
SUFFIXES = ('.pth', '.safetensors')


def weights_folder() -> Path:
    """What ``MMMOBILEMAMBA_WEIGHTS`` names, else ``checkpoints`` in torch's hub folder (Path)."""
    chosen = os.environ.get(FOLDER)
    folder = Path(chosen) if chosen else Path(torch.hub.get_dir(), 'checkpoints')
    return folder.expanduser().absolute()


def local_folders() -> tuple[Path, ...]:
    """Where files lie that need no download: the weights folder, torch's, and ``checkpoints`` here.

    The last one is where our configs expected a file before they knew names.
    """
    usual = Path(torch.hub.get_dir(), 'checkpoints').expanduser().absolute()
    return tuple(dict.fromkeys((weights_folder(), usual, Path('checkpoints').absolute())))


def mirror_address() -> str | None:
    """What ``MMMOBILEMAMBA_MIRROR`` names, if that is an address (str), without a slash at its end."""
    mirror = os.environ.get(MIRROR, '')
    return mirror.rstrip('/') if re.match('https?://', mirror) else None


def mirror_folder() -> Path | None:
    """What ``MMMOBILEMAMBA_MIRROR`` names, if that is a folder (Path).

    Raises:
        CheckpointError: If it is neither a folder nor an address of ``http(s)``.
    """
    mirror = os.environ.get(MIRROR)
    if not mirror or mirror_address():
        return None
    folder = Path(mirror).expanduser().absolute()
    if not folder.is_dir():
        raise CheckpointError(
            f'{MIRROR}={mirror} is neither a folder nor an address that begins with http:// or https://. '
            f'Correct it, or unset it.'
        )
    return folder


def possible_names(weights: Weights) -> tuple[str, ...]:
    """Names that a file of these weights may have, the likeliest first.

    Beside that of the table, the name that users ask for, that of the config, and what the docs have
    ``mobilemamba_to_mm.py`` write; each as a file of torch or of safetensors.
    """
    dataset = weights.config.rsplit('_', 1)[-1]
    stems = [Path(weights.file_name).stem, weights.config, weights.name]
    if weights.task == 'classification':
        stems += [f'mobilemamba-{weights.name}_in1k', f'mobilemamba-{weights.name}_{dataset}']
    return tuple(dict.fromkeys(f'{stem}{suffix}' for stem in stems for suffix in SUFFIXES))


def find(weights: Weights, folder: Path) -> Path | None:
    """A file of these weights in a folder, under a possible name or one with the sha256 that we add to it.

    Raises:
        CheckpointError: If several with a sha256 in their names could be it.
    """
    for name in possible_names(weights):
        if (folder / name).is_file():
            return folder / name
        hashed = sorted(_with_hash(folder, Path(name)))
        if len(hashed) > 1:
            raise CheckpointError(
                f'{folder} has several files that could be the weights {weights.name!r}: '
                f'{", ".join(path.name for path in hashed)}. Keep one of them there.'
            )
        if hashed:
            return hashed[0]
    return None


def _with_hash(folder: Path, name: Path) -> Iterator[Path]:
    """Files of a folder named as ``name`` with ``-`` and 8 hexadecimal digits behind its stem."""
    pattern = re.compile(rf'{re.escape(name.stem)}-[0-9a-f]{{8}}{re.escape(name.suffix)}')
    return (path for path in folder.glob(f'{name.stem}-*{name.suffix}') if pattern.fullmatch(path.name))
