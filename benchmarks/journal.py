"""What a long measurement has finished, a JSON object a line, so that a killed one can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.errors import DynamicOfaError


class JournalError(DynamicOfaError):
    """A journal of another measurement."""


class Journal:
    """Records of one measurement; the first one says what it measures."""

    def __init__(self, path: Path, settings: Mapping[str, Any], *, is_fresh: bool = False) -> None:
        """Open a journal, a new one where there is none; raise JournalError if it is another's."""
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
                    f'{path} was begun with {name} {before.get(name)}, now it is {value}: begin '
                    'anew with --fresh, or name another folder with --work'
                )

    def append(self, kind: str, values: Mapping[str, Any]) -> None:
        """Write a record; it is on the disk when this returns."""
        record = {'kind': kind, **values}
        with self.path.open('a', encoding='utf-8') as file:
            file.write(json.dumps(record) + '\n')
            file.flush()
            os.fsync(file.fileno())
        self.records.append(json.loads(json.dumps(record)))

    def find(self, kind: str, **values: Any) -> list[dict[str, Any]]:
        """Return the records of a kind that have these values."""
        return [
            record
            for record in self.records
            if record['kind'] == kind and values.items() <= record.items()
        ]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file; cut off what a killed process left of one."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b'\n') + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]
