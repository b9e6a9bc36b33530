"""Where a file of published weights is looked for, and under which names."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ..models.checkpoint import CheckpointError
from .table import Weights

FOLDER = 'MMMOBILEMAMBA_WEIGHTS'  # environment variable: the folder that downloads go to
MIRROR = 'MMMOBILEMAMBA_MIRROR'  # environment variable: an address or a folder, before Google Drive
SUFFIXES = ('.pth', '.safetensors')
MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:12]
ABANDONED = 3600  # seconds after which nobody writes to a file any more


def chosen_folder() -> Path | None:
    """What ``MMMOBILEMAMBA_WEIGHTS`` names (Path)."""
    chosen = os.environ.get(FOLDER)
    return Path(chosen).expanduser().absolute() if chosen else None


def torch_folder() -> Path:
    """``checkpoints`` in torch's hub folder (Path)."""
    return Path(torch.hub.get_dir(), 'checkpoints').expanduser().absolute()


def weights_folder() -> Path:
    """Where downloads go (Path): the chosen folder, else torch's."""
    return chosen_folder() or torch_folder()


def local_folders() -> tuple[Path, ...]:
    """Where files lie that need no download: the weights folder, torch's, and ``checkpoints`` here.

    The last one is where our configs expected a file before they knew names.
    """
    return tuple(dict.fromkeys((weights_folder(), torch_folder(), Path('checkpoints').absolute())))


def mirror_address() -> str | None:
    """What ``MMMOBILEMAMBA_MIRROR`` names, if that is an address (str), without a slash at its end.

    Raises:
        CheckpointError: If it has a user or a password, which logs would show.
    """
    mirror = os.environ.get(MIRROR, '')
    address = re.match(r'(https?://)([^/]*@)?', mirror, re.IGNORECASE)
    if address and address[2]:
        raise CheckpointError(
            f'{MIRROR} is an address with a user or a password in front of the host, which are not sent. '
            f'Name one that needs none, or a folder with the files.'
        )
    return mirror.rstrip('/') if address else None


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


def possible_names(weights: Weights, short: bool = True) -> tuple[str, ...]:
    """Names that a file of these weights may have, the likeliest first.

    Beside that of the table, that of the config, what the docs have ``mobilemamba_to_mm.py`` write, and the
    short one that users ask for; each as a file of torch or of safetensors.

    Args:
        weights (Weights): What is wanted.
        short (bool): With ``b1.pth``, which in a folder of all kinds of weights may be any. Defaults to True.
    """
    dataset = weights.config.rsplit('_', 1)[-1]
    stems = [Path(weights.file_name).stem, weights.config]
    if weights.task == 'classification':
        stems += [f'mobilemamba-{weights.name}_in1k', f'mobilemamba-{weights.name}_{dataset}']
    if short:
        stems.append(weights.name)
    return tuple(dict.fromkeys(f'{stem}{suffix}' for stem in stems for suffix in SUFFIXES))


def find(weights: Weights) -> Path | None:
    """The file of these weights on this machine (Path), in a local folder or a mirror that is a folder.

    Raises:
        CheckpointError: As :func:`find_in` and :func:`mirror_folder`.
    """
    for folder in local_folders():
        if path := find_in(folder, possible_names(weights, short=folder == chosen_folder())):
            return path
    mirror = mirror_folder()  # here: what is wrong with it does not matter to files that are found before
    return find_in(mirror, possible_names(weights)) if mirror else None


def find_in(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of some files that a folder has (Path), also with the beginning of its sha256 in its name.

    Raises:
        CheckpointError: If several with a sha256 in their names could be it.
    """
    for name in names:
        if os.path.isfile(folder / name):  # False where it may not be looked at
            return folder / name
        hashed = sorted(_with_hash(folder, Path(name)))
        if len(hashed) > 1:
            raise CheckpointError(
                f'{folder} has several files that could be {name}: '
                f'{", ".join(path.name for path in hashed)}. Keep one of them there.'
            )
        if hashed:
            return hashed[0]
    return None


def _with_hash(folder: Path, name: Path) -> Iterator[Path]:
    """Files of a folder named as ``name`` with ``-`` and 8 hexadecimal digits behind its stem."""
    pattern = re.compile(rf'{re.escape(name.stem)}-[0-9a-f]{{8}}{re.escape(name.suffix)}')
    return (path for path in folder.glob(f'{name.stem}-*{name.suffix}') if pattern.fullmatch(path.name))


def temporary_beside(path: Path) -> Path:
    """A name for a file that is to become ``path``: hidden, of this machine, and with the same ending."""
    return path.with_name(f'.part-{MACHINE}-{uuid.uuid4().hex[:20]}-{path.name}')


def remove_leftovers(weights: Weights, folder: Path) -> None:
    """Remove what killed downloads of these weights have left in a folder; to be called under its lock.

    On shared disks whose locks hold on one machine alone, other machines may be writing: theirs stay for an
    hour.
    """
    names = possible_names(weights)
    for path in folder.glob('.part-*'):
        match = re.fullmatch(r'\.part-([0-9a-f]{12})-[0-9a-f]{20}-(.+?)(\.sha256)?', path.name)
        if not match or match[2] not in names:
            continue
        with suppress(FileNotFoundError):
            if match[1] == MACHINE or time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
