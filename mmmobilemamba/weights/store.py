"""Gives the file of published weights: one that is there, else from the mirror, else from Google Drive."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from mmengine.logging import print_log

from ..models.checkpoint import CheckpointError
from .download import DownloadError, download
from .files import FOLDER, MIRROR, find, local_folders, mirror_folder, weights_folder
from .table import SCHEME, Weights, weights_of
from .verify import check_file

LOCK_TIMEOUT = 1800  # seconds that a process waits for another's download
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what file systems without flock answer


def fetch(name: str) -> Path:
    """The local file of published weights, downloaded if it is not there.

    Several processes, on one machine or on a folder that machines share, download once: one does, the
    others wait for it.

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
    path = find(weights) or _download_once(weights, weights_folder())
    check_file(path, weights)
    print_log(f'{SCHEME}{weights.name} is {path}', logger='current')
    return path


def _download_once(weights: Weights, folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f'{weights.file_name}.lock'):
            # Another process may have downloaded it while this one waited.
            return find(weights) or download(weights, folder)
    except DownloadError as error:
        raise CheckpointError(_how_to_get(weights, str(error))) from error
    except OSError as error:
        reason = f'{folder}, where downloads go, cannot be written: {error}'
        raise CheckpointError(_how_to_get(weights, reason)) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock, which ends with the process that holds it.

    On file systems without such locks, that a file exists is the lock. It stays where a process is killed;
    the others then say what to do when they have waited.
    """
    try:
        lock = _acquire(FileLock(path), path)
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        path = path.with_suffix('.softlock')
        lock = _acquire(SoftFileLock(path), path)
    try:
        yield
    finally:
        if not isinstance(lock, SoftFileLock):  # which removes its file itself
            with suppress(OSError):  # Windows keeps what is open
                path.unlink()
        lock.release()


def _acquire(lock: BaseFileLock, path: Path) -> BaseFileLock:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print_log(
            f'Waiting for another process, which downloads the same file (lock: {path})', logger='current'
        )
    else:
        return lock
    try:
        lock.acquire(timeout=LOCK_TIMEOUT, poll_interval=0.2)
    except Timeout as error:
        raise CheckpointError(
            f'Another process has held {path} for {LOCK_TIMEOUT // 60} minutes. If none that uses this '
            f'folder, on any machine, is downloading, delete this file and try again.'
        ) from error
    return lock


def _how_to_get(weights: Weights, reason: str) -> str:
    """The message that weights cannot be had: why, and how to get them by hand."""
    mirror = mirror_folder()
    places = [*local_folders(), mirror] if mirror else local_folders()
    folders = '\n'.join(f'  {folder}' for folder in places)
    return (
        f'{SCHEME}{weights.name} is not on this machine and was not downloaded:\n{reason}\n'
        f'Get {weights.file_name} with a browser from\n  {weights.address}\n'
        f'and put it into one of the folders in which it is looked for:\n{folders}\n'
        f'{FOLDER} sets the first. Without internet, {MIRROR} names a folder or an address with the files.'
    )
