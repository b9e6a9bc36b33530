"""Provides the file of published weights: a local one, otherwise from the mirror or Google Drive."""

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

LOCK_TIMEOUT = 1800  # seconds to wait for the download of another process
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # errors of file systems without flock


def fetch(name: str) -> Path:
    """Return the local file of published weights, and download it if necessary.

    If several processes, on one machine or with a shared folder, need the same file, one of them downloads it
    and the others wait.

    Args:
        name (str): Name of the weights, such as ``'b1'`` or ``'mobilemamba://b1'``.

    Returns:
        Path: A file that contains these weights and has not changed since its first use.

    Raises:
        ValueError: If no weights have this name; the message lists the names.
        CheckpointError: If they cannot be downloaded (the message says how to get them manually), or if the
            local file is damaged, has changed or belongs to another network.
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
            # Another process may have downloaded it in the meantime.
            return find(weights) or download(weights, folder)
    except DownloadError as error:
        raise CheckpointError(_how_to_get(weights, str(error))) from error
    except OSError as error:
        reason = f'{folder}, where downloads go, cannot be written: {error}'
        raise CheckpointError(_how_to_get(weights, reason)) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file lock, which is released when its process ends.

    On file systems without such locks, the existence of a file is the lock. It remains if its process is
    killed; after the timeout, the error of waiting processes says what to do.
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
        if not isinstance(lock, SoftFileLock):  # SoftFileLock removes its file itself
            with suppress(OSError):  # Windows cannot remove open files
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
    """Return the error message: why the download failed, and how to get the weights manually."""
    mirror = mirror_folder()
    places = [*local_folders(), mirror] if mirror else local_folders()
    folders = '\n'.join(f'  {folder}' for folder in places)
    return (
        f'{SCHEME}{weights.name} is not on this machine and was not downloaded:\n{reason}\n'
        f'Get {weights.file_name} with a browser from\n  {weights.address}\n'
        f'and put it into one of the folders in which it is looked for:\n{folders}\n'
        f'{FOLDER} sets the first. Without internet, {MIRROR} names a folder or an address with the files.'
    )
