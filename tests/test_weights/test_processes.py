"""Several processes, and one that is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock, SoftFileLock

from mmmobilemamba.models.checkpoint import CheckpointError
from mmmobilemamba.weights import fetch, store, weights_of

from ..conftest import ROOT
from .test_download import check_whole

T2 = weights_of('t2')
CODE = """
import logging
from tests.test_weights.drive import stand_in
stand_in({address!r})
from mmmobilemamba.weights import fetch
print(fetch('t2'))
"""


def start(drive):
    """A process that fetches T2 from ``drive``."""
    env = dict(os.environ, PYTHONPATH=f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
    code = CODE.format(address=drive.address)
    return subprocess.Popen(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )


def test_two_at_once(folder, drive, t2, monkeypatch):
    """One downloads, and the other waits for it."""
    monkeypatch.setenv('HOME', str(folder.parent))
    drive.files[T2.drive_id] = t2
    drive.go_on.clear()
    processes = [start(drive), start(drive)]
    assert drive.started.wait(60)
    time.sleep(1)  # the other comes as far as it can
    drive.go_on.set()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert all(output.rstrip().endswith(str(folder / T2.file_name)) for output in outputs), outputs
    assert drive.sent == [T2.drive_id]
    check_whole(folder, t2)


def test_killed_and_tried_again(folder, drive, t2, monkeypatch):
    """What a killed process leaves has no name, holds nobody up and goes."""
    monkeypatch.setenv('HOME', str(folder.parent))
    drive.files[T2.drive_id] = t2
    drive.go_on.clear()
    process = start(drive)
    assert drive.started.wait(60)
    while not any(path.stat().st_size for path in folder.glob('.part-*')):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    drive.go_on.set()
    left = sorted(os.listdir(folder))
    assert [name[:6] for name in left] == ['.part-', 'mobile'] and left[1] == 'mobilemamba_t2.pth.lock'
    assert fetch('t2') == folder / T2.file_name
    check_whole(folder, t2)


def test_leftovers_of_others_stay(folder, drive, t2):
    folder.mkdir()
    names = [f'.part-{"0" * 32}-mobilemamba_t4.pth', '.part-mine', f'.part-{"0" * 32}-mobilemamba_t2.pth']
    for name in names:
        (folder / name).touch()
    drive.files[T2.drive_id] = t2
    fetch('t2')
    assert sorted(path.name for path in folder.glob('.part-*')) == sorted(names[:2])


@pytest.mark.parametrize('kind', [FileLock, SoftFileLock])
def test_lock_that_is_held_too_long(folder, monkeypatch, kind):
    """The message names the file; with it deleted, the next try goes on."""
    folder.mkdir()
    monkeypatch.setattr(store, 'LOCK_TIMEOUT', 0.3)
    monkeypatch.setattr(store, 'FileLock', kind)
    path = folder / 'mobilemamba_t2.pth.lock'
    with kind(path), pytest.raises(CheckpointError, match=f'has held {path} for .* delete this file'):
        fetch('t2')


def test_file_system_without_locks(folder, drive, monkeypatch, t2):
    """Some shared disks; the existence of a file is the lock there."""
    drive.files[T2.drive_id] = t2

    def refuse(path):
        raise NotImplementedError('FileSystem does not appear to support flock; use SoftFileLock instead')

    monkeypatch.setattr(store, 'FileLock', refuse)
    seen = []
    monkeypatch.setattr(store, 'download', lambda weights, path: seen.append(os.listdir(path)) or store.find)
    monkeypatch.setattr(store, 'check_file', lambda *_: None)
    fetch('t2')
    assert seen == [['mobilemamba_t2.pth.softlock']]
    assert os.listdir(folder) == []
