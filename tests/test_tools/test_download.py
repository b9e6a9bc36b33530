"""Downloads of weights and configs by name with our command and mim's; Google is simulated."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import torch
from mmengine.config import Config

from mmmobilemamba.models.checkpoint import read_checkpoint
from mmmobilemamba.weights import weights_of

from ..commands import run
from ..conftest import ROOT, authors_checkpoint, load_script

tool = load_script('tools/misc/download.py')
CONFIG = 'mobilemamba-t2_8xb128_in1k'


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror folder with T2's file; no weights in the folders of this machine."""
    monkeypatch.setenv('MMMOBILEMAMBA_WEIGHTS', str(tmp_path / 'weights'))
    monkeypatch.setenv('MMMOBILEMAMBA_MIRROR', str(tmp_path / 'mirror'))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mirror').mkdir()
    torch.save(authors_checkpoint('t2'), tmp_path / 'mirror/mobilemamba_t2.pth')
    return tmp_path / 'mirror'


@pytest.mark.parametrize('name', ['t2', 'mobilemamba://t2', CONFIG, f'{CONFIG}.py'])
def test_by_any_name(name, mirror, tmp_path, capsys):
    tool.main([name, '--dest', str(tmp_path / 'here')])
    weights, config = tmp_path / 'here/mobilemamba_t2.pth', tmp_path / f'here/{CONFIG}.py'
    assert capsys.readouterr().out.split()[-2:] == [str(weights), str(config)]  # logs come before
    assert sorted((tmp_path / 'here').iterdir()) == [config, weights]
    assert weights.read_bytes() == (mirror / 'mobilemamba_t2.pth').read_bytes()
    wanted = Config.fromfile(ROOT / f'configs/mobilemamba/{CONFIG}.py')
    assert Config.fromfile(config).to_dict() == wanted.to_dict()


def test_again_and_another_file(mirror, tmp_path, capsys):
    """An equal file is kept, and a different one is not overwritten."""
    tool.main(['t2'])
    tool.main(['t2'])
    (tmp_path / 'mobilemamba_t2.pth').write_bytes(b'mine')
    with pytest.raises(SystemExit, match=r"mobilemamba_t2\.pth is another file than the weights 't2'"):
        tool.main(['t2'])
    assert (tmp_path / 'mobilemamba_t2.pth').read_bytes() == b'mine'
    config = tmp_path / f'{CONFIG}.py'
    config.write_text(config.read_text() + 'work_dir = "mine"\n')
    with pytest.raises(SystemExit, match=rf'{CONFIG}\.py is another file than the config; move it away'):
        tool.main(['t2'])
    assert 'mine' in config.read_text()


@pytest.mark.parametrize('name', ['b9', 'mobilemamba-t2_1xb64-4e_digits-64px'])
def test_no_such_weights(name, mirror):
    """The small twins have no published weights."""
    with pytest.raises(SystemExit, match=f'error: There are no published weights named {name!r}'):
        tool.main([name])


def test_mim_run(mirror, tmp_path):
    run('mim', 'run', 'mmmobilemamba', 'download', CONFIG, '--dest', 'here', cwd=tmp_path)
    assert (tmp_path / 'here/mobilemamba_t2.pth').is_file() and (tmp_path / f'here/{CONFIG}.py').is_file()


@pytest.fixture
def google(monkeypatch):
    """Simulated responses of Google's server by file id, and its requests."""
    answers, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = answers[parse_qs(urlsplit(self.path).query)['id'][0]]
            self.send_response(200)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    send = requests.adapters.HTTPAdapter.send

    def send_here(self, request, **kwargs):
        assert request.url.startswith('https://drive.usercontent.google.com/')
        _, _, path = request.url.removeprefix('https://').partition('/')
        request.url = f'http://127.0.0.1:{server.server_port}/{path}'
        return send(self, request, **kwargs)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, 'send', send_here)
    yield answers, asked
    server.shutdown()
    server.server_close()


def test_mim_download(google, tmp_path):
    """The file has its own name, and a matching config is saved."""
    mim = pytest.importorskip('mim')
    answers, asked = google
    torch.save(authors_checkpoint('t2'), tmp_path / 'source.pth')
    answers[weights_of('t2').drive_id] = (tmp_path / 'source.pth').read_bytes()
    mim.download('mmmobilemamba', [CONFIG], str(tmp_path / 'here'))
    weights, config = tmp_path / 'here/mobilemamba_t2.pth', tmp_path / f'here/{CONFIG}.py'
    assert sorted((tmp_path / 'here').iterdir()) == [config, weights]
    assert weights.read_bytes() == (tmp_path / 'source.pth').read_bytes()
    assert read_checkpoint(weights).keys() == authors_checkpoint('t2').keys()
    assert Config.fromfile(config).model.backbone.arch == 't2'
    assert asked == [f'/download?id={weights_of("t2").drive_id}&export=download&confirm=t']
