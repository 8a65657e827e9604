"""Measured pairs of architecture and top-1: reading them, and measuring them, resumably.

A pairs file is JSON lines, `{"architecture": {"ks": [...], "e": [...], "d": [...], "r": 160},
"top1": 0.765}`, or CSV with one column for each list (numbers with spaces between them), `r` and
`top1`. Files that are measured here start with a line that says what was measured on what.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.errors import ArchitectureError, PredictorError
from dynamic_ofa_ros.files import write_text_atomically
from dynamic_ofa_ros.progress import progress
from dynamic_ofa_ros.space.architecture import LISTS, SubnetArchitecture

if TYPE_CHECKING:
    from dynamic_ofa_ros.offline.accuracy.evaluation_pool import EvaluationPool

FORMAT = 'dynamic_ofa_pairs'


@dataclass(frozen=True)
class Pair:
    """An architecture and its top-1, a fraction."""

    architecture: SubnetArchitecture
    top1: float


def read_pairs(path: str | Path) -> list[Pair]:
    """Read a pairs file, CSV by its suffix, else JSON lines; raise PredictorError with the line.

    A torn last line, as a killed measurement leaves it, is passed over.
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
        raise PredictorError(f'{path} holds no pairs of architecture and top1')
    return pairs


class PairsFile:
    """Measurements as they come in, each on disk before the next; read again after a kill."""

    def __init__(self, path: Path, measured_on: Mapping[str, Any]) -> None:
        self.path = path
        header = {'format': FORMAT, 'measured_on': dict(measured_on)}
        self.known: dict[SubnetArchitecture, float] = {}
        if path.is_file():
            self._read(header)
        else:
            write_text_atomically(path, json.dumps(header) + '\n')

    def append(self, architecture: SubnetArchitecture, top1: float) -> None:
        """Add one measurement; raise OSError naming the file when the disk is full."""
        line = json.dumps({'architecture': architecture.to_mapping(), 'top1': top1}) + '\n'
        try:
            with self.path.open('a', encoding='utf-8') as file:
                file.write(line)
        except OSError as error:
            number = error.errno or 0
            raise OSError(number, os.strerror(number), str(self.path)) from None
        self.known[architecture] = top1

    def _read(self, header: Mapping[str, Any]) -> None:
        text = self.path.read_text(encoding='utf-8')
        whole, _, torn = text.rpartition('\n')
        lines = whole.splitlines()
        found = _parsed(lines[0]) if lines else None
        if found != header:
            raise PredictorError(
                f'{self.path} holds measurements of something else ({_describe(found)}; wanted '
                f'{_describe(header)}); delete it, or choose another --output'
            )
        if torn:  # a killed run wrote half a line, and the next would go on in it
            write_text_atomically(self.path, whole + '\n')
        if len(lines) > 1:
            self.known = {pair.architecture: pair.top1 for pair in read_pairs(self.path)}


def measure_pairs(
    pool: EvaluationPool, architectures: Sequence[SubnetArchitecture], file: PairsFile
) -> list[Pair]:
    """Measure what `file` does not know yet; return all of `architectures` with their top-1."""
    missing = [a for a in architectures if a not in file.known]
    done = len(architectures) - len(missing)
    with progress('measuring accuracy', len(architectures)) as bar:
        bar.update(done)
        for index, top1 in pool.evaluate_many(missing):
            file.append(missing[index], top1)
            done += 1
            bar.update(done, f'top-1 {top1:.1%}')
    return [Pair(architecture, file.known[architecture]) for architecture in architectures]


def _describe(header: Any) -> str:
    measured_on = header.get('measured_on') if isinstance(header, dict) else None
    return json.dumps(measured_on) if measured_on else 'no line that says on what'


def _pair(row: Mapping[str, Any]) -> Pair:
    architecture = row['architecture']
    if isinstance(architecture, str):
        architecture = json.loads(architecture)
    top1 = row['top1']
    if isinstance(top1, bool) or not isinstance(top1, (int, float, str)):
        raise ValueError(f'top1 is {top1!r}, which is no number')
    try:
        value = float(top1)
    except ValueError:
        raise ValueError(f'top1 is {top1!r}, which is no number') from None
    return Pair(SubnetArchitecture.from_mapping(architecture), value)


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        row = _parsed(line)
        if row is None and number == len(lines) and not text.endswith('\n'):
            return  # torn
        if line.strip() and not isinstance(row, dict):
            raise PredictorError(f'{path}, line {number}: not a JSON object: {line[:60]!r}')
        if isinstance(row, dict) and row.get('format') != FORMAT:
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
        return text  # for the architecture to refuse


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
