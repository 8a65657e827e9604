"""Accuracy by class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dynamic_ofa_ros.offline.training.classes import describe_classes, recalls, write_confusion

MATRIX = np.array([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
CLASSES = ('cat', 'dog', 'none, seen')


def test_the_least_accurate_class_comes_first_and_empty_ones_not_at_all() -> None:
    assert recalls(MATRIX).tolist()[:2] == [0.8, 1.0]
    words = describe_classes(MATRIX, CLASSES)
    assert words == 'least accurate: cat 80.0 %, often taken for dog; dog 100.0 %'


def test_the_file_has_counts_and_recall_of_each_class(tmp_path: Path) -> None:
    write_confusion(MATRIX, CLASSES, tmp_path / 'confusion.csv')
    lines = (tmp_path / 'confusion.csv').read_text().splitlines()
    assert lines[1] == 'cat,8,2,0,0.8'
    assert lines[3] == '"none, seen",0,0,0,nan'
