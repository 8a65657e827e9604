"""Training curves as a plot, and as TensorBoard files if TensorBoard is installed."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.offline.training.run_folder import append_metrics, read_metrics

logger = logging.getLogger(__name__)

CURVES_FILE, TENSORBOARD_FOLDER = 'curves.png', 'tensorboard'
LOSSES = {'loss_largest': 'largest', 'loss_smallest': 'smallest'}
ACCURACIES = {'held_out_top1_largest': 'largest', 'held_out_top1_smallest': 'smallest'}


class Curves:
    """Writes a row of metrics after each epoch to metrics.csv, TensorBoard and curves.png.

    step: where the training resumes; later rows of a killed run are removed.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self._directory = directory
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.info('no TensorBoard files: pip install tensorboard to write them')
        else:
            self._writer = SummaryWriter(str(directory / TENSORBOARD_FOLDER), purge_step=step + 1)

    def append(self, row: Mapping[str, Any]) -> None:
        """Append one row; its `step` is the number of training steps done."""
        append_metrics(self._directory, dict(row))
        draw_curves(read_metrics(self._directory), self._directory / CURVES_FILE)
        if self._writer is None:
            return
        for name, value in row.items():
            if name != 'step' and value is not None:
                self._writer.add_scalar(name, value, row['step'])
        self._writer.flush()

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._writer is not None:
            self._writer.close()


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Plot losses and held-out accuracies over epochs; do nothing if matplotlib is missing."""
    try:
        from dynamic_ofa_ros.plotting.style import (
            INK,
            LIMIT,
            TEXT_SIZE,
            new_figure,
            save_figure,
            style_axes,
        )

        figure = new_figure(3.2)
    except ImportError:
        return
    figure.subplots_adjust(left=0.08, right=0.98, top=0.9, bottom=0.16, wspace=0.25)
    epochs = [row['epoch'] for row in rows]
    panels = (('training loss', LOSSES, 1.0), ('held-out top-1, %', ACCURACIES, 100.0))
    for axes, (title, columns, scale) in zip(figure.subplots(1, 2), panels, strict=True):
        style_axes(axes)
        for (column, name), colour in zip(columns.items(), (INK, LIMIT), strict=True):
            values = [scale * row[column] for row in rows]
            axes.plot(epochs, values, 'o-', color=colour, markersize=3, linewidth=1.2, label=name)
        axes.set_title(title, fontsize=TEXT_SIZE + 1, loc='left')
        axes.set_xlabel('epoch')
        axes.legend(fontsize=TEXT_SIZE, frameon=False)
    save_figure(figure, path)


def best_row(rows: Sequence[Mapping[str, float]]) -> Mapping[str, float] | None:
    """Return the row with the highest sum of held-out accuracies; the first of equal ones."""
    return max(rows, key=_score, default=None)


def epochs_without_progress(rows: Sequence[Mapping[str, float]]) -> int:
    """Return the number of epochs of the whole supernet since the best one."""
    of_all = [row for row in rows if not math.isnan(row['loss_smallest'])]
    best = best_row(of_all)
    return 0 if best is None else sum(row['step'] > best['step'] for row in of_all)


def _score(row: Mapping[str, float]) -> float:
    return sum(row[column] for column in ACCURACIES)
