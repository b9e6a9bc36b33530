"""The server of the browser demo: its files, the download of the runtime, and its messages."""

import base64
import hashlib
import io
import json
import tarfile
import urllib.error
import urllib.request

import pytest

from .browser import serve, serving


def test_serves_with_types_and_headers(tmp_path):
    """The page and the given files are served, on this machine only, and no other files."""
    path = tmp_path / 'a b.onnx'
    path.write_bytes(b'content')
    (tmp_path / 'secret.onnx').touch()
    server = serve.make_server([path])
    assert server.server_address[0] == '127.0.0.1'
    server.server_close()
    (tmp_path / 'c.png').write_bytes(b'picture')
    with serving(files=[path, tmp_path / 'c.png']) as address:
        for name, kind in (('', 'text/html'), ('app.js', 'text/javascript'), ('style.css', 'text/css')):
            with urllib.request.urlopen(address + name) as answer:
                assert answer.headers.get_content_type() == kind
                assert answer.headers['Cross-Origin-Opener-Policy'] == 'same-origin'
                assert answer.headers['Cross-Origin-Embedder-Policy'] == 'require-corp'
                assert "connect-src 'self'" in answer.headers['Content-Security-Policy']
        with urllib.request.urlopen(address + 'models/a%20b.onnx') as answer:
            assert answer.read() == b'content'
        with urllib.request.urlopen(address + 'pictures/c.png') as answer:
            assert answer.read() == b'picture'
        with urllib.request.urlopen(address + 'samples.json') as answer:
            assert answer.headers.get_content_type() == 'application/json'
            assert "connect-src 'self'" in answer.headers['Content-Security-Policy']
            assert json.load(answer) == dict(models=['a b.onnx'], pictures=['c.png'])
        for name in ('models/secret.onnx', f'models/..{tmp_path}/secret.onnx', '../infer.py', 'models/'):
            with pytest.raises(urllib.error.HTTPError, match='404'):
                urllib.request.urlopen(address + name)


def archive_of(folder, content=b'x'):
    """An archive like npm's, and its digest in the format of the script."""
    with tarfile.open(folder / serve.ARCHIVE, 'w:gz') as archive:
        for name in (*serve.FILES, 'ort.all.min.mjs'):
            entry = tarfile.TarInfo(f'package/dist/{name}')
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    digest = hashlib.sha512((folder / serve.ARCHIVE).read_bytes()).digest()
    return base64.b64encode(digest).decode()


def test_fetches_the_runtime(tmp_path, monkeypatch):
    """The runtime is read once from a local archive, if it is the published one."""
    monkeypatch.setattr(serve.shutil, 'which', lambda name: None)
    folder = tmp_path / 'ort'
    with pytest.raises(
        serve.ServeError, match=r'there is no npm to fetch it. Download https://registry.npmjs'
    ):
        serve.fetch(folder)
    digest = archive_of(folder)
    with pytest.raises(serve.ServeError, match=r'its SHA-512 is .*Remove it, and start again'):
        serve.fetch(folder)
    assert not serve.is_fetched(folder)
    monkeypatch.setattr(serve, 'SHA512', digest)
    serve.fetch(folder)
    assert serve.is_fetched(folder)
    assert {path.name for path in folder.iterdir()} == {*serve.FILES, 'version', serve.ARCHIVE}
    (folder / serve.ARCHIVE).unlink()
    serve.fetch(folder)
    (folder / 'version').write_text('1.0.0')
    with pytest.raises(serve.ServeError, match='there is no npm'):
        serve.fetch(folder)


def test_npm_fails(tmp_path, monkeypatch):
    npm = tmp_path / 'npm'
    npm.write_text('#!/bin/sh\necho no network >&2\nexit 1\n')
    npm.chmod(0o755)
    monkeypatch.setattr(serve.shutil, 'which', lambda name: str(npm))
    with pytest.raises(
        serve.ServeError, match=r'npm could not fetch onnxruntime-web .*\n*no network\nDownload'
    ):
        serve.fetch(tmp_path / 'ort')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['none.onnx'], 'there is no file none.onnx'),
        (['a.onnx', 'b/a.onnx'], 'two files have the same name; rename one'),
        (['--port', 'x'], 'invalid int value'),
        (['--port', '65536'], '--port must be 0 to 65535'),
    ],
)
def test_arguments(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'b').mkdir()
    for name in ('a.onnx', 'b/a.onnx'):
        (tmp_path / name).touch()
    with pytest.raises(SystemExit):
        serve.main(arguments)
    assert message in capsys.readouterr().err


def test_says_what_to_open(tmp_path, monkeypatch, capsys):
    """Also if the port is in use."""
    monkeypatch.setattr(serve, 'fetch', lambda folder: None)
    (tmp_path / 'a b.onnx').touch()
    with serving() as address, pytest.raises(SystemExit, match=r'serve.py: error: .*in use'):
        serve.main(['--port', address.strip('/').split(':')[-1]])

    def interrupt(server):
        raise KeyboardInterrupt

    monkeypatch.setattr(serve.ThreadingHTTPServer, 'serve_forever', interrupt)
    serve.main([str(tmp_path / 'a b.onnx'), '--port', '0'])
    first, second = capsys.readouterr().out.splitlines()[:2]
    address = first.split()[1]
    assert address.startswith('http://localhost:')
    assert second == f'  a b.onnx: {address}?model=models/a%20b.onnx'


def test_samples_of_the_demo(tmp_path, monkeypatch):
    """Without files, those that `make demo` has left are offered, if it has."""
    monkeypatch.chdir(tmp_path)
    assert serve.parse_args([]).files == []
    folder = tmp_path / serve.SAMPLES
    (folder / 'more').mkdir(parents=True)
    for name in ('digits.onnx', '000001.png'):
        (folder / name).touch()
    assert [path.name for path in serve.parse_args([]).files] == ['000001.png', 'digits.onnx']
    assert serve.parse_args([str(folder / 'digits.onnx')]).files == [folder / 'digits.onnx']
