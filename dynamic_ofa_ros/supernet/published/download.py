"""Download a file: resumed where it broke off, whole or not at all, every failure a sentence."""

from __future__ import annotations

import errno
import fcntl
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dynamic_ofa_ros.errors import DownloadError
from dynamic_ofa_ros.files import write_text_atomically

BLOCK_BYTES = 1 << 16
TIMEOUT_S = 30.0
# How often a connection that breaks off without a single new byte is tried again.
ATTEMPTS = 5
PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0

OnProgress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes in all, 0 where the server does not say."""


def download(
    url: str,
    path: Path,
    on_progress: OnProgress | None = None,
    *,
    attempts: int = ATTEMPTS,
    pause_s: float = PAUSE_S,
) -> None:
    """Fetch `url` into `path`, which appears only when it is whole; raise DownloadError.

    What has arrived is kept beside it as `<name>.partial`, and another call goes on from there if
    the server can and still has the same file. One process at a time: hold `alone(path)`.
    """
    if not url.startswith(('http://', 'https://')):
        raise DownloadError(f'{url!r} is no http:// or https:// address')
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _Partial(path)
    failures, was_reached = 0, False
    while True:
        before = partial.size
        try:
            _receive(url, partial, on_progress)
        except _BrokenOffError as error:
            if isinstance(error, _UnreachableError) and not was_reached:
                raise DownloadError(
                    f'{url} cannot be reached ({error}); check the network, name a mirror with '
                    '--url, or download it elsewhere and give it with --from-file'
                ) from None
            was_reached = True
            failures = 0 if partial.size > before else failures + 1
            if failures >= attempts:
                raise DownloadError(
                    f'{url} broke off after {_megabytes(partial.size)} ({error}); what is there '
                    'is kept: run the same command again and it goes on'
                ) from None
            time.sleep(min(pause_s * 2**failures, LONGEST_PAUSE_S))
        else:
            partial.finish(path)
            return


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of a download; raise DownloadError where another process has it.

    The system frees it when the process dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f'{path.name}.lock').open('a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(
                f'another process is fetching {path.name} just now; run the command again when '
                'it is done'
            ) from None
        yield


class _BrokenOffError(Exception):
    """The connection ended before the file did: worth another attempt."""


class _UnreachableError(_BrokenOffError):
    """There was no connection: not worth waiting for, unless there was one before."""


@dataclass(frozen=True)
class _Range:
    """Where the bytes of an answer belong: they start at `start` of `total` (0: unknown)."""

    start: int
    total: int


class _Partial:
    """What has arrived of a file, and the server's name for that very version of it."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f'{path.name}.partial')
        self._document = path.with_name(f'{path.name}.partial.json')

    @property
    def size(self) -> int:
        """Return the bytes that are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def validator(self, url: str) -> str:
        """Return the version the bytes are of, empty where that is not known."""
        try:
            document = json.loads(self._document.read_text(encoding='utf-8'))
            return str(document['validator']) if document['url'] == url else ''
        except (OSError, ValueError, LookupError, TypeError):
            return ''

    def start(self, url: str, validator: str) -> None:
        """Forget what is there, and note of which version the bytes to come are."""
        self.path.unlink(missing_ok=True)
        write_text_atomically(
            self._document, json.dumps({'url': url, 'validator': validator}) + '\n'
        )

    def finish(self, path: Path) -> None:
        """Give the whole file its name."""
        with self.path.open('rb+') as file:
            os.fsync(file.fileno())
        self.path.replace(path)
        self._document.unlink(missing_ok=True)


def _receive(url: str, partial: _Partial, on_progress: OnProgress | None) -> None:
    """Ask for what is missing and append it; raise _BrokenOffError when it ends early."""
    validator = partial.validator(url)
    offset = partial.size if validator else 0
    request = urllib.request.Request(url, headers={'User-Agent': 'dynamic-ofa'})
    if offset:
        request.add_header('Range', f'bytes={offset}-')
        request.add_header('If-Range', validator)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                partial.start(url, '')  # longer than the file: not of this file
                raise _BrokenOffError('the server has fewer bytes than are here') from None
            if error.code >= 500:
                raise _BrokenOffError(f'HTTP status {error.code}') from None
            raise DownloadError(_refusal(url, error)) from None
    except urllib.error.URLError as error:
        raise _UnreachableError(str(error.reason)) from None
    except (http.client.HTTPException, OSError) as error:
        raise _BrokenOffError(str(error) or type(error).__name__) from None
    with response:
        place = _place(response, offset)
        if place.start == 0:
            partial.start(url, _validator(response))
        _check_space(partial, place)
        _append(response, url, partial, place, on_progress)


def _append(
    response: http.client.HTTPResponse,
    url: str,
    partial: _Partial,
    place: _Range,
    on_progress: OnProgress | None,
) -> None:
    done = place.start
    if 'html' in (response.headers.get_content_type() or ''):
        raise DownloadError(_web_page(url))
    with partial.path.open('ab') as file:
        while True:
            try:
                block = response.read(BLOCK_BYTES)
            except (http.client.HTTPException, OSError) as error:
                raise _BrokenOffError(str(error) or type(error).__name__) from None
            if not block:
                break
            if done == 0 and block.lstrip()[:1] == b'<':
                raise DownloadError(_web_page(url))
            try:
                file.write(block)
                file.flush()
            except OSError as error:
                raise DownloadError(_disk_sentence(partial.path, error, place.total)) from None
            done += len(block)
            if on_progress is not None:
                on_progress(done, place.total)
    if done < place.total:
        raise _BrokenOffError(f'{done} of {place.total} bytes')
    if done == 0:
        raise DownloadError(f'{url} is empty')


def _place(response: http.client.HTTPResponse, offset: int) -> _Range:
    """Return where the answer's bytes belong: from 0 where the server ignored the range."""
    length = int(response.headers.get('Content-Length') or 0)
    if response.status != http.client.PARTIAL_CONTENT:
        return _Range(0, length)
    start, _, total = (
        response.headers.get('Content-Range', '').removeprefix('bytes ').partition('/')
    )
    if start.partition('-')[0] != str(offset):
        raise DownloadError(
            f'{response.url} answered with the bytes {start or "of no stated range"} instead of '
            f'those from {offset}: the server is broken; name a mirror with --url'
        )
    return _Range(offset, int(total) if total.isdigit() else offset + length)


def _validator(response: http.client.HTTPResponse) -> str:
    """Return what names this version of the file: a strong ETag, else the date it has."""
    tag = response.headers.get('ETag', '')
    return tag if tag.startswith('"') else response.headers.get('Last-Modified', '')


def _check_space(partial: _Partial, place: _Range) -> None:
    free = shutil.disk_usage(partial.path.parent).free
    if place.total - place.start > free:
        raise DownloadError(
            f'{partial.path.parent} has {_megabytes(free)} left, and '
            f'{_megabytes(place.total - place.start)} are needed: free some, or choose another '
            'folder with DYNAMIC_OFA_CACHE'
        )


def _disk_sentence(path: Path, error: OSError, total: int) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        size = (
            f'{_megabytes(total)} are needed' if total else 'the file is larger than what is left'
        )
        return (
            f'{path}: {os.strerror(error.errno)}; {size}. Free some space, or choose another '
            'folder with DYNAMIC_OFA_CACHE, and run the same command again'
        )
    return f'{path} cannot be written: {error.strerror or error}'


def _refusal(url: str, error: urllib.error.HTTPError) -> str:
    found = f'{url} was refused with HTTP status {error.code} ({error.reason})'
    if error.code in (http.client.NOT_FOUND, http.client.GONE):
        found = f'there is nothing at {url} (HTTP status {error.code})'
    return f'{found}; name a mirror with --url, or give a file you have with --from-file'


def _web_page(url: str) -> str:
    return (
        f'{url} answered with a web page instead of the file; open the address in a browser, '
        'download the file there and give it with --from-file'
    )


def _megabytes(size: int) -> str:
    return f'{size / 1e6:.1f} MB'
