"""The web server: serves the page and sends updates to open pages five times a second."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.web import Application, HTTPError, RequestHandler, StaticFileHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from dynamic_ofa_ros.monitor.access import Access, MonitorError
from dynamic_ofa_ros.monitor.parameter_client import Answer
from dynamic_ofa_ros.monitor.records import FRAME_FIELDS, Cursor, Records
from dynamic_ofa_ros.nodes.runner import Throttle

PAGE = Path(__file__).with_name('page')
PERIOD_MS = 200
MAX_PAGES = 8
MAX_MESSAGE_BYTES = 16_384
PING_S = 10.0
"""A page that does not answer pings, for example on a phone out of range, is closed."""

REFUSAL_PERIOD_S = 60.0
REFUSAL_KIND = 10
"""Characters by which the reasons for rejected requests differ, without names in them."""

JOIN_TIMEOUT_S = 5.0
HEADERS = {
    'Cache-Control': 'no-store',
    'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
    'X-Frame-Options': 'DENY',
}
_log = logging.getLogger(__name__)

SetParameter = Callable[[str, str, Any, Answer], None]
"""Called with classifier, parameter, value and a callback for the answer, on any thread."""


class PageServer:
    """The web server, on its own thread.

    set_watching: called on this thread with True when the first page opens, and with False when
    the last page closes.
    """

    def __init__(
        self,
        access: Access,
        port: int,
        records: Records,
        set_watching: Callable[[bool], None],
        set_parameter: SetParameter,
    ) -> None:
        self.access = access
        self.records = records
        self.set_parameter = set_parameter
        self._set_watching = set_watching
        self._port = port
        self.refusals = Throttle(REFUSAL_PERIOD_S)
        self._pages: set[PageSocket] = set()
        self._loop: IOLoop | None = None
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name='page server', daemon=True)

    @property
    def url(self) -> str:
        """URL of the page, including the token; valid after `start`."""
        address = self.access.address
        host = f'[{address}]' if ':' in address else address
        query = f'?token={self.access.token}' if self.access.token else ''
        return f'http://{host}:{self._port}/{query}'

    def start(self) -> None:
        """Start serving; raise MonitorError if the port is not available."""
        address = self.access.address
        family = socket.AF_INET6 if ':' in address else socket.AF_INET
        try:
            self._socket = socket.create_server((address, self._port), family=family)
        except OSError as error:
            raise MonitorError(
                f'port {self._port} of {address} is not available '
                f'({os.strerror(error.errno or 0)}); choose another with -p port:=...'
            ) from None
        self._socket.setblocking(False)
        self._port = self._socket.getsockname()[1]
        self._thread.start()
        self._is_ready.wait()

    def close(self) -> None:
        """Close all pages and end the thread."""
        if self._loop is not None:
            self._loop.add_callback(self._stop)
            self._thread.join(JOIN_TIMEOUT_S)

    def join(self, page: PageSocket) -> bool:
        """Register an open page; return False if too many are open."""
        if len(self._pages) >= MAX_PAGES:
            return False
        self._pages.add(page)
        self.set_shown()
        if len(self._pages) == 1:
            self._set_watching(True)
            self._ticks.start()
        return True

    def leave(self, page: PageSocket) -> None:
        """Unregister a page."""
        if page in self._pages:
            self._pages.remove(page)
            self.set_shown()
            if not self._pages:
                self._ticks.stop()
                self._set_watching(False)

    def set_shown(self) -> None:
        """Update which classifiers are in the windows of the pages."""
        known = [page.shown for page in self._pages if page.shown is not None]
        is_known = len(known) == len(self._pages)
        self.records.shown = frozenset[str]().union(*known) if is_known else None

    def call(self, callback: Callable[[], None]) -> None:
        """Run a callback on the server's thread; may be called on any thread."""
        if self._loop is not None:
            self._loop.add_callback(callback)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = IOLoop.current()
        self._stopped = asyncio.Event()
        self._ticks = PeriodicCallback(self._tick, PERIOD_MS)
        server = HTTPServer(self._application(), max_header_size=16_384, max_body_size=1024)
        server.add_socket(self._socket)
        self._is_ready.set()
        await self._stopped.wait()
        self._ticks.stop()
        server.stop()
        for page in list(self._pages):
            page.close(1001, 'monitor_node has stopped')
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(server.close_all_connections(), JOIN_TIMEOUT_S / 2.0)

    def _stop(self) -> None:
        self._stopped.set()

    def _tick(self) -> None:
        for page in list(self._pages):
            page.update()

    def _application(self) -> Application:
        return Application(
            [
                ('/', IndexHandler),
                ('/updates', PageSocket),
                ('/page/(.*)', FileHandler, {'path': str(PAGE)}),
            ],
            page_server=self,
            websocket_max_message_size=MAX_MESSAGE_BYTES,
            websocket_ping_interval=PING_S,
            log_function=lambda handler: None,
        )

    @property
    def cookie(self) -> str:
        """Name of the cookie with the token; it differs by port, as browsers ignore the port."""
        return f'dynamic_ofa_monitor_{self._port}'


class GuardedHandler(RequestHandler):
    """Rejects requests that the access rules of the server do not allow."""

    _refusal = ''

    @property
    def server(self) -> PageServer:
        """The server of this request."""
        found: PageServer = self.application.settings['page_server']
        return found

    def set_default_headers(self) -> None:
        """Forbid content from other servers, and forbid other pages to embed this page."""
        for name, value in HEADERS.items():
            self.set_header(name, value)
        self.clear_header('Server')

    def prepare(self) -> None:
        """Reject foreign host names and wrong tokens."""
        if not self.server.access.accepts_host(self.request.host):
            name = self.request.host[:40]
            self.refuse(
                f'the host name {name!r} is not that of this machine: '
                'use an SSH tunnel, or set address'
            )
        if not self.has_token():
            self.refuse('the token is missing or wrong; open the address that monitor_node logs')

    def has_token(self) -> bool:
        """Return whether the cookie contains the token."""
        cookie = self.get_cookie(self.server.cookie) or ''
        return self.server.access.accepts_token(cookie)

    def refuse(self, reason: str) -> NoReturn:
        """Answer with status 403 and the reason."""
        # A page that was left open tries again every five seconds.
        if self.server.refusals.passes(reason[:REFUSAL_KIND]):
            _log.warning('request from %s rejected: %s', self.request.remote_ip, reason)
        self._refusal = reason
        raise HTTPError(403)

    def log_exception(self, *of_error: Any) -> None:
        """Log all errors except rejected requests, which are logged already."""
        if not isinstance(of_error[1], HTTPError):
            super().log_exception(*of_error)

    def write_error(self, status_code: int, **details: Any) -> None:
        """Answer with one line of text."""
        text = self._refusal or f'status {status_code}'
        self.set_header('Content-Type', 'text/plain; charset=utf-8')
        self.finish(f'{text}\n')


class IndexHandler(GuardedHandler):
    """The page. A token in the URL is moved to a cookie."""

    def has_token(self) -> bool:
        """Return whether the URL or the cookie contains the token."""
        given = self.get_query_argument('token', '')
        return self.server.access.accepts_token(given) if given else super().has_token()

    def get(self) -> None:
        """Send the page."""
        given = self.get_query_argument('token', '')
        if given and self.server.access.token:
            self.set_cookie(self.server.cookie, given, httponly=True, samesite='Strict')
            self.redirect('/')
        else:
            self.set_header('Content-Type', 'text/html; charset=utf-8')
            self.finish((PAGE / 'index.html').read_bytes())


class FileHandler(GuardedHandler, StaticFileHandler):
    """Script and style of the page."""


class PageSocket(GuardedHandler, WebSocketHandler):
    """The connection of one open page.

    shown: names of the classifiers in its window; None until the page has sent them.
    """

    shown: frozenset[str] | None = None

    def prepare(self) -> None:
        """Also reject pages of other origins, because they could set parameters."""
        super().prepare()
        origin = self.request.headers.get('Origin', '')
        if not self.server.access.accepts_origin(origin, self.request.host):
            self.refuse(f'a page of {origin[:80] or "an unknown origin"} may not connect')

    def check_origin(self, origin: str) -> bool:
        """Return whether a page of an origin may connect."""
        return self.server.access.accepts_origin(origin, self.request.host)

    def open(self, *args: str, **kwargs: str) -> None:
        """Register the page."""
        self._cursor: Cursor = {}
        self._last_picture = 0
        self._sending: asyncio.Future[None] | None = None
        if not self.server.join(self):
            self.close(1013, f'{MAX_PAGES} pages are open already')
            return
        self._send({'fields': FRAME_FIELDS})

    def on_close(self) -> None:
        """Unregister the page."""
        self.server.leave(self)

    def update(self) -> None:
        """Send the news, unless the previous update is still being sent."""
        if self._sending is not None and not self._sending.done():
            return
        records = self.server.records
        entries = records.update(self._cursor, self.shown)
        self._send({'classifiers': entries, 'left_out': records.left_out})
        for picture, answers in records.pictures(self._last_picture, self.shown):
            self._last_picture = picture.number
            text = json.dumps(answers, allow_nan=False).encode()
            self._write(len(text).to_bytes(2, 'big') + text + picture.jpeg, is_binary=True)

    def on_message(self, message: str | bytes) -> None:
        """Set a parameter: {"id", "classifier", "parameter", "value"}, or `shown`: {"shown"}."""
        try:
            request = json.loads(message)
            if 'shown' in request:
                self.shown = frozenset(map(str, request['shown']))
                self.server.set_shown()
                return
            number, value = int(request['id']), request['value']
            names = str(request['classifier']), str(request['parameter'])
        except (KeyError, OverflowError, TypeError, ValueError, RecursionError):
            self.close(1003, 'invalid message')
            return

        def answer(is_taken: bool, reason: str) -> None:
            content = {'answer': {'id': number, 'taken': is_taken, 'reason': reason}}
            self.server.call(lambda: self._send(content))

        self.server.set_parameter(*names, value, answer)

    def _send(self, content: dict[str, Any]) -> None:
        self._write(json.dumps(content, allow_nan=False, separators=(',', ':')))

    def _write(self, data: str | bytes, is_binary: bool = False) -> None:
        try:
            self._sending = self.write_message(data, binary=is_binary)
        except WebSocketClosedError:
            self.server.leave(self)
            return
        self._sending.add_done_callback(_forget_error)


def _forget_error(sending: asyncio.Future[None]) -> None:
    """Ignore the error of a page that closes while data is sent to it."""
    if not sending.cancelled():
        sending.exception()
