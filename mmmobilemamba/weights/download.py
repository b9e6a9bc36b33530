"""Downloads a file of published weights: from the mirror, else from Google Drive."""

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
from torch.hub import tqdm  # shows nothing where tqdm is not installed

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

TIMEOUT = 30  # seconds without a byte
OLDEST_GDOWN = '6.3'  # knows a timeout
INSTALL = f"python -m pip install 'gdown>={OLDEST_GDOWN}'"
ABSENT = (401, 403, 404, 410)  # what servers, S3 among them, answer for a file that they have not
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class DownloadError(Exception):
    """A file did not come; the message says from where, and why."""


class AbsentError(DownloadError):
    """A mirror has no file of a name."""


def download(weights: Weights, folder: Path) -> Path:
    """Download a file into a folder; it gets its name when it is complete and what it should be.

    One process at a time may call it for a folder.

    Returns:
        Path: The file, with its sha256 beside it.

    Raises:
        DownloadError: If neither the mirror nor Google Drive gives it.
        CheckpointError: If what came is damaged or of another network, or if the disk is full.
        OSError: If the folder cannot be written.
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
    """The first of the possible names that the mirror has."""
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
    """Let ``read`` write a temporary file beside ``path``; look into it, and give it the name."""
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
    """Copy what an address gives."""
    try:
        response = urlopen(Request(address, headers={'User-Agent': 'mmmobilemamba'}), timeout=TIMEOUT)
    except HTTPError as error:
        raise (AbsentError if error.code in ABSENT else DownloadError)(f'{address}: {error}') from error
    except (OSError, HTTPException, ValueError) as error:
        raise DownloadError(f'{address}: {error}') from error
    with response:
        if response.headers.get_content_type() == 'text/html':  # what some servers have instead of a 404
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
    """Copy what Google Drive has under an id; gdown passes its confirmation page."""
    try:
        # Here, as it brings a parser of HTML, and nothing else needs it.
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
    """A progress bar, as a function of the bytes that are done and all of them."""
    with tqdm(unit='B', unit_scale=True, unit_divisor=1024) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
