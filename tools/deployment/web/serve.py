"""Serve the browser demo locally: it runs exported networks on pictures or the camera, inside the browser.

    python tools/deployment/web/serve.py [MODEL.onnx ...] [PICTURE ...]

Prints an address to open, and one for each given model. The page offers the given models and pictures as
samples; without any, those that ``make demo`` has left in work_dirs/demo/samples. The first start downloads
onnxruntime-web (41 MB) with npm; apart from that, nothing is loaded from or sent to other machines. Only
programs on this machine can reach the server.
"""

import argparse
import base64
import functools
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

WEB = Path(__file__).resolve().parent
SAMPLES = Path('work_dirs/demo/samples')  # below the current folder, as `make demo` writes it
PACKAGE, VERSION = 'onnxruntime-web', '1.30.0'
SHA512 = 'q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=='
ARCHIVE = f'{PACKAGE}-{VERSION}.tgz'
ADDRESS = f'https://registry.npmjs.org/{PACKAGE}/-/{ARCHIVE}'
# For WebAssembly and for WebGPU.
FILES = (
    'ort.wasm.min.mjs',
    'ort-wasm-simd-threaded.mjs',
    'ort-wasm-simd-threaded.wasm',
    'ort.webgpu.min.mjs',
    'ort-wasm-simd-threaded.asyncify.mjs',
    'ort-wasm-simd-threaded.asyncify.wasm',
)
TYPES = {'.js': 'text/javascript', '.mjs': 'text/javascript', '.wasm': 'application/wasm'}
# For the page and its workers: nothing is loaded from or sent to other servers.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# WebAssembly threads share memory, which browsers only allow for cross-origin isolated pages.
HEADERS = {
    'Content-Security-Policy': POLICY,
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Embedder-Policy': 'require-corp',
    'Cache-Control': 'no-cache',
}


class ServeError(RuntimeError):
    """The page cannot be served; the message says why and what to do."""


def is_fetched(folder):
    """Whether ``folder`` has the runtime in the tested version."""
    version = folder / 'version'
    return version.is_file() and version.read_text() == VERSION and all((folder / f).is_file() for f in FILES)


def download(folder):
    """Download the archive to ``folder`` with npm; returns its path.

    Raises:
        ServeError: If npm is missing or fails.
    """
    npm = shutil.which('npm')
    by_hand = f'Download {ADDRESS}, put it into {WEB / "ort"}, and start again.'
    if npm is None:
        raise ServeError(f'{PACKAGE} {VERSION} is missing, and there is no npm to fetch it. {by_hand}')
    command = [npm, 'pack', f'{PACKAGE}@{VERSION}', '--pack-destination', str(folder)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode or not (folder / ARCHIVE).is_file():
        raise ServeError(f'npm could not fetch {PACKAGE} {VERSION}:\n{result.stderr.strip()}\n{by_hand}')
    return folder / ARCHIVE


def unpack(archive, folder):
    """Extract the files of the runtime that the page loads to ``folder``.

    Raises:
        ServeError: If ``archive`` is not the published one.
    """
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != SHA512:
        raise ServeError(f'{archive} is not {ADDRESS}: its SHA-512 is {digest}. Remove it, and start again.')
    with tarfile.open(archive) as content:
        for name in FILES:
            (folder / name).write_bytes(content.extractfile(f'package/dist/{name}').read())
    (folder / 'version').write_text(VERSION)  # last: a folder without it is incomplete


def fetch(folder):
    """Install the runtime in ``folder``, from an archive there or with npm, unless it is installed."""
    if is_fetched(folder):
        return
    folder.mkdir(exist_ok=True)
    if (folder / ARCHIVE).is_file():
        unpack(folder / ARCHIVE, folder)
        return
    print(f'fetching {PACKAGE} {VERSION} with npm, once')
    with tempfile.TemporaryDirectory() as temporary:
        unpack(download(Path(temporary)), folder)


class Handler(SimpleHTTPRequestHandler):
    """Serves the page and sample files, whose names are in ``samples.json``.

    Args:
        *args: Those of ``SimpleHTTPRequestHandler``.
        samples (dict[str, dict[str, Path]]): Files by folder, ``models`` or ``pictures``, and name.
        **kwargs: Those of ``SimpleHTTPRequestHandler``.
    """

    def __init__(self, *args, samples, **kwargs):
        self.samples = samples
        super().__init__(*args, directory=str(WEB), **kwargs)

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, **TYPES}

    def translate_path(self, path):
        parts = unquote(urlsplit(path).path).split('/')
        if len(parts) == 3 and parts[2] in self.samples.get(parts[1], {}):
            return str(self.samples[parts[1]][parts[2]])
        return super().translate_path(path)

    def do_GET(self):
        """Answer a request; the names of the samples are not in a file."""
        if urlsplit(self.path).path != '/samples.json':
            super().do_GET()
            return
        content = json.dumps({folder: list(files) for folder, files in self.samples.items()}).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self):
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_request(self, code='-', size='-'):
        """Do not log successful requests."""


def is_model(path):
    """Whether a file (Path) is a network; others are pictures."""
    return path.suffix.lower() == '.onnx'


def make_server(files=(), port=0):
    """A local server of the page with some models and pictures; port 0 selects a free port."""
    samples = {
        'models': {path.name: path for path in files if is_model(path)},
        'pictures': {path.name: path for path in files if not is_model(path)},
    }
    return ThreadingHTTPServer(('127.0.0.1', port), functools.partial(Handler, samples=samples))


def parse_args(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    text = f'files of export.py, each with an address, and pictures (default: those in {SAMPLES})'
    parser.add_argument('files', type=Path, nargs='*', help=text)
    parser.add_argument('--port', type=int, default=8000, help='port of the server (default: 8000)')
    parser.add_argument('--fetch', action='store_true', help=f'only download {PACKAGE}, then exit')
    args = parser.parse_args(argv)
    if not 0 <= args.port < 2**16:
        parser.error('--port must be 0 to 65535; 0 takes one that is free')
    for path in args.files:
        if not path.is_file():
            parser.error(f'there is no file {path}')
    if len({path.name for path in args.files}) < len(args.files):
        parser.error('two files have the same name; rename one')
    args.files = args.files or sorted(path for path in SAMPLES.glob('*') if path.is_file())
    return args


def main(argv=None):
    args = parse_args(argv)
    try:
        fetch(WEB / 'ort')
        if args.fetch:
            print(f'{PACKAGE} {VERSION} is in {WEB / "ort"}')
            return
        server = make_server([path.resolve() for path in args.files], args.port)
    except (ServeError, OSError) as error:
        sys.exit(f'serve.py: error: {error}')
    address = f'http://localhost:{server.server_port}/'
    print(f'open {address} (Ctrl-C ends it)', flush=True)
    for path in filter(is_model, args.files):
        print(f'  {path.name}: {address}?model=models/{quote(path.name)}', flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()


if __name__ == '__main__':
    main()
