"""Files: where the package's own lie, and writing that leaves nothing half-written."""

from __future__ import annotations

import errno
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGE = 'dynamic_ofa_ros'


def share_directory() -> Path:
    """Return the folder that holds launch/, config/, resource/ and msg/.

    In a source checkout that is the checkout; after colcon it is the ament index's answer; after
    pip it is share/dynamic_ofa_ros of the environment.
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
    """Return the folder of derived data, safe to delete.

    $DYNAMIC_OFA_CACHE, else dynamic_ofa_ros below $XDG_CACHE_HOME or ~/.cache.
    """
    chosen = os.environ.get('DYNAMIC_OFA_CACHE')
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser() / PACKAGE


def data_directory() -> Path:
    """Return the folder of what a user has built and wants to keep.

    $DYNAMIC_OFA_DATA, else dynamic_ofa_ros below $XDG_DATA_HOME or ~/.local/share.
    """
    chosen = os.environ.get('DYNAMIC_OFA_DATA')
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get('XDG_DATA_HOME') or '~/.local/share'
    return Path(base).expanduser() / PACKAGE


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success fsync it and rename it to `path`.

    When the block raises, the temporary file is removed and `path` stays as it was. What the
    system refuses (a full disk) names `path`.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f'.{path.name}.', suffix='.partial', dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open('rb+') as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let what the system refuses (a full disk) say where, if it does not by itself."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def printable(path: str | Path) -> str:
    """Return a path that every stream, file and message takes.

    Bytes that are not UTF-8 are escaped: Python's own stand-ins for them cannot be encoded.
    """
    return os.fsencode(path).decode('utf-8', 'backslashreplace')


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text so that `path` holds either the old contents or all of the new."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


@contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success rename it to `path`, which is new.

    When the block raises, or something lies at `path` by then, the temporary folder is removed
    and `path` stays as it was: raise FileExistsError in the latter case.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', suffix='.partial', dir=path.parent))
    try:
        with naming(path):
            yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, 'exists already', str(path))
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
