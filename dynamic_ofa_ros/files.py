"""Locations of the package's files and folders, and atomic writing."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sysconfig
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGE = 'dynamic_ofa_ros'


def share_directory() -> Path:
    """Return the folder that holds launch/, config/, resource/ and msg/.

    This is the root of a source checkout; otherwise the folder that the ament index names (after
    colcon), or share/dynamic_ofa_ros in the Python environment (after pip).
    """
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / 'package.xml').is_file():
        return checkout
    try:
        from ament_index_python.packages import get_package_share_directory
    except ImportError:
        pass
    else:
        with suppress(LookupError):
            return Path(get_package_share_directory(PACKAGE))
    return Path(sysconfig.get_path('data')) / 'share' / PACKAGE


def cache_directory() -> Path:
    """Return the folder of derived data, which is safe to delete.

    This is $DYNAMIC_OFA_CACHE, or else dynamic_ofa_ros in $XDG_CACHE_HOME or ~/.cache.
    """
    chosen = os.environ.get('DYNAMIC_OFA_CACHE')
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser() / PACKAGE


def data_directory() -> Path:
    """Return the folder of the user's own data, such as the families they built.

    This is $DYNAMIC_OFA_DATA, or else dynamic_ofa_ros in $XDG_DATA_HOME or ~/.local/share.
    """
    chosen = os.environ.get('DYNAMIC_OFA_DATA')
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get('XDG_DATA_HOME') or '~/.local/share'
    return Path(base).expanduser() / PACKAGE


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`; on success fsync it and rename it to `path`.

    If the block raises, the temporary file is removed and `path` is unchanged. An OSError (such
    as a full disk) names `path` if it names no other file.
    """
    with naming(path), _partial(path, is_folder=False) as temporary:
        yield temporary
        with temporary.open('rb+') as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)


@contextmanager
def _partial(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """Yield a new file or folder `.<name>.*.partial` beside `path`, which is removed at the end.

    Those that killed processes left are removed first. The ones of running processes are locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix, suffix = f'.{path.name}.', '.partial'
    with suppress(PermissionError):  # a folder without permission to list it
        for name in os.listdir(path.parent):
            if name.startswith(prefix) and name.endswith(suffix):
                _remove_unlocked(path.parent / name)
    make = tempfile.mkdtemp if is_folder else tempfile.mkstemp
    while True:
        try:
            made = make(prefix=prefix, suffix=suffix, dir=path.parent)
        except OSError as error:  # it names the partial file
            raise OSError(error.errno, error.strerror, str(path)) from None
        handle, name = (os.open(made, os.O_RDONLY), made) if isinstance(made, str) else made
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        temporary = Path(name)
        if temporary.exists():
            break
        os.close(handle)  # another process removed it before it was locked
    try:
        yield temporary
    finally:
        _remove(temporary)
        os.close(handle)


def _remove_unlocked(path: Path) -> None:
    """Remove a file or folder unless another process has locked it."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add `path` to an OSError (such as a full disk) that names no file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def locked(folder: Path, error: Exception) -> Iterator[None]:
    """Lock an existing folder; raise `error` if another process has locked it.

    The operating system releases the lock when the process ends.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error from None
        yield
    finally:
        os.close(descriptor)


def problem_of(error: Exception) -> str:
    """Return a sentence for an error of the file system or a limit; empty for other errors."""
    if isinstance(error, OSError):
        name = error.filename2 or error.filename  # filename2: the target of a copy
        where = f'{printable(name)}: ' if name else ''
        return f'{where}{error.strerror or error}'
    if isinstance(error, RuntimeError) and 'home directory' in str(error):  # of Path.expanduser
        return 'the home folder is unknown: set HOME, or give a path without ~'
    if isinstance(error, MemoryError):
        return 'there is not enough memory'
    if isinstance(error, RuntimeError) and 'start new thread' in str(error):
        return 'no thread can be started: raise the limits of memory and threads (ulimit -v, -u)'
    return ''


def printable(path: str | Path) -> str:
    """Return a path as one line of text that can be encoded as UTF-8.

    Bytes that are not UTF-8 are escaped (the surrogates that Python uses for them cannot be
    encoded), and so are line breaks and other control characters.
    """
    text = os.fsencode(path).decode('utf-8', 'backslashreplace')
    return ''.join(c.encode('unicode_escape').decode() if _is_control(c) else c for c in text)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ('Cc', 'Zl', 'Zp')


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text; `path` always holds either its old contents or all of the new text."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


@contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success rename it to `path`.

    If the block raises, the temporary folder is removed and nothing is created. Raise
    FileExistsError if `path` exists at the end of the block; it is left unchanged.
    """
    with _partial(path, is_folder=True) as temporary:
        with naming(path):
            yield temporary
        temporary.chmod(0o777 & ~_umask())
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, 'exists already', str(path))
        temporary.rename(path)
