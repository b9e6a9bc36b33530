"""Gives the file of published weights: one that is there, else from the mirror, else from Google Drive."""

from __future__ import annotations

from pathlib import Path

from ..models.checkpoint import CheckpointError
from .files import FOLDER, find, local_folders, mirror_folder
from .table import SCHEME, Weights, weights_of
from .verify import check_file


def fetch(name: str) -> Path:
    """The local file of published weights, downloaded if it is not there.

    Args:
        name (str): Such as ``'b1'`` or ``'mobilemamba://b1'``.

    Returns:
        Path: A file whose contents are those of the name, and the same as at its first use.

    Raises:
        ValueError: If there are no weights of this name; the message has the names.
        CheckpointError: If they cannot be had, with where to get them by hand; or if a file under their
            name is damaged, has changed or is of another network.
    """
    weights = weights_of(name)
    path = _find_local(weights)
    if path is None:
        raise CheckpointError(_not_here(weights, 'there is no downloader yet'))
    check_file(path, weights)
    return path


def _find_local(weights: Weights) -> Path | None:
    for folder in local_folders():
        if path := find(weights, folder):
            return path
    mirror = mirror_folder()
    return find(weights, mirror) if mirror else None


def _not_here(weights, reason):
    """The message that weights cannot be had: why, and how to get them by hand."""
    folders = '\n'.join(f'  {folder}' for folder in local_folders())
    return (
        f'{SCHEME}{weights.name} is on no disk here and was not downloaded: {reason}\n'
        f'Get {weights.file_name} with a browser from {weights.address} and put it into one of the folders in '
        f'which it is looked for:\n{folders}\n(the first is set by {FOLDER})'
    )
