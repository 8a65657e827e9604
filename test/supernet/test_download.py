from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer, serving

from dynamic_ofa_ros.errors import DownloadError
from dynamic_ofa_ros.supernet.published import download as module
from dynamic_ofa_ros.supernet.published.checksums import Checksums
from dynamic_ofa_ros.supernet.published.download import alone, download

DATA = bytes(range(256)) * 2000
DEADLINE_S = 60.0


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(FileServer({'file': DATA})) as running:
        yield running


def test_a_download_creates_the_complete_file_only(server: FileServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    download(server.url('file'), tmp_path / 'file', lambda *numbers: seen.append(numbers))
    assert (tmp_path / 'file').read_bytes() == DATA
    assert [entry.name for entry in tmp_path.iterdir()] == ['file']
    assert seen[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_an_interrupted_connection_is_resumed(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [100_000, 50_000]
    download(server.url('file'), tmp_path / 'file', pause_s=0.0)
    assert (tmp_path / 'file').read_bytes() == DATA
    assert server.requests == ['', 'bytes=100000-', 'bytes=150000-']


def test_a_partial_download_of_an_earlier_run_is_resumed(
    server: FileServer, tmp_path: Path
) -> None:
    server.cuts = [100_000, 0]
    with pytest.raises(DownloadError, match=r'interrupted after 0\.1 MB .* run the same command'):
        download(server.url('file'), tmp_path / 'file', attempts=1, pause_s=0.0)
    assert not (tmp_path / 'file').exists()
    download(server.url('file'), tmp_path / 'file')
    assert (tmp_path / 'file').read_bytes() == DATA
    assert server.requests[-1] == 'bytes=100000-'


@pytest.mark.parametrize('change', ['new version', 'no ranges', 'no version', 'shorter'])
def test_a_download_that_cannot_be_resumed_is_restarted(
    server: FileServer, tmp_path: Path, change: str
) -> None:
    server.cuts = [100_000, 0]
    server.etag = '' if change == 'no version' else '"1"'
    with pytest.raises(DownloadError):
        download(server.url('file'), tmp_path / 'file', attempts=1, pause_s=0.0)
    if change == 'new version':
        server.etag, server.files['file'] = '"2"', DATA[::-1]
    server.has_ranges = change != 'no ranges'
    if change == 'shorter':
        server.files['file'] = DATA[:50_000]
    download(server.url('file'), tmp_path / 'file', pause_s=0.0)
    assert (tmp_path / 'file').read_bytes() == server.files['file']


def test_a_partial_download_is_not_resumed_from_a_mirror(
    server: FileServer, tmp_path: Path
) -> None:
    server.files['mirror'] = DATA[::-1]
    server.cuts = [100_000, 0]
    with pytest.raises(DownloadError):
        download(server.url('file'), tmp_path / 'file', attempts=1, pause_s=0.0)
    download(server.url('mirror'), tmp_path / 'file')
    assert (tmp_path / 'file').read_bytes() == DATA[::-1]


def test_a_download_succeeds_when_the_server_recovers(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [503, 502]
    download(server.url('file'), tmp_path / 'file', pause_s=0.0)
    assert (tmp_path / 'file').read_bytes() == DATA


def test_a_file_of_unknown_size_is_downloaded(server: FileServer, tmp_path: Path) -> None:
    server.says_length = False
    seen: list[int] = []
    download(server.url('file'), tmp_path / 'file', lambda _, total: seen.append(total))
    assert (tmp_path / 'file').read_bytes() == DATA
    assert set(seen) == {0}


def test_a_web_page_is_rejected(server: FileServer, tmp_path: Path) -> None:
    for content_type, page in (
        ('text/html; charset=utf-8', b'please sign in'),
        ('application/octet-stream', b'\n <!DOCTYPE html><html>quota exceeded</html>'),
    ):
        server.content_type, server.files['file'] = content_type, page
        with pytest.raises(DownloadError, match=r'a web page instead .* --from-file'):
            download(server.url('file'), tmp_path / 'file')
        assert not (tmp_path / 'file').exists()


@pytest.mark.parametrize(
    ('statuses', 'message'),
    [
        ([404], r'there is no file at http.* \(HTTP status 404\); give a mirror with --url'),
        ([403], r'the server refused .* with HTTP status 403 \(Forbidden\)'),
        ([500] * 9, r'was interrupted after 0\.0 MB \(HTTP status 500\)'),
    ],
)
def test_http_errors_are_reported(
    server: FileServer, tmp_path: Path, statuses: list[int], message: str
) -> None:
    server.statuses = statuses
    with pytest.raises(DownloadError, match=message):
        download(server.url('file'), tmp_path / 'file', pause_s=0.0)


def test_an_unreachable_server_is_reported_at_once(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{unused.getsockname()[1]}/file'
        with pytest.raises(DownloadError, match=r'cannot be reached .* check the network'):
            download(url, tmp_path / 'file')


@pytest.mark.parametrize('url', ['file:///etc/passwd', 'ftp://host/file', '', 'data:,x'])
def test_only_web_addresses_are_accepted(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match='is not an http'):
        download(url, tmp_path / 'file')


def test_an_empty_file_and_a_wrong_range_are_rejected(server: FileServer, tmp_path: Path) -> None:
    server.files['empty'] = b''
    with pytest.raises(DownloadError, match='is empty'):
        download(server.url('empty'), tmp_path / 'empty')
    server.cuts, server.wrong_start = [100_000], True
    with pytest.raises(DownloadError, match=r'bytes 100007-\d+ instead of those from 100000'):
        download(server.url('file'), tmp_path / 'file', pause_s=0.0)


def test_a_full_disk_is_reported_and_leaves_no_file(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # limits the size of files
    try:
        with pytest.raises(DownloadError, match=r'0\.5 MB are required\. Free some space'):
            download(server.url('file'), tmp_path / 'file')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / 'file').exists()
    usage = module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda _: usage)
    message = r'has 0\.0 MB of free space, but 0\.\d MB are required'
    with pytest.raises(DownloadError, match=message):
        download(server.url('file'), tmp_path / 'file')


def test_a_killed_download_leaves_no_file_and_is_resumed(
    server: FileServer, tmp_path: Path
) -> None:
    server.cuts = [100_000] + [0] * 50
    code = (
        'import sys; from pathlib import Path\n'
        'from dynamic_ofa_ros.supernet.published.download import download\n'
        'download(sys.argv[1], Path(sys.argv[2]))\n'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code, server.url('file'), str(tmp_path / 'file')]
    )
    deadline = time.monotonic() + DEADLINE_S
    while len(server.requests) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / 'file').exists()
    server.cuts.clear()
    download(server.url('file'), tmp_path / 'file')
    assert (tmp_path / 'file').read_bytes() == DATA
    assert server.requests[-1] == 'bytes=100000-'


def test_two_processes_do_not_write_the_same_file(tmp_path: Path) -> None:
    code = (
        'import sys; from pathlib import Path\n'
        'from dynamic_ofa_ros.supernet.published.download import alone\n'
        'with alone(Path(sys.argv[1])):\n    print("held", flush=True); sys.stdin.read()\n'
    )
    with subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path / 'file')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b'held\n'
        with (
            pytest.raises(DownloadError, match='another process is downloading file'),
            alone(tmp_path / 'file'),
        ):
            pass
        other.communicate()
    with alone(tmp_path / 'file'):  # the lock is released
        pass


def test_checksums_are_recorded_and_later_files_must_match(tmp_path: Path) -> None:
    file = tmp_path / 'file'
    file.write_bytes(b'one')
    checksums = Checksums(tmp_path / 'checksums.json')
    found = checksums.check('name', file)
    assert checksums.record('name', found)
    assert not checksums.record('name', found)
    assert checksums.record('other', 'ff')
    file.write_bytes(b'two')
    with pytest.raises(DownloadError, match=rf'SHA-256 [0-9a-f]{{64}}, but {found} is recorded'):
        Checksums(tmp_path / 'checksums.json').check('name', file)
    with pytest.raises(DownloadError, match='is given; fetch the file from another address'):
        checksums.check('new name', file, 'AB' * 32)


@pytest.mark.parametrize('text', ['{', '[]', '{"name": 3}'])
def test_a_damaged_checksum_file_is_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / 'checksums.json').write_text(text)
    with pytest.raises(DownloadError, match=r'checksums\.json is damaged'):
        Checksums(tmp_path / 'checksums.json').expected('name')


def test_the_lock_creates_a_missing_folder(tmp_path: Path) -> None:
    with alone(tmp_path / 'new' / 'file'):
        assert os.listdir(tmp_path / 'new') == ['file.lock']
