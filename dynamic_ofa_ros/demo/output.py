"""The output folder: chosen and checked before anything starts."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from dynamic_ofa_ros.errors import DynamicOfaError

DEFAULT_PARENT = 'demo_output'


class OutputError(DynamicOfaError):
    """An output folder that cannot be used."""


def prepare_output(chosen: str | None) -> Path:
    """Create the folder that a run writes into: `chosen`, or ./demo_output/<date-time>.

    Raises OutputError when it is not empty (results of two runs are never mixed), is no folder, or
    cannot be written.
    """
    folder = Path(chosen).expanduser() if chosen else _fresh_default()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = next(folder.iterdir(), None)
        if occupied is not None:
            raise OutputError(
                f'{folder} is not empty (it holds {occupied.name}); '
                'name a new or an empty folder with --output'
            )
        # Permission bits do not tell about read-only file systems and quotas: try.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f'{error.filename or folder} is a file, not a folder') from None
    except OSError as error:
        raise OutputError(
            f'{folder} cannot be written: {error.strerror or error}; '
            'name another folder with --output'
        ) from None
    return folder.resolve()


def _fresh_default() -> Path:
    """Return a name that no other demo took, also one that started within the same second."""
    base = Path(DEFAULT_PARENT) / time.strftime('%Y-%m-%d_%H-%M-%S')
    for suffix in ('', *(f'_{n}' for n in range(2, 100))):
        folder = base.with_name(base.name + suffix)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:
            return folder
        return folder
    return base
