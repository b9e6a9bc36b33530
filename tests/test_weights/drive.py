"""A local server that simulates Google Drive and mirrors, which tests cannot access."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

# Responses of Google Drive, reduced to the parts read by gdown:
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
    """The files of the server, and its requests.

    Attributes:
        files (dict[str, bytes]): Content by path on a mirror or Google Drive id.
        confirms (bool): Whether Google Drive shows its virus warning before a file.
        page (str, optional): A page returned for every URL instead of a file.
        cut (int, optional): Number of bytes of a file after which the connection is closed.
        started (threading.Event): Set when a file is being sent.
        go_on (threading.Event): The second half of a file is sent once this is set, as it is by default.
        sent (list[str]): Requested files that exist, in order.
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
    """Run a :class:`Server`; yields it and its address."""
    server = Server()
    http = ThreadingHTTPServer(('127.0.0.1', 0), server.handler())
    http.daemon_threads = True
    http.handle_error = lambda *_: None  # errors of killed clients
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
    """Redirect requests to Google to ``address``; ``patch`` sets an attribute."""
    send = requests.adapters.HTTPAdapter.send

    def send_here(self, request, *args, **kwargs):
        request.url = re.sub(r'^https://[\w.]*google\.com', address, request.url)
        return send(self, request, *args, **kwargs)

    patch(requests.adapters.HTTPAdapter, 'send', send_here)
