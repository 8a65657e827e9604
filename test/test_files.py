from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynamic_ofa_ros import files


def test_a_failed_replacement_keeps_the_old_file_only(tmp_path: Path) -> None:
    path = tmp_path / 'a.txt'
    path.write_text('old')

    def fail() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text('half')
            raise RuntimeError('killed')

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from dynamic_ofa_ros import files
with getattr(files, sys.argv[1])(Path(sys.argv[2])) as temporary:
    print(temporary, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize('function', ['replacing', 'creating_folder'])
def test_what_a_killed_process_left_is_removed_by_the_next_write(
    tmp_path: Path, function: str
) -> None:
    path = tmp_path / 'a'

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, '-c', KILLED_WRITER, function, str(path)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert Path(process.stdout.readline().strip()).exists()
        return process

    with start() as killed:
        killed.kill()
    (torn,) = tmp_path.iterdir()
    with start() as running:
        assert not torn.exists()
        (locked,) = tmp_path.iterdir()
        with getattr(files, function)(path):
            assert locked.exists(), 'its process is running'
        running.kill()


def test_writing_creates_folders_and_uses_default_permissions(tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'a.txt'
    files.write_text_atomically(path, 'ä')
    plain = tmp_path / 'plain.txt'
    plain.write_text('')
    assert path.read_text(encoding='utf-8') == 'ä'
    assert path.stat().st_mode == plain.stat().st_mode


def test_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('DYNAMIC_OFA_CACHE', '/elsewhere')
    assert files.cache_directory() == Path('/elsewhere')
    monkeypatch.delenv('DYNAMIC_OFA_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', '/xdg')
    assert files.cache_directory() == Path('/xdg/dynamic_ofa_ros')


@pytest.mark.parametrize(
    ('name', 'shown'),
    [
        (b'a "quoted" \'name\'.png', 'a "quoted" \'name\'.png'),
        ('Straße/ü.png'.encode(), 'Straße/ü.png'),
        (b'caf\xe9', 'caf\\xe9'),
        (b'two\nlines\t\x1b[31m', 'two\\nlines\\t\\x1b[31m'),
        ('two\u2028lines\x85'.encode(), 'two\\u2028lines\\x85'),
    ],
)
def test_a_path_is_printed_in_one_line(name: bytes, shown: str) -> None:
    assert files.printable(os.fsdecode(name)) == shown
    error = FileNotFoundError(errno.ENOENT, 'No such file', os.fsdecode(name))
    assert files.problem_of(error) == f'{shown}: No such file'


def test_share_directory_contains_the_messages() -> None:
    assert (files.share_directory() / 'msg' / 'Telemetry.msg').is_file()
