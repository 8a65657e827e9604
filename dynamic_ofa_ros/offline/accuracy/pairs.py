"""Files of measured pairs: sub-networks with their top-1, from which a predictor is fitted.

A pairs file contains JSON lines:
`{"architecture": {"ks": [...], "e": [...], "d": [...], "r": 160}, "top1": 0.765}`,
or CSV with a column for each list (numbers separated by spaces), `r` and `top1`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.errors import ArchitectureError, PredictorError
from dynamic_ofa_ros.files import write_text_atomically
from dynamic_ofa_ros.space.architecture import LISTS, SubnetArchitecture


@dataclass(frozen=True)
class Pair:
    """An architecture and its top-1, a fraction."""

    architecture: SubnetArchitecture
    top1: float


def read_pairs(path: str | Path) -> list[Pair]:
    """Read a pairs file: CSV if the suffix is .csv, otherwise JSON lines.

    Raise PredictorError with the number of the line that is wrong.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding='utf-8')
    except FileNotFoundError:
        raise PredictorError(f'{path} is missing') from None
    except UnicodeDecodeError:
        raise PredictorError(f'{path} is not text; give JSON lines or CSV') from None
    rows = _csv_rows(path, text) if path.suffix.lower() == '.csv' else _json_rows(path, text)
    pairs = []
    for number, row in rows:
        try:
            pairs.append(_pair(row))
        except (ArchitectureError, KeyError, TypeError, ValueError) as error:
            problem = f'{error} is missing' if isinstance(error, KeyError) else error
            raise PredictorError(f'{path}, line {number}: {problem}') from None
    if not pairs:
        raise PredictorError(f'{path} contains no pairs of architecture and top1')
    return pairs


def write_pairs(pairs: Sequence[Pair], path: Path) -> None:
    """Write measured pairs as JSON lines, atomically."""
    rows = ({'architecture': p.architecture.to_mapping(), 'top1': p.top1} for p in pairs)
    write_text_atomically(path, ''.join(json.dumps(row) + '\n' for row in rows))


def _pair(row: Mapping[str, Any]) -> Pair:
    architecture = row['architecture']
    if isinstance(architecture, str):
        architecture = json.loads(architecture)
    top1 = row['top1']
    if isinstance(top1, bool) or not isinstance(top1, (int, float, str)):
        raise ValueError(f'top1 is {top1!r}, which is not a number')
    try:
        value = float(top1)
    except ValueError:
        raise ValueError(f'top1 is {top1!r}, which is not a number') from None
    return Pair(SubnetArchitecture.from_mapping(architecture), value)


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        row = _parsed(line)
        if not isinstance(row, dict):
            raise PredictorError(f'{path}, line {number}: not a JSON object: {line[:60]!r}')
        yield number, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(text.splitlines())
    if 'top1' not in (reader.fieldnames or ()):
        raise PredictorError(f'{path} has no column top1 in its first line')
    for row in reader:
        yield (
            reader.line_num,
            row if row.get('architecture') else {**row, 'architecture': _from_columns(row)},
        )


def _from_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _numbers(row[name]) if name != 'r' else _number(row[name])
        for name in (*LISTS, 'r')
        if row.get(name)
    }


def _numbers(text: str) -> list[Any]:
    return [_number(part) for part in text.strip('[]').replace(',', ' ').split()]


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text  # SubnetArchitecture.from_mapping rejects it


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
