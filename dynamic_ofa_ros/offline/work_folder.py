"""The work folder of a build, which keeps the results of its stages for a later run.

Every result is a file whose name contains the stage and a digest of everything that the result
depends on. A changed setting therefore repeats only the stages that depend on it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynamic_ofa_ros import __version__
from dynamic_ofa_ros.files import locked, naming, write_text_atomically

logger = logging.getLogger(__name__)

SCRATCH_FOLDER = '.dynamic_ofa_scratch'
DIGEST_DIGITS = 12


class WorkFolder:
    """A folder of intermediate results; `is_kept`: it is not removed after the build.

    scratch: a folder in it that no later build needs. A kept folder was named by the user and may
    have other contents, so nothing else is removed from it.
    """

    def __init__(self, folder: Path, is_kept: bool = False) -> None:
        self.folder, self.scratch, self.is_kept = folder, folder / SCRATCH_FOLDER, is_kept
        self._times_file = self.scratch / 'times.json'
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.times_s: dict[str, float] = _read_object(self._times_file)

    @contextmanager
    def alone(self, error: Exception) -> Iterator[None]:
        """Lock the folder; raise `error` if another process has locked it."""
        with locked(self.folder, error):
            for torn in self.folder.glob('.*.partial'):
                torn.unlink(missing_ok=True)
            yield

    def path(self, stage: str, depends_on: Mapping[str, Any], suffix: str) -> Path:
        """Return the file for a result; `depends_on` is everything that can change it (JSON)."""
        return self.folder / f'{stage}-{digest_of(depends_on)}{suffix}'

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the duration of the block to that of the stage."""
        started_s = time.monotonic()
        try:
            yield
        finally:
            spent_s = self.times_s.get(stage, 0.0) + time.monotonic() - started_s
            self.times_s[stage] = round(spent_s, 1)
        write_text_atomically(self._times_file, json.dumps(self.times_s))

    def fresh_folder(self, name: str) -> Path:
        """Return an empty folder in the scratch folder; remove what an earlier run left."""
        folder = self.scratch / name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        return folder

    def finish(self) -> None:
        """Remove the folder; of a kept one, only the scratch folder."""
        shutil.rmtree(self.scratch if self.is_kept else self.folder, ignore_errors=True)


class Journal:
    """A file of rows, one line of JSON each, that survives a kill at any moment.

    `key` is the field that identifies a row. An incomplete last line is ignored.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._rows: dict[str, dict[str, Any]] = {}
        text = path.read_text(encoding='utf-8') if path.is_file() else ''
        for line in text.splitlines():
            row = _parsed(line)
            if key in row:
                self._rows[row[key]] = row
        if text and not text.endswith('\n'):
            # Ends the incomplete line.
            self._append('')

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._rows[key]

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row and wait until it is on the disk."""
        self._append(json.dumps(row))
        self._rows[row[self._key]] = dict(row)

    def _append(self, line: str) -> None:
        with naming(self._path), self._path.open('a', encoding='utf-8') as file:
            file.write(line + '\n')
            file.flush()
            os.fsync(file.fileno())


def digest_of(depends_on: Mapping[str, Any]) -> str:
    """Return a short digest of the dependencies of a result and of the package's version."""
    text = json.dumps({**depends_on, 'version': __version__}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS]


def read_result(path: Path) -> dict[str, Any] | None:
    """Return a result written by `write_result`; None if it is missing or incomplete."""
    return _read_object(path) or None


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result, atomically."""
    write_text_atomically(path, json.dumps(result, indent=1))


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_text(encoding='utf-8'))
    except (FileNotFoundError, UnicodeDecodeError):
        return {}


def _parsed(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
