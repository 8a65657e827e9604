"""The metrics of a run, and the identity of its data and settings."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.errors import CheckpointError
from dynamic_ofa_ros.files import printable, write_text_atomically
from dynamic_ofa_ros.offline.data.datasets import ImageDataset, fingerprint
from dynamic_ofa_ros.offline.data.folders import some

METRICS_FILE = 'metrics.csv'
COLUMNS = (
    'step', 'epoch', 'loss_largest', 'loss_smallest', 'held_out_top1_smallest',
    'held_out_top1_largest', 'images_per_s',
)  # fmt: skip


@dataclass(frozen=True)
class DataIdentity:
    """The identity of a training split; a checkpoint is resumed only with its own split.

    images: number of listed images, including damaged ones.
    """

    classes: tuple[str, ...]
    images: int
    fingerprint: str

    @classmethod
    def of(cls, dataset: ImageDataset) -> DataIdentity:
        """Return the identity of a dataset, before it is decoded into a store."""
        return cls(dataset.classes, len(dataset), fingerprint(dataset))


def change_of(before: Any, now: dict[str, Any]) -> str:
    """Describe the differences between the identities of a checkpoint and of this training.

    They come from `Trainer._identity`; that of a checkpoint may be from another version.
    """
    if before == now:
        return ''
    try:
        data, data_now = before['data'], now['data']
        settings, settings_now = before['settings'], now['settings']
        classes, classes_now = data['classes'], data_now['classes']
        images = data['images']
    except (TypeError, LookupError):
        return 'by another version of this package'
    if classes != classes_now:
        gone = [name for name in classes if name not in classes_now]
        new = [name for name in classes_now if name not in classes]
        return 'with other classes: ' + ', '.join(
            f'{some(names)} {what}' for names, what in ((gone, 'gone'), (new, 'new')) if names
        )
    if data != data_now:
        return (
            f'with other images: it had {images}, now there are {data_now["images"]}, and files '
            'were added, removed, renamed or changed since'
        )
    different = [name for name in settings_now if settings.get(name) != settings_now[name]]
    return 'with other settings: ' + ', '.join(
        f'{name} was {settings.get(name)}, now {settings_now[name]}' for name in different
    )


def forget_metrics_after(directory: Path, step: int) -> None:
    """Remove the rows that a killed run wrote to metrics.csv after its last checkpoint.

    They are written again, and so is an incomplete last row.
    """
    path = directory / METRICS_FILE
    if not path.is_file():
        return
    text = path.read_text(encoding='utf-8', errors='replace')
    header, *rows = text.splitlines(keepends=True) or ['']
    kept = [row for row in rows if row.endswith('\n') and _step(row) <= step]
    if not kept:
        path.unlink()
    elif kept != rows:
        write_text_atomically(path, ''.join([header, *kept]))


def _step(row: str) -> float:
    first = row.partition(',')[0]
    return int(first) if first.isdecimal() else math.inf


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """Return the rows of the run's metrics.csv; empty cells are NaN.

    Raise CheckpointError if it was changed, so that it cannot be read.
    """
    path = directory / METRICS_FILE
    if not path.is_file():
        return []
    try:
        with path.open(newline='', encoding='utf-8') as file:
            rows = [
                {name: float(value) if value else math.nan for name, value in row.items()}
                for row in csv.DictReader(file)
            ]
    except (ValueError, TypeError) as error:
        raise _damaged(path, str(error)) from None
    for column in COLUMNS:
        if rows and column not in rows[0]:
            raise _damaged(path, f'it has no column {column}')
    return rows


def _damaged(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f'{printable(path)} was changed and cannot be read ({problem}); restore it, or delete it '
        'to continue without the earlier epochs'
    )


def append_metrics(directory: Path, row: dict[str, Any]) -> None:
    """Append a row to the run's metrics.csv; write the header first if the file is new."""
    path = directory / METRICS_FILE
    is_new = not path.is_file()
    with path.open('a', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(row), lineterminator='\n')
        if is_new:
            writer.writeheader()
        writer.writerow(row)
