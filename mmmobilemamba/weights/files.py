"""Folders and file names that are searched for published weights."""

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

FOLDER = 'MMMOBILEMAMBA_WEIGHTS'  # environment variable: the download folder
MIRROR = 'MMMOBILEMAMBA_MIRROR'  # environment variable: a URL or a folder, tried before Google Drive
SUFFIXES = ('.pth', '.safetensors')
MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:12]
ABANDONED = 3600  # seconds after which a temporary file counts as abandoned


def chosen_folder() -> Path | None:
    """Return the folder in ``MMMOBILEMAMBA_WEIGHTS`` (Path), or None if it is not set."""
    chosen = os.environ.get(FOLDER)
    return Path(chosen).expanduser().absolute() if chosen else None


def torch_folder() -> Path:
    """Return ``checkpoints`` in the hub folder of torch (Path)."""
    return Path(torch.hub.get_dir(), 'checkpoints').expanduser().absolute()


def weights_folder() -> Path:
    """Return the download folder: the chosen one, otherwise torch's (Path)."""
    return chosen_folder() or torch_folder()


def local_folders() -> tuple[Path, ...]:
    """Return the folders searched before downloading (tuple[Path]).

    These are the weights folder, torch's, and ``checkpoints`` in the working directory, which older configs
    of this package used.
    """
    return tuple(dict.fromkeys((weights_folder(), torch_folder(), Path('checkpoints').absolute())))


def mirror_address() -> str | None:
    """Return the URL in ``MMMOBILEMAMBA_MIRROR`` without a trailing slash (str), or None if it is not a URL.

    Raises:
        CheckpointError: If it contains a user name or password, which would appear in logs.
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
    """Return the folder in ``MMMOBILEMAMBA_MIRROR`` (Path), or None if it is not set or a URL.

    Raises:
        CheckpointError: If it is neither a folder nor an ``http(s)`` URL.
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
    """Return the possible file names of weights, most likely first (tuple[str]).

    These are the name in the table, the name of the config, the output name of ``mobilemamba_to_mm.py`` in
    the docs, and the short name, each with the extensions of torch and safetensors.

    Args:
        weights (Weights): The weights.
        short (bool): Whether to include short names such as ``b1.pth``, which are ambiguous in a folder with
            other weights. Defaults to True.
    """
    dataset = weights.config.rsplit('_', 1)[-1]
    stems = [Path(weights.file_name).stem, weights.config]
    if weights.task == 'classification':
        stems += [f'mobilemamba-{weights.name}_in1k', f'mobilemamba-{weights.name}_{dataset}']
    if short:
        stems.append(weights.name)
    return tuple(dict.fromkeys(f'{stem}{suffix}' for stem in stems for suffix in SUFFIXES))


def find(weights: Weights) -> Path | None:
    """Find weights in the local folders or in a mirror folder (Path, or None if they are not found).

    Raises:
        CheckpointError: See :func:`find_in` and :func:`mirror_folder`.
    """
    for folder in local_folders():
        if path := find_in(folder, possible_names(weights, short=folder == chosen_folder())):
            return path
    mirror = mirror_folder()  # last, so that its errors do not affect files found elsewhere
    return find_in(mirror, possible_names(weights)) if mirror else None


def find_in(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of some files that exists in a folder (Path), or None.

    File names with the first digits of the file's SHA-256, such as ``b1-0123abcd.pth``, are accepted as well.

    Raises:
        CheckpointError: If several files with a SHA-256 in their names match.
    """
    for name in names:
        if os.path.isfile(folder / name):  # False without permission; Path.is_file can raise
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
    """Yield the files of a folder named like ``name`` with ``-`` and 8 hexadecimal digits after the stem."""
    pattern = re.compile(rf'{re.escape(name.stem)}-[0-9a-f]{{8}}{re.escape(name.suffix)}')
    return (path for path in folder.glob(f'{name.stem}-*{name.suffix}') if pattern.fullmatch(path.name))


def temporary_beside(path: Path) -> Path:
    """Return a unique hidden path beside ``path``, with a machine id and the same extension (Path)."""
    return path.with_name(f'.part-{MACHINE}-{uuid.uuid4().hex[:20]}-{path.name}')


def remove_leftovers(weights: Weights, folder: Path) -> None:
    """Remove temporary files of interrupted downloads of these weights; the caller holds the folder's lock.

    Files of other machines are kept for an hour: locks on shared disks may only work within a machine, so
    another machine could still be writing.
    """
    names = possible_names(weights)
    for path in folder.glob('.part-*'):
        match = re.fullmatch(r'\.part-([0-9a-f]{12})-[0-9a-f]{20}-(.+?)(\.sha256)?', path.name)
        if not match or match[2] not in names:
            continue
        with suppress(FileNotFoundError):
            if match[1] == MACHINE or time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
