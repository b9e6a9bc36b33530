"""A file of weights, folders to keep it in, and Google Drive on this machine."""

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
    """A checkpoint as ``torch.save`` writes it."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def check_whole(folder, content):
    """The file of T2, its sha256 and nothing else are in a folder."""
    assert sorted(os.listdir(folder)) == ['mobilemamba_t2.pth', 'mobilemamba_t2.pth.sha256']
    assert (folder / 'mobilemamba_t2.pth').read_bytes() == content
    kept = (folder / 'mobilemamba_t2.pth.sha256').read_text()
    assert kept == f'{hashlib.sha256(content).hexdigest()}  mobilemamba_t2.pth\n'


@pytest.fixture(scope='session')
def t2():
    """The authors' file of T2, with other values (bytes)."""
    return as_bytes(authors_checkpoint('t2'))


@pytest.fixture(scope='session')
def t4():
    """The same of T4."""
    return as_bytes(authors_checkpoint('t4'))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that downloads go to, still to be made; all others are empty."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('MMMOBILEMAMBA_WEIGHTS', str(tmp_path / 'weights'))
    monkeypatch.delenv('MMMOBILEMAMBA_MIRROR', raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, 'LOCK_TIMEOUT', 20)
    return tmp_path / 'weights'


@pytest.fixture
def server(folder):
    """A server, at ``server.address``."""
    with serving() as (running, address):
        running.address = address
        yield running


@pytest.fixture
def mirror(server, monkeypatch):
    """A mirror at an address, and no Google Drive."""
    monkeypatch.setenv('MMMOBILEMAMBA_MIRROR', f'{server.address}/')
    monkeypatch.setitem(sys.modules, 'gdown', None)
    return server


@pytest.fixture
def drive(server, tmp_path, monkeypatch):
    """Google Drive."""
    pytest.importorskip('gdown')
    monkeypatch.setattr(sys.modules['gdown.download'], 'DEFAULT_COOKIES_FILE', str(tmp_path / 'cookies.txt'))
    stand_in(server.address, monkeypatch.setattr)
    return server
