"""A journal of a long measurement, one JSON object per line, so that it can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.errors import DynamicOfaError


class JournalError(DynamicOfaError):
    """A journal belongs to another measurement."""


class Journal:
    """Records of one measurement; the first record contains its settings."""

    def __init__(self, path: Path, settings: Mapping[str, Any], *, is_fresh: bool = False) -> None:
        """Open or create a journal; raise JournalError if its settings differ."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_fresh:
            path.unlink(missing_ok=True)
        self.records = read(path)
        if not self.records:
            self.append('settings', settings)
            return
        before = self.records[0]
        for name, value in settings.items():
            if before.get(name) != value:
                raise JournalError(
                    f'{path} was started with {name} {before.get(name)}, but now it is {value}: '
                    'start again with --fresh, or give another folder with --work'
                )

    def append(self, kind: str, values: Mapping[str, Any]) -> None:
        """Write a record to the disk."""
        record = {'kind': kind, **values}
        with self.path.open('a', encoding='utf-8') as file:
            file.write(json.dumps(record) + '\n')
            file.flush()
            os.fsync(file.fileno())
        self.records.append(json.loads(json.dumps(record)))

    def find(self, kind: str, **values: Any) -> list[dict[str, Any]]:
        """Return the records of a kind with these values."""
        return [
            record
            for record in self.records
            if record['kind'] == kind and values.items() <= record.items()
        ]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file; remove an incomplete last record."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b'\n') + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]
