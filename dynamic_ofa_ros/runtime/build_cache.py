"""The build cache: what is derived from a family for one machine, safe to delete at any time.

    <cache>/<family name>-<first 16 digits of its checksum>/
      onnx/              folders of files with a manifest of their checksums
      reference/
      profiles/<platform>.yaml
      choice-<device>-t<threads>.json

A folder is built beside its final name and renamed, so it is there whole or not at all; a damaged
or stale one is built again. Two processes that want the same folder wait for each other.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.files import cache_directory, write_text_atomically

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family

MANIFEST_FILE = 'manifest.json'
_log = logging.getLogger(__name__)


class BuildCache:
    """The cache of one family. Where it cannot be written, a temporary directory takes its place.

    `notes` then says so, in a sentence for the user.
    """

    def __init__(self, family: Family, cache_dir: Path | None = None) -> None:
        name = f'{filesystem_safe(family.name)}-{family.checksum[:16]}'
        self._wanted = (cache_dir or cache_directory()) / name
        self._temporary: Path | None = None
        self.notes: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        """Where new files are written."""
        return self._temporary or self._wanted

    def find(self, relative: str) -> Path | None:
        """Return a file of the cache when it exists; one in a read-only cache serves as well."""
        for root in (self._temporary, self._wanted):
            if root is not None and (root / relative).is_file():
                return root / relative
        return None

    def folder(self, name: str, version: str, build: Callable[[Path], None]) -> Path:
        """Return an intact folder of derived files.

        `build` is called with an empty folder to fill when there is none of this version whose
        files are as they were written. What it raises is passed on, and nothing is left behind.
        """
        for root in (self._temporary, self._wanted):
            if root is not None and _is_intact(root / name, version):
                return root / name
        try:
            return self._build_folder(name, version, build)
        except OSError as error:
            if self._temporary is not None:
                raise
            self._use_temporary(error)
            return self._build_folder(name, version, build)

    def write_text(self, relative: str, text: str) -> Path:
        """Write a small file atomically and return where it is."""
        return self.write(relative, lambda path: write_text_atomically(path, text))

    def write(self, relative: str, writer: Callable[[Path], None]) -> Path:
        """Let `writer` write a file (atomically, that is its business) and return where it is."""
        try:
            return self._write(relative, writer)
        except OSError as error:
            if self._temporary is not None:
                raise
            self._use_temporary(error)
            return self._write(relative, writer)

    @contextmanager
    def locked(self, relative: str) -> Iterator[None]:
        """Hold the lock of a file that takes long to make; none where nothing can be written."""
        path = self.directory / f'{relative}.lock'
        with ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_locked(path))
            except OSError as error:
                _log.debug('no lock %s: %s', path, error)
            yield

    def read_json(self, relative: str) -> dict[str, Any]:
        """Return a JSON object of the cache; empty when it is missing or damaged."""
        path = self.find(relative)
        if path is None:
            return {}
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            _log.warning('%s is damaged and will be replaced: %s', path, error)
            return {}
        return document if isinstance(document, dict) else {}

    def _write(self, relative: str, writer: Callable[[Path], None]) -> Path:
        path = self.directory / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(path)
        return path

    def _use_temporary(self, error: OSError) -> None:
        self._temporary = Path(tempfile.mkdtemp(prefix='dynamic_ofa_ros-'))
        atexit.register(shutil.rmtree, self._temporary, ignore_errors=True)
        note = (
            f'the build cache {self._wanted} cannot be written ({error.strerror or error}): '
            'building into a temporary directory, at every start again; '
            'set DYNAMIC_OFA_CACHE to a folder that can be written'
        )
        self.notes = (*self.notes, note)
        _log.warning('%s', note)

    def _build_folder(self, name: str, version: str, build: Callable[[Path], None]) -> Path:
        target = self.directory / name
        self.directory.mkdir(parents=True, exist_ok=True)
        with _locked(self.directory / f'.{name}.lock'):
            if _is_intact(target, version):  # another process built it while this one waited
                return target
            partial = Path(
                tempfile.mkdtemp(prefix=f'.{name}.', suffix='.partial', dir=self.directory)
            )
            try:
                build(partial)
                _write_manifest(partial, version)
                shutil.rmtree(target, ignore_errors=True)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            _sync(self.directory)
        return target


def filesystem_safe(text: str) -> str:
    """Return the text in lower case, what is no letter, digit or dot as single hyphens."""
    return re.sub(r'[^a-z0-9.]+', '-', text.lower()).strip('-.') or 'unknown'


def _is_intact(folder: Path, version: str) -> bool:
    """Tell whether a folder has the wanted version and every file as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
        if manifest['version'] != version:
            _log.info('%s is of another version and is built again', folder)
            return False
        for name, checksum in manifest['files'].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != checksum:
                _log.warning('%s is damaged; %s is built again', folder / name, folder)
                return False
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning('%s is damaged and is built again: %r', folder, error)
        return False
    return True


def _write_manifest(folder: Path, version: str) -> None:
    checksums = {}
    for path in sorted(folder.iterdir()):
        checksums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        _sync(path)
    manifest = json.dumps({'version': version, 'files': checksums}, indent=1)
    write_text_atomically(folder / MANIFEST_FILE, manifest)


def _sync(path: Path) -> None:
    """Make what was written to a file or a folder's list of names survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system frees it when the process dies."""
    with path.open('a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
