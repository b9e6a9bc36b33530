"""Concurrent and killed processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock, SoftFileLock

from mmmobilemamba.models.checkpoint import CheckpointError
from mmmobilemamba.weights import fetch, store, weights_of
from mmmobilemamba.weights.download import download
from mmmobilemamba.weights.files import MACHINE, remove_leftovers, temporary_beside

from ..conftest import ROOT
from .conftest import check_whole

T2 = weights_of('t2')
CODE = "from mmmobilemamba.weights import fetch; print(fetch('t2'))"


def start():
    """Start a process that fetches T2."""
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    return subprocess.Popen(
        [sys.executable, '-c', CODE], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )


def test_two_at_once(folder, mirror, t2):
    """One process downloads, the other waits for it."""
    mirror.files[T2.file_name] = t2
    mirror.go_on.clear()
    processes = [start(), start()]
    assert mirror.started.wait(60)
    time.sleep(1)  # the other process reaches the lock
    mirror.go_on.set()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert all(output.rstrip().endswith(str(folder / T2.file_name)) for output in outputs), outputs
    assert mirror.sent == [T2.file_name]
    check_whole(folder, t2)


def test_killed_and_tried_again(folder, mirror, t2):
    """Files left by a killed process are temporary, do not block others, and are removed."""
    mirror.files[T2.file_name] = t2
    mirror.go_on.clear()
    process = start()
    assert mirror.started.wait(60)
    while not any(path.stat().st_size for path in folder.glob('.part-*')):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    mirror.go_on.set()
    left = sorted(os.listdir(folder))
    assert [name[:6] for name in left] == ['.part-', 'mobile'] and left[1] == 'mobilemamba_t2.pth.lock'
    assert fetch('t2') == folder / T2.file_name
    check_whole(folder, t2)


def test_leftovers_of_others(folder):
    """Files of other weights, other programs, and other machines that may still be writing are kept."""
    folder.mkdir()
    t2, t4 = (temporary_beside(folder / f'mobilemamba_{name}.pth') for name in ('t2', 't4'))
    there = t2.with_name(t2.name.replace(MACHINE, '0' * 12))
    old = there.with_name(there.name.replace('t2.pth', 't2.pth.sha256'))
    for path in (t2, t4, there, old, folder / '.part-mine'):
        path.touch()
    os.utime(old, (0, 0))
    remove_leftovers(T2, folder)
    assert sorted(folder.iterdir()) == sorted([t4, there, folder / '.part-mine'])


@pytest.mark.parametrize('kind', [FileLock, SoftFileLock])
def test_lock_that_is_held_too_long(folder, monkeypatch, kind):
    """The message names the lock file; after deleting it, the next attempt succeeds."""
    folder.mkdir()
    monkeypatch.setattr(store, 'LOCK_TIMEOUT', 0.3)
    monkeypatch.setattr(store, 'FileLock', kind)
    path = folder / 'mobilemamba_t2.pth.lock'
    with kind(path), pytest.raises(CheckpointError, match=f'has held {path} for .* delete this file'):
        fetch('t2')


def test_file_system_without_locks(folder, mirror, monkeypatch, t2):
    """On some shared disks, the existence of a file is the lock."""
    mirror.files[T2.file_name] = t2
    seen = []

    def refuse(path):
        raise NotImplementedError('FileSystem does not appear to support flock; use SoftFileLock instead')

    def spy(weights, path):
        seen.extend(os.listdir(path))
        return download(weights, path)

    monkeypatch.setattr(store, 'FileLock', refuse)
    monkeypatch.setattr(store, 'download', spy)
    fetch('t2')
    assert seen == ['mobilemamba_t2.pth.softlock']
    check_whole(folder, t2)
