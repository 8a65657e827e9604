"""A web server on this machine with the faults of real ones, for tests of downloads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What the server holds and how it behaves; `requests` notes the range of every request."""

    files: dict[str, bytes] = field(default_factory=dict)
    content_type: str = 'application/octet-stream'
    etag: str = '"1"'
    has_ranges: bool = True
    says_length: bool = True
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    wrong_start: bool = False
    requests: list[str] = field(default_factory=list)
    port: int = 0

    def url(self, name: str) -> str:
        return f'http://127.0.0.1:{self.port}/{name}'


@contextmanager
def serving(server: FileServer) -> Iterator[FileServer]:
    """Answer requests in a thread while the block runs.

    `statuses` are given to the first requests instead of the file; each of `cuts` ends an answer
    after so many bytes.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append(self.headers.get('Range', ''))
            data = server.files.get(self.path.lstrip('/'))
            if server.statuses:
                self.send_error(server.statuses.pop(0))
                return
            if data is None:
                self.send_error(404)
                return
            start = 0
            fits = self.headers.get('If-Range', server.etag) == server.etag
            if server.has_ranges and fits and 'Range' in self.headers:
                start = int(self.headers['Range'].removeprefix('bytes=').rstrip('-'))
                if start >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206)
                stated = start + 7 if server.wrong_start else start
                self.send_header('Content-Range', f'bytes {stated}-{len(data) - 1}/{len(data)}')
            else:
                self.send_response(200)
            self.send_header('Content-Type', server.content_type)
            if server.etag:
                self.send_header('ETag', server.etag)
            if server.says_length:
                self.send_header('Content-Length', str(len(data) - start))
            self.end_headers()
            end = start + server.cuts.pop(0) if server.cuts else len(data)
            self.wfile.write(data[start:end])

        def log_message(self, *_: object) -> None:
            pass

    listener = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.port = listener.server_address[1]
    thread = threading.Thread(target=listener.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
