"""Downloads published weights from the mirror or from Google Drive."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from mmengine.logging import print_log
from mmengine.utils import digit_version
from torch.hub import tqdm  # a silent replacement if tqdm is not installed

from ..models.checkpoint import CheckpointError
from .files import (
    FOLDER,
    MIRROR,
    mirror_address,
    possible_names,
    remove_leftovers,
    temporary_beside,
)
from .table import SCHEME, Weights
from .verify import check_content, keep_hash, sha256_of

TIMEOUT = 30  # seconds without data
OLDEST_GDOWN = '6.3'  # first version with a timeout
INSTALL = f"python -m pip install 'gdown>={OLDEST_GDOWN}'"
ABSENT = (401, 403, 404, 410)  # status codes of servers, including S3, for missing files
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class DownloadError(Exception):
    """A download failed; the message has the source and the reason."""


class AbsentError(DownloadError):
    """A mirror does not have a file."""


def download(weights: Weights, folder: Path) -> Path:
    """Download weights into a folder; the file gets its final name once it is complete and verified.

    Only one process at a time may download into a folder.

    Args:
        weights (Weights): The weights.
        folder (Path): The folder.

    Returns:
        Path: The file; its SHA-256 is stored beside it.

    Raises:
        DownloadError: If neither the mirror nor Google Drive has the file.
        CheckpointError: If the file is damaged or belongs to another network, or if the disk is full.
        OSError: If the folder is not writable.
    """
    remove_leftovers(weights, folder)
    reasons = []
    for source in (_from_mirror, _from_drive) if mirror_address() else (_from_drive,):
        try:
            return source(weights, folder)
        except DownloadError as error:
            reasons.append(str(error))
    raise DownloadError('\n'.join(reasons))


def _from_mirror(weights: Weights, folder: Path) -> Path:
    """Download the first of the possible file names that exists on the mirror."""
    names, answers = possible_names(weights), []
    for name in names:
        address = f'{mirror_address()}/{quote(name)}'
        path = (folder / weights.file_name).with_suffix(Path(name).suffix)
        try:
            return _save(partial(_read, address), address, path, weights)
        except AbsentError as error:
            answers.append(str(error))
    raise DownloadError(f'{MIRROR} has no file of these names: {", ".join(names)}. {answers[0]}')


def _from_drive(weights: Weights, folder: Path) -> Path:
    return _save(partial(_read_drive, weights.drive_id), 'Google Drive', folder / weights.file_name, weights)


def _save(read: Callable[[BinaryIO], None], source: str, path: Path, weights: Weights) -> Path:
    """Let ``read`` write a temporary file, verify it, and rename it to ``path``."""
    temporary = temporary_beside(path)
    try:
        with open(temporary, 'xb') as file:
            read(file)
            file.flush()
            os.fsync(file.fileno())
        check_content(temporary, weights)
        keep_hash(path, sha256_of(temporary))
        os.replace(temporary, path)
    except CheckpointError as error:
        message = str(error).replace(str(temporary), f'The {path.name} that came')
        raise CheckpointError(
            f'{SCHEME}{weights.name} was not kept: {source} gave another file. {message}'
        ) from error
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise CheckpointError(
            f'The disk became full while {path.name} was downloaded to {path.parent}, and nothing was kept: '
            f'make room there, or set {FOLDER} to a folder on another disk.'
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _read(address: str, file: BinaryIO) -> None:
    """Copy the content of a URL to a file."""
    try:
        response = urlopen(Request(address, headers={'User-Agent': 'mmmobilemamba'}), timeout=TIMEOUT)
    except HTTPError as error:
        raise (AbsentError if error.code in ABSENT else DownloadError)(f'{address}: {error}') from error
    except (OSError, HTTPException, ValueError) as error:
        raise DownloadError(f'{address}: {error}') from error
    with response:
        if response.headers.get_content_type() == 'text/html':  # some servers send a page instead of a 404
            raise AbsentError(f'{address} is a web page')
        total = response.headers.get('Content-Length')
        total = int(total) if total else None
        print_log(f'Downloading {address}', logger='current')
        done = 0
        with _bar() as show:
            while block := _next_block(response, address):
                file.write(block)
                done += len(block)
                show(done, total)
    if total is not None and done != total:
        raise DownloadError(f'{address}: the connection was cut after {done} of {total} bytes.')


def _next_block(response, address):
    try:
        return response.read(1 << 20)
    except (OSError, HTTPException) as error:
        raise DownloadError(f'{address}: the connection was cut. {error}') from error


def _read_drive(drive_id: str, file: BinaryIO) -> None:
    """Copy a file from Google Drive with gdown, which handles the confirmation page."""
    try:
        # Imported here because gdown brings an HTML parser, needed only for this.
        gdown, requests = import_module('gdown'), import_module('requests')
    except ImportError as error:
        raise DownloadError(f'Downloads from Google Drive need gdown: {INSTALL}') from error
    if digit_version(gdown.__version__) < digit_version(OLDEST_GDOWN):
        raise DownloadError(f'gdown {gdown.__version__} cannot time out: {INSTALL}')
    print_log(f'Downloading file {drive_id} from Google Drive', logger='current')
    try:
        with _bar() as show:
            gdown.download(id=drive_id, output=file, quiet=True, timeout=TIMEOUT, progress=show)
    except (requests.RequestException, gdown.exceptions.DownloadError) as error:
        raise DownloadError(f'Google Drive: {" ".join(str(error).split())}') from error


@contextmanager
def _bar() -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar; yields a function of the bytes done and the total."""
    with tqdm(unit='B', unit_scale=True, unit_divisor=1024) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
