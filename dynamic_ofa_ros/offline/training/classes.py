"""Accuracy by class: the confusion matrix as a table, a plot, and a sentence."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.files import write_text_atomically

SHOWN_CLASSES = 3
# More names and counts would overlap in a plot.
MOST_NAMES, MOST_COUNTS = 50, 20

Int64Array = npt.NDArray[np.int64]


def write_confusion(matrix: Int64Array, classes: Sequence[str], path: Path) -> None:
    """Write (classes, classes) counts, row true and column predicted, with recall, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['true \\ predicted', *classes, 'recall'])
    for name, row, recall in zip(classes, matrix, recalls(matrix), strict=True):
        writer.writerow([name, *row.tolist(), round(float(recall), 4)])
    write_text_atomically(path, text.getvalue())


def draw_confusion(matrix: Int64Array, classes: Sequence[str], path: Path) -> None:
    """Plot the matrix as fractions of each true class; do nothing if matplotlib is missing.

    With up to MOST_COUNTS classes, every non-empty cell shows its count.
    """
    try:
        from dynamic_ofa_ros.plotting.style import TEXT_SIZE, new_figure, save_figure

        figure = new_figure(8.0)
    except ImportError:
        return
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap='Blues', vmin=0.0, vmax=1.0)
    axes.set_xlabel('predicted', fontsize=TEXT_SIZE + 1)
    axes.set_ylabel('true', fontsize=TEXT_SIZE + 1)
    is_named = len(classes) <= MOST_NAMES
    ticks, names = (range(len(classes)), classes) if is_named else ((), ())
    # A dollar sign would start a formula.
    texts = [name.replace('$', r'\$') for name in names]
    axes.set_xticks(ticks, texts, fontsize=TEXT_SIZE, rotation=90)
    axes.set_yticks(ticks, texts, fontsize=TEXT_SIZE)
    if len(classes) <= MOST_COUNTS:
        for (row, column), count in np.ndenumerate(matrix):
            colour = 'white' if shares[row, column] > 0.5 else 'black'
            text = str(count) if count else ''
            axes.text(
                column, row, text, ha='center', va='center', fontsize=TEXT_SIZE, color=colour
            )
    figure.tight_layout()
    save_figure(figure, path)


def recalls(matrix: Int64Array) -> npt.NDArray[np.float64]:
    """Return the (classes,) recall of each class, NaN without images."""
    shares = np.full(len(matrix), np.nan)
    totals = matrix.sum(axis=1)
    np.divide(matrix.diagonal(), totals, out=shares, where=totals > 0)
    return shares


def describe_classes(matrix: Int64Array, classes: Sequence[str]) -> str:
    """Describe the least accurate classes, and with which class each is confused most."""
    recall = recalls(matrix)
    order = [int(index) for index in np.argsort(recall) if not np.isnan(recall[index])]
    parts = []
    for index in order[:SHOWN_CLASSES]:
        wrong = matrix[index].copy()
        wrong[index] = 0
        mistaken = f', often taken for {classes[int(wrong.argmax())]}' if wrong.any() else ''
        parts.append(f'{classes[index]} {100 * recall[index]:.1f} %{mistaken}')
    return 'least accurate: ' + '; '.join(parts)
