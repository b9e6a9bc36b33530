"""A server on this machine that stands in for Google Drive and for mirrors, which tests cannot reach."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

# What Google Drive answers, shortened to what gdown reads there:
# https://github.com/wkentaro/gdown/blob/main/gdown/download.py
CONFIRMATION = (
    '<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>'
    '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
    '<input type="hidden" name="id" value="{id}"><input type="hidden" name="confirm" value="t">'
    '<input type="submit" value="Download anyway"></form></body></html>'
)
QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-caption">Sorry, you can't view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p>
</body></html>"""
LOGIN = '<!DOCTYPE html><html><body>Sign in to the hotel network</body></html>'


class Server:
    """What is served, and what has been asked for.

    Attributes:
        files (dict[str, bytes]): By the path of a mirror, or the id of Google Drive.
        confirms (bool): Whether Google Drive's warning about viruses comes before a file.
        page (str, optional): What comes instead of a file, at every address.
        cut (int, optional): After so many bytes of a file the connection ends.
        started (threading.Event): A file is being sent.
        go_on (threading.Event): The second half of a file waits for it; set unless a test clears it.
        sent (list[str]): The files that were asked for and are there, in turn.
    """

    def __init__(self):
        self.files, self.sent = {}, []
        self.confirms, self.page, self.cut = False, None, None
        self.started, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def handler(server):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                found = re.search(r'[?&]id=([-\w]+)', self.path)
                name = found[1] if found else self.path[1:]
                asked_drive = found is not None and 'confirm=t' not in self.path
                if server.page or (asked_drive and server.confirms):
                    self.send_page(server.page or CONFIRMATION.format(id=name))
                elif name in server.files:
                    self.send_file(name)
                else:
                    self.send_error(404)

            def send_page(self, text):
                self.send_response(200)
                self.send_header('Content-Type', 'text/html; charset=utf-8')
                self.send_header('Content-Length', str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def send_file(self, name):
                content = server.files[name]
                server.sent.append(name)
                self.send_response(200)
                self.send_header('Content-Type', 'application/octet-stream')
                self.send_header('Content-Disposition', 'attachment; filename="weights.pth"')
                self.send_header('Content-Length', str(len(content)))
                self.end_headers()
                end = len(content) if server.cut is None else server.cut
                self.wfile.write(content[: end // 2])
                self.wfile.flush()
                server.started.set()
                server.go_on.wait(60)
                self.wfile.write(content[end // 2 : end])

            def log_message(self, *_):
                pass

        return Handler


@contextmanager
def serving():
    """A :class:`Server` and the address at which it is."""
    server = Server()
    http = ThreadingHTTPServer(('127.0.0.1', 0), server.handler())
    http.daemon_threads = True
    http.handle_error = lambda *_: None  # of a client that is killed
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server, f'http://127.0.0.1:{http.server_port}'
    finally:
        server.go_on.set()
        http.shutdown()
        http.server_close()
        thread.join()


def stand_in(address, patch=setattr):
    """Send what is asked of Google's machines to ``address``; ``patch`` sets an attribute."""
    send = requests.adapters.HTTPAdapter.send

    def send_here(self, request, *args, **kwargs):
        request.url = re.sub(r'^https://[\w.]*google\.com', address, request.url)
        return send(self, request, *args, **kwargs)

    patch(requests.adapters.HTTPAdapter, 'send', send_here)
