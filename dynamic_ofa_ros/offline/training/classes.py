"""Accuracy by class: a confusion matrix as a file and as a sentence."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.files import write_text_atomically

SHOWN_CLASSES = 3

Int64Array = npt.NDArray[np.int64]


def write_confusion(matrix: Int64Array, classes: Sequence[str], path: Path) -> None:
    """Write (classes, classes) counts, row true and column predicted, with recall, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['true \\ predicted', *classes, 'recall'])
    for name, row, recall in zip(classes, matrix, recalls(matrix), strict=True):
        writer.writerow([name, *row.tolist(), round(float(recall), 4)])
    write_text_atomically(path, text.getvalue())


def recalls(matrix: Int64Array) -> npt.NDArray[np.float64]:
    """Return (classes,) the share of each class that is recognised, NaN without images."""
    shares = np.full(len(matrix), np.nan)
    totals = matrix.sum(axis=1)
    np.divide(matrix.diagonal(), totals, out=shares, where=totals > 0)
    return shares


def describe_classes(matrix: Int64Array, classes: Sequence[str]) -> str:
    """Return the least accurate classes, and what each is mostly mistaken for."""
    recall = recalls(matrix)
    order = [int(index) for index in np.argsort(recall) if not np.isnan(recall[index])]
    parts = []
    for index in order[:SHOWN_CLASSES]:
        wrong = matrix[index].copy()
        wrong[index] = 0
        mistaken = f', often taken for {classes[int(wrong.argmax())]}' if wrong.any() else ''
        parts.append(f'{classes[index]} {100 * recall[index]:.1f} %{mistaken}')
    return 'least accurate: ' + '; '.join(parts)
