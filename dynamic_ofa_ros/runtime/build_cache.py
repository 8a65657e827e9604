"""The build cache: files derived from a family for this machine, safe to delete at any time.

    <cache>/<family name>-<first 16 digits of its checksum>/
      onnx/              folders of files with a manifest of their checksums
      reference/
      profiles/<platform>.yaml
      choice-<device>-t<threads>.json

A folder is built under a temporary name and renamed, so it is complete or does not exist; a
damaged or outdated folder is built again. A lock prevents two processes from building the same
folder.
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
    """The cache of one family.

    If it cannot be written, a temporary directory is used instead and `notes` contains a message
    for the user.
    """

    def __init__(self, family: Family, cache_dir: Path | None = None) -> None:
        name = f'{filesystem_safe(family.name)}-{family.checksum[:16]}'
        self._wanted = (cache_dir or cache_directory()) / name
        self._temporary: Path | None = None
        self.notes: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        """The folder in which new files are written."""
        return self._temporary or self._wanted

    def find(self, relative: str) -> Path | None:
        """Return a file of the cache if it exists, also in a read-only cache; otherwise None."""
        for root in (self._temporary, self._wanted):
            if root is not None and (root / relative).is_file():
                return root / relative
        return None

    def folder(self, name: str, version: str, build: Callable[[Path], None]) -> Path:
        """Return a folder of derived files.

        If there is no intact folder of this version, `build` is called with an empty folder to
        fill. If it raises an exception, the folder is removed and the exception is passed on.
        """
        for root in (self._temporary, self._wanted):
            if root is not None and _is_intact(root / name, version):
                return root / name
        return self._try_both(lambda root: _build_folder(root, name, version, build))

    def write_text(self, relative: str, text: str) -> Path:
        """Write a text file atomically and return its path."""
        return self.write(relative, lambda path: write_text_atomically(path, text))

    def write(self, relative: str, writer: Callable[[Path], None]) -> Path:
        """Call `writer` to write a file and return its path; `writer` must write atomically."""

        def write(root: Path) -> Path:
            path = root / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            writer(path)
            return path

        return self._try_both(write)

    @contextmanager
    def locked(self, relative: str) -> Iterator[None]:
        """Hold the lock of a file that takes long to create; no lock if it cannot be created."""
        path = self.directory / f'{relative}.lock'
        with ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_locked(path))
            except OSError as error:
                _log.debug('cannot create the lock %s: %s', path, error)
            yield

    def read_json(self, relative: str) -> dict[str, Any]:
        """Return a JSON object of the cache; empty if it is missing or damaged."""
        path = self.find(relative)
        if path is None:
            return {}
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            _log.warning('%s is damaged and will be replaced: %s', path, error)
            return {}
        return document if isinstance(document, dict) else {}

    def _try_both(self, write: Callable[[Path], Path]) -> Path:
        """Call `write` with the folder for new files; if it fails, with the temporary one.

        `write` may use this cache itself, and so may be the first to need the temporary one.
        """
        root = self.directory
        try:
            return write(root)
        except OSError as error:
            if root == self._temporary:
                raise
            self._use_temporary(error)
            return write(self.directory)

    def _use_temporary(self, error: OSError) -> None:
        if self._temporary is not None:
            return
        self._temporary = Path(tempfile.mkdtemp(prefix='dynamic_ofa_ros-'))
        atexit.register(shutil.rmtree, self._temporary, ignore_errors=True)
        note = (
            f'the build cache {self._wanted} cannot be written ({error.strerror or error}): '
            'files are built at every start, in a temporary directory; '
            'set DYNAMIC_OFA_CACHE to a writable folder'
        )
        self.notes = (*self.notes, note)
        _log.warning('%s', note)


def _build_folder(root: Path, name: str, version: str, build: Callable[[Path], None]) -> Path:
    target = root / name
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f'.{name}.lock'):
        if _is_intact(target, version):  # built by another process in the meantime
            return target
        for stale in root.glob(f'.{name}.*.partial'):  # of a process that was killed
            shutil.rmtree(stale, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f'.{name}.', suffix='.partial', dir=root))
        try:
            build(partial)
            _write_manifest(partial, version)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _sync(root)
    return target


def filesystem_safe(text: str) -> str:
    """Return the text in lower case, with a hyphen for all other than letters, digits and dots."""
    return re.sub(r'[^a-z0-9.]+', '-', text.lower()).strip('-.') or 'unknown'


def _is_intact(folder: Path, version: str) -> bool:
    """Return whether a folder is of this version and its files match their checksums."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
        if manifest['version'] != version:
            _log.info('%s is of another version; it is built again', folder)
            return False
        for name, checksum in manifest['files'].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != checksum:
                _log.warning('%s is damaged; %s is built again', folder / name, folder)
                return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning('%s is damaged (%r); it is built again', folder, error)
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
    """Write a file or the entries of a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the operating system releases it when the process ends."""
    with path.open('a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
