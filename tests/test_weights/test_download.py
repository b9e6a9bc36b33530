"""Downloads from a local server: complete and interrupted ones, and leftover files."""

import errno
import io
import os
import sys

import pytest
import torch
from safetensors.torch import save

from mmmobilemamba.models.checkpoint import CheckpointError
from mmmobilemamba.weights import download, fetch, verify, weights_of

from ..conftest import authors_checkpoint
from .conftest import check_whole
from .drive import LOGIN, QUOTA

T2 = weights_of('t2')


@pytest.mark.parametrize('confirms', [False, True])
def test_google_drive(folder, drive, capsys, t2, confirms):
    """With and without the warning about virus scans of large files; the file is downloaded once."""
    drive.files[T2.drive_id], drive.confirms = t2, confirms
    assert fetch('t2') == fetch('t2') == folder / 'mobilemamba_t2.pth'
    check_whole(folder, t2)
    assert drive.sent == [T2.drive_id]
    shown = capsys.readouterr().err
    assert f'{len(t2) / 2**20:.1f}M/{len(t2) / 2**20:.1f}M' in shown


def test_others_may_read_the_file(folder, drive, t2):
    """Permissions follow the umask, unlike those of Python's temporary files."""
    drive.files[T2.drive_id] = t2
    umask = os.umask(0o022)
    try:
        path = fetch('t2')
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize('name', ['mobilemamba_t2.pth', 'mobilemamba-t2_8xb128_in1k.pth', 't2.pth'])
def test_mirror(folder, mirror, t2, name):
    """Under any possible name on the mirror; the local file has the name in the table."""
    mirror.files[name] = t2
    assert fetch('t2') == fetch('t2') == folder / 'mobilemamba_t2.pth'
    assert mirror.sent == [name]
    check_whole(folder, t2)


def test_mirror_of_safetensors(folder, mirror):
    mirror.files['mobilemamba_t2.safetensors'] = save(authors_checkpoint('t2'))
    assert fetch('t2') == folder / 'mobilemamba_t2.safetensors'


def test_mirror_comes_first(folder, drive, monkeypatch, t2):
    monkeypatch.setenv('MMMOBILEMAMBA_MIRROR', drive.address)
    drive.files.update({T2.drive_id: t2, T2.file_name: t2})
    fetch('t2')
    assert drive.sent == [T2.file_name]


def test_google_drive_after_a_mirror_without_the_file(folder, drive, monkeypatch, t2):
    monkeypatch.setenv('MMMOBILEMAMBA_MIRROR', drive.address)
    drive.files[T2.drive_id] = t2
    fetch('t2')
    assert drive.sent == [T2.drive_id]
    check_whole(folder, t2)


def test_mirror_without_the_file(folder, mirror):
    with pytest.raises(
        CheckpointError, match=r'has no file of these names: mobilemamba_t2.pth, .*404'
    ) as caught:
        fetch('t2')
    assert T2.address in str(caught.value) and 'Google Drive need gdown' in str(caught.value)
    assert os.listdir(folder) == []


def test_mirror_that_is_not_there(folder, monkeypatch):
    monkeypatch.setenv('MMMOBILEMAMBA_MIRROR', 'http://127.0.0.1:1')
    monkeypatch.setitem(sys.modules, 'gdown', None)
    with pytest.raises(CheckpointError, match=r'http://127.0.0.1:1/mobilemamba_t2.pth: .*refused'):
        fetch('t2')


@pytest.mark.parametrize('source', ['mirror', 'drive'])
def test_cut_off(request, folder, t2, source):
    """The second attempt downloads the file."""
    server = request.getfixturevalue(source)
    name = T2.file_name if source == 'mirror' else T2.drive_id
    server.files[name], server.cut = t2, len(t2) // 2
    with pytest.raises(CheckpointError, match=f'(after|received) \\d+ .*{len(t2)} bytes') as caught:
        fetch('t2')
    assert T2.address in str(caught.value)
    assert os.listdir(folder) == []
    server.cut = None
    fetch('t2')
    check_whole(folder, t2)


def test_cut_off_before_it_was_published(folder, mirror, t2):
    """A truncated file is served completely."""
    mirror.files[T2.file_name] = t2[: len(t2) // 2]
    with pytest.raises(CheckpointError, match=r'The mobilemamba_t2.pth that came is damaged'):
        fetch('t2')
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    ('page', 'message'),
    [(QUOTA, 'Too many users have viewed'), (LOGIN, 'Cannot retrieve the public link of the file')],
    ids=['quota', 'login'],
)
def test_page_instead_of_the_file(folder, drive, page, message):
    drive.files[T2.drive_id], drive.page = b'', page
    with pytest.raises(CheckpointError, match=message) as caught:
        fetch('t2')
    assert T2.address in str(caught.value)
    assert os.listdir(folder) == []


def test_mirror_with_pages_instead_of_404(folder, mirror):
    mirror.page = LOGIN
    with pytest.raises(CheckpointError, match=r'has no file of .*/mobilemamba_t2.pth is a web page\n'):
        fetch('t2')
    assert os.listdir(folder) == []


@pytest.mark.parametrize('source', ['mirror', 'drive'])
def test_page_sent_as_a_file(request, folder, source):
    server = request.getfixturevalue(source)
    server.files[T2.file_name] = server.files[T2.drive_id] = QUOTA.encode()
    with pytest.raises(CheckpointError, match=r'The mobilemamba_t2.pth that came is a web page'):
        fetch('t2')
    assert os.listdir(folder) == []


@pytest.mark.parametrize('source', ['mirror', 'drive'])
def test_other_arch(request, folder, t4, source):
    server = request.getfixturevalue(source)
    server.files[T2.file_name] = server.files[T2.drive_id] = t4
    with pytest.raises(
        CheckpointError, match=r'mobilemamba://t2 was not kept: .*it looks like a MobileMamba T4'
    ):
        fetch('t2')
    assert os.listdir(folder) == []


def test_other_task(folder, mirror):
    buffer = io.BytesIO()
    torch.save(authors_checkpoint('b1'), buffer)
    mirror.files['retinanet_b1.pth'] = buffer.getvalue()
    with pytest.raises(
        CheckpointError, match=r"a whole model for detection has keys that begin with 'bbox_head"
    ):
        fetch('retinanet-b1')
    assert os.listdir(folder) == []


@pytest.mark.parametrize('source', ['mirror', 'drive'])
def test_full_disk(request, folder, monkeypatch, t2, source):
    server = request.getfixturevalue(source)
    server.files[T2.file_name] = server.files[T2.drive_id] = t2

    class FullDisk(io.FileIO):
        def write(self, block):
            if self.tell() + len(block) > 10 << 20:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(block)

    monkeypatch.setattr(download, 'open', FullDisk, raising=False)
    with pytest.raises(
        CheckpointError, match=r'The disk became full while mobilemamba_t2.pth .* MMMOBILEMAMBA_W'
    ):
        fetch('t2')
    assert os.listdir(folder) == []


def test_disk_full_of_the_file(folder, mirror, monkeypatch, t2):
    """There is no space for its SHA-256."""
    mirror.files[T2.file_name] = t2

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(verify.os, 'replace', fail)
    with pytest.raises(CheckpointError, match='The disk became full'):
        fetch('t2')
    assert os.listdir(folder) == []


def test_old_gdown(folder, monkeypatch):
    gdown = pytest.importorskip('gdown')
    monkeypatch.setattr(gdown, '__version__', '5.2.2')
    with pytest.raises(
        CheckpointError, match=r"gdown 5.2.2 cannot time out: python -m pip install 'gdown>=6.3'"
    ):
        fetch('t2')
