from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dynamic_ofa_ros.runtime.build_cache import MANIFEST_FILE, BuildCache, filesystem_safe

FAMILY = SimpleNamespace(name='my family', checksum='0123456789abcdef' * 4)
DEADLINE_S = 60


class Builder:
    """Fills a folder with one file and counts its calls."""

    def __init__(self, text: str = 'contents') -> None:
        self.calls = 0
        self.text = text

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / 'file').write_text(self.text)


def cache_at(path: Path) -> BuildCache:
    return BuildCache(FAMILY, path)  # type: ignore[arg-type]


def test_the_cache_folder_is_named_by_family_and_checksum(tmp_path):
    assert cache_at(tmp_path).directory == tmp_path / 'my-family-0123456789abcdef'


def test_the_environment_variable_sets_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    monkeypatch.delenv('DYNAMIC_OFA_CACHE', raising=False)
    assert BuildCache(FAMILY).directory.parent == tmp_path / 'xdg' / 'dynamic_ofa_ros'
    monkeypatch.setenv('DYNAMIC_OFA_CACHE', str(tmp_path / 'chosen'))
    assert BuildCache(FAMILY).directory.parent == tmp_path / 'chosen'


def test_a_folder_is_built_once(tmp_path):
    build = Builder()
    first = cache_at(tmp_path).folder('onnx', '1', build)
    second = cache_at(tmp_path).folder('onnx', '1', build)
    assert first == second
    assert (second / 'file').read_text() == 'contents'
    assert build.calls == 1


def truncate(folder: Path) -> None:
    (folder / 'file').write_bytes(b'con')


def delete(folder: Path) -> None:
    (folder / 'file').unlink()


def garble_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).write_text('{"version": ')


def manifest_of_another_kind(folder: Path) -> None:
    (folder / MANIFEST_FILE).write_text('[1, 2]')


def no_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).unlink()


@pytest.mark.parametrize(
    'damage', [truncate, delete, garble_manifest, manifest_of_another_kind, no_manifest]
)
def test_a_damaged_folder_is_built_again(tmp_path, damage):
    build = Builder()
    damage(cache_at(tmp_path).folder('onnx', '1', build))
    folder = cache_at(tmp_path).folder('onnx', '1', build)
    assert (folder / 'file').read_text() == 'contents'
    assert build.calls == 2


def test_another_version_is_built_again(tmp_path):
    cache_at(tmp_path).folder('onnx', '1', Builder('old'))
    assert (cache_at(tmp_path).folder('onnx', '2', Builder('new')) / 'file').read_text() == 'new'


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    def fail(folder: Path) -> None:
        (folder / 'file').write_text('half')
        raise KeyboardInterrupt

    cache = cache_at(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.folder('onnx', '1', fail)
    assert [p.name for p in cache.directory.iterdir()] == ['.onnx.lock']
    assert (cache.folder('onnx', '1', Builder()) / 'file').read_text() == 'contents'


def test_the_next_build_removes_what_a_killed_one_left_behind(tmp_path):
    cache = cache_at(tmp_path)
    code = (
        'import os, sys\n'
        'from pathlib import Path\n'
        'from types import SimpleNamespace\n'
        'from dynamic_ofa_ros.runtime.build_cache import BuildCache\n'
        'family = SimpleNamespace(name="my family", checksum="0123456789abcdef" * 4)\n'
        'BuildCache(family, Path(sys.argv[1])).folder("onnx", "1", lambda folder: os._exit(9))\n'
    )
    command = [sys.executable, '-c', code, str(tmp_path)]
    assert subprocess.run(command, timeout=DEADLINE_S, check=False).returncode == 9
    assert len(list(cache.directory.glob('.onnx.*.partial'))) == 1
    cache.folder('onnx', '1', Builder())
    assert sorted(p.name for p in cache.directory.iterdir()) == ['.onnx.lock', 'onnx']


def test_a_temporary_folder_replaces_a_read_only_cache_with_a_note(tmp_path, caplog):
    obstacle = tmp_path / 'cache'
    obstacle.write_text('a file where a folder should be')
    cache = cache_at(obstacle)
    assert (cache.folder('onnx', '1', Builder()) / 'file').read_text() == 'contents'
    assert cache.write_text('choice.json', '{"a": 1}').is_file()
    assert cache.read_json('choice.json') == {'a': 1}
    assert 'damaged' not in caplog.text
    assert len(cache.notes) == 1
    assert 'cannot be written' in cache.notes[0]
    assert 'DYNAMIC_OFA_CACHE' in cache.notes[0]


def test_a_build_that_needs_another_folder_survives_a_full_disk(tmp_path):
    cache = cache_at(tmp_path)

    def on_full_disk(folder: Path) -> None:
        if folder.is_relative_to(tmp_path / 'my-family-0123456789abcdef'):
            raise OSError(28, 'No space left on device')
        Builder()(folder)

    def build(folder: Path) -> None:
        cache.folder('inner', '1', on_full_disk)
        on_full_disk(folder)

    assert (cache.folder('outer', '1', build) / 'file').read_text() == 'contents'
    assert (cache.folder('inner', '1', on_full_disk) / 'file').read_text() == 'contents'
    assert len(cache.notes) == 1
    assert 'No space left on device' in cache.notes[0]


def test_a_complete_read_only_cache_is_used(tmp_path, monkeypatch):
    build = Builder()
    cache_at(tmp_path).folder('onnx', '1', build)
    cache_at(tmp_path).write_text('choice.json', '{"a": 1}')

    def refuse(*arguments: object, **keywords: object) -> None:
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(Path, 'mkdir', refuse)
    cache = cache_at(tmp_path)
    assert (cache.folder('onnx', '1', build) / 'file').read_text() == 'contents'
    assert cache.read_json('choice.json') == {'a': 1}
    assert build.calls == 1
    assert cache.notes == ()


@pytest.mark.parametrize('text', ['', '{"a":', '[1]', '\xff'])
def test_damaged_json_is_treated_as_missing(tmp_path, text):
    cache = cache_at(tmp_path)
    cache.write_text('choice.json', text)
    assert cache.read_json('choice.json') == {}


PROCESS = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from dynamic_ofa_ros.runtime.build_cache import BuildCache

def build(folder):
    Path(sys.argv[2]).touch()
    deadline = time.monotonic() + 30
    while not Path(sys.argv[3]).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    (folder / 'file').write_text('built by ' + sys.argv[2])

print('ready', flush=True)
family = SimpleNamespace(name='my family', checksum='0123456789abcdef' * 4)
print((BuildCache(family, Path(sys.argv[1])).folder('onnx', '1', build) / 'file').read_text())
"""


def test_two_processes_build_once(tmp_path):
    """The second process waits for the first, which builds until it is signalled."""
    starts = [tmp_path / 'first', tmp_path / 'second']
    finish = tmp_path / 'finish'
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', PROCESS, str(tmp_path / 'cache'), str(start), str(finish)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        for start in starts
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == 'ready\n'
        finish.touch()
        outputs = [process.communicate(timeout=DEADLINE_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert outputs[0] == outputs[1]
    assert sum(start.exists() for start in starts) == 1


@pytest.mark.parametrize(
    ('text', 'expected'),
    [('Xeon(R) 8481C', 'xeon-r-8481c'), ('a/../b', 'a-..-b'), ('..', 'unknown'), ('', 'unknown')],
)
def test_names_are_valid_file_names(text, expected):
    assert filesystem_safe(text) == expected
