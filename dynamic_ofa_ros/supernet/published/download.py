"""Download files: resumable, and complete or not at all."""

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
# Number of consecutive attempts without a new byte after which a download fails.
ATTEMPTS = 5
PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0

OnProgress = Callable[[int, int], None]
"""Called with the received bytes and the total bytes; the total is 0 if it is unknown."""


def download(
    url: str,
    path: Path,
    on_progress: OnProgress | None = None,
    *,
    attempts: int = ATTEMPTS,
    pause_s: float = PAUSE_S,
) -> None:
    """Download `url` to `path`, which is created only when complete; raise DownloadError.

    Received bytes are stored beside it as `<name>.partial`. The next call resumes the download if
    the server supports this and its file has not changed. The caller must hold `alone(path)`, so
    that only one process writes.
    """
    if not url.startswith(('http://', 'https://')):
        raise DownloadError(f'{url!r} is not an http:// or https:// address')
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _Partial(path)
    failures, was_reached = 0, False
    while True:
        before = partial.size
        try:
            _receive(url, partial, on_progress)
        except _InterruptedError as error:
            if isinstance(error, _UnreachableError) and not was_reached:
                raise DownloadError(
                    f'{url} cannot be reached ({error}); check the network, give a mirror with '
                    '--url, or give a file downloaded elsewhere with --from-file'
                ) from None
            was_reached = True
            failures = 0 if partial.size > before else failures + 1
            if failures >= attempts:
                raise DownloadError(
                    f'the download of {url} was interrupted after {_megabytes(partial.size)} '
                    f'({error}); run the same command again to resume it'
                ) from None
            time.sleep(min(pause_s * 2**failures, LONGEST_PAUSE_S))
        else:
            partial.finish(path)
            return


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of a download; raise DownloadError if another process holds it.

    The operating system releases the lock when the process ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f'{path.name}.lock').open('a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(
                f'another process is downloading {path.name}; run the command again when it has '
                'finished'
            ) from None
        yield


class _InterruptedError(Exception):
    """The connection ended before the file was complete; another attempt may succeed."""


class _UnreachableError(_InterruptedError):
    """No connection could be made; another attempt is made only if there was one before."""


@dataclass(frozen=True)
class _Range:
    """The offset of the bytes of a response in the file, and the file's size (0: unknown)."""

    start: int
    total: int


class _Partial:
    """The received part of a file, and the validator that identifies the file's version."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f'{path.name}.partial')
        self._document = path.with_name(f'{path.name}.partial.json')

    @property
    def size(self) -> int:
        """Return the number of received bytes."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def validator(self, url: str) -> str:
        """Return the validator of the received bytes; empty if it is unknown."""
        try:
            document = json.loads(self._document.read_text(encoding='utf-8'))
            return str(document['validator']) if document['url'] == url else ''
        except (OSError, ValueError, LookupError, TypeError):
            return ''

    def start(self, url: str, validator: str) -> None:
        """Discard the received bytes, and store the validator of the next ones."""
        self.path.unlink(missing_ok=True)
        write_text_atomically(
            self._document, json.dumps({'url': url, 'validator': validator}) + '\n'
        )

    def finish(self, path: Path) -> None:
        """Rename the complete file to `path`."""
        with self.path.open('rb+') as file:
            os.fsync(file.fileno())
        self.path.replace(path)
        self._document.unlink(missing_ok=True)


def _receive(url: str, partial: _Partial, on_progress: OnProgress | None) -> None:
    """Request the missing bytes and append them; raise _InterruptedError if they end early."""
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
                partial.start(url, '')  # longer than the server's file, so not a part of it
                raise _InterruptedError(
                    'the file on the server is shorter than the received part'
                ) from None
            if error.code >= 500:
                raise _InterruptedError(f'HTTP status {error.code}') from None
            raise DownloadError(_http_error_message(url, error)) from None
    except urllib.error.URLError as error:
        raise _UnreachableError(str(error.reason)) from None
    except (http.client.HTTPException, OSError) as error:
        raise _InterruptedError(str(error) or type(error).__name__) from None
    with response:
        range_ = _range(response, offset)
        if range_.start == 0:
            partial.start(url, _validator(response))
        _check_space(partial, range_)
        _append(response, url, partial, range_, on_progress)


def _append(
    response: http.client.HTTPResponse,
    url: str,
    partial: _Partial,
    range_: _Range,
    on_progress: OnProgress | None,
) -> None:
    done = range_.start
    if 'html' in (response.headers.get_content_type() or ''):
        raise DownloadError(_web_page_message(url))
    with partial.path.open('ab') as file:
        while True:
            try:
                block = response.read(BLOCK_BYTES)
            except (http.client.HTTPException, OSError) as error:
                raise _InterruptedError(str(error) or type(error).__name__) from None
            if not block:
                break
            if done == 0 and block.lstrip()[:1] == b'<':
                raise DownloadError(_web_page_message(url))
            try:
                file.write(block)
                file.flush()
            except OSError as error:
                raise DownloadError(_disk_message(partial.path, error, range_.total)) from None
            done += len(block)
            if on_progress is not None:
                on_progress(done, range_.total)
    if done < range_.total:
        raise _InterruptedError(f'{done} of {range_.total} bytes received')
    if done == 0:
        raise DownloadError(f'the file at {url} is empty')


def _range(response: http.client.HTTPResponse, offset: int) -> _Range:
    """Return the range of the response, which starts at 0 if the server ignored the request."""
    length = int(response.headers.get('Content-Length') or 0)
    if response.status != http.client.PARTIAL_CONTENT:
        return _Range(0, length)
    start, _, total = (
        response.headers.get('Content-Range', '').removeprefix('bytes ').partition('/')
    )
    if start.partition('-')[0] != str(offset):
        raise DownloadError(
            f'{response.url} sent the bytes {start or "of an unknown range"} instead of those '
            f'from {offset}: the server is faulty; give a mirror with --url'
        )
    return _Range(offset, int(total) if total.isdigit() else offset + length)


def _validator(response: http.client.HTTPResponse) -> str:
    """Return what identifies this version of the file: a strong ETag, or else its date."""
    tag = response.headers.get('ETag', '')
    return tag if tag.startswith('"') else response.headers.get('Last-Modified', '')


def _check_space(partial: _Partial, range_: _Range) -> None:
    free = shutil.disk_usage(partial.path.parent).free
    if range_.total - range_.start > free:
        raise DownloadError(
            f'{partial.path.parent} has {_megabytes(free)} of free space, but '
            f'{_megabytes(range_.total - range_.start)} are required: free some space, or choose '
            'another folder with DYNAMIC_OFA_CACHE'
        )


def _disk_message(path: Path, error: OSError, total: int) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        size = (
            f'{_megabytes(total)} are required'
            if total
            else 'the file is larger than the free space'
        )
        return (
            f'{path}: {os.strerror(error.errno)}; {size}. Free some space, or choose another '
            'folder with DYNAMIC_OFA_CACHE, and run the same command again'
        )
    return f'{path} cannot be written: {error.strerror or error}'


def _http_error_message(url: str, error: urllib.error.HTTPError) -> str:
    found = f'the server refused {url} with HTTP status {error.code} ({error.reason})'
    if error.code in (http.client.NOT_FOUND, http.client.GONE):
        found = f'there is no file at {url} (HTTP status {error.code})'
    return f'{found}; give a mirror with --url, or a file with --from-file'


def _web_page_message(url: str) -> str:
    return (
        f'{url} sent a web page instead of the file; open the address in a browser, '
        'download the file there and give it with --from-file'
    )


def _megabytes(size: int) -> str:
    return f'{size / 1e6:.1f} MB'
