"""A weights file, folders for it, and a simulated Google Drive."""

import hashlib
import io
import os
import sys

import pytest
import torch

from mmmobilemamba.weights import store

from ..conftest import authors_checkpoint
from .drive import serving, stand_in


def as_bytes(checkpoint):
    """The bytes of a checkpoint saved by ``torch.save``."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def check_whole(folder, content):
    """Check that a folder contains the file of T2, its SHA-256, and nothing else."""
    assert sorted(os.listdir(folder)) == ['mobilemamba_t2.pth', 'mobilemamba_t2.pth.sha256']
    assert (folder / 'mobilemamba_t2.pth').read_bytes() == content
    kept = (folder / 'mobilemamba_t2.pth.sha256').read_text()
    assert kept == f'{hashlib.sha256(content).hexdigest()}  mobilemamba_t2.pth\n'


@pytest.fixture(scope='session')
def t2():
    """The authors' T2 file with other values (bytes)."""
    return as_bytes(authors_checkpoint('t2'))


@pytest.fixture(scope='session')
def t4():
    """The authors' T4 file with other values (bytes)."""
    return as_bytes(authors_checkpoint('t4'))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The download folder, which does not exist yet; other folders are empty."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('MMMOBILEMAMBA_WEIGHTS', str(tmp_path / 'weights'))
    monkeypatch.delenv('MMMOBILEMAMBA_MIRROR', raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, 'LOCK_TIMEOUT', 20)
    return tmp_path / 'weights'


@pytest.fixture
def server(folder):
    """A server at ``server.address``."""
    with serving() as (running, address):
        running.address = address
        yield running


@pytest.fixture
def mirror(server, monkeypatch):
    """A mirror URL, without Google Drive."""
    monkeypatch.setenv('MMMOBILEMAMBA_MIRROR', f'{server.address}/')
    monkeypatch.setitem(sys.modules, 'gdown', None)
    return server


@pytest.fixture
def drive(server, tmp_path, monkeypatch):
    """A simulated Google Drive."""
    pytest.importorskip('gdown')
    monkeypatch.setattr(sys.modules['gdown.download'], 'DEFAULT_COOKIES_FILE', str(tmp_path / 'cookies.txt'))
    stand_in(server.address, monkeypatch.setattr)
    return server
