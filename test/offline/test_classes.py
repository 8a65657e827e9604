"""Accuracy by class."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dynamic_ofa_ros.offline.training.classes import (
    describe_classes,
    draw_confusion,
    recalls,
    write_confusion,
)

MATRIX = np.array([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
CLASSES = ('cat', 'dog', 'none, seen')


def test_the_least_accurate_class_comes_first_and_empty_classes_are_omitted() -> None:
    assert recalls(MATRIX).tolist()[:2] == [0.8, 1.0]
    words = describe_classes(MATRIX, CLASSES)
    assert words == 'least accurate: cat 80.0 %, often taken for dog; dog 100.0 %'


def test_the_file_has_counts_and_recall_of_each_class(tmp_path: Path) -> None:
    write_confusion(MATRIX, CLASSES, tmp_path / 'confusion.csv')
    lines = (tmp_path / 'confusion.csv').read_text().splitlines()
    assert lines[1] == 'cat,8,2,0,0.8'
    assert lines[3] == '"none, seen",0,0,0,nan'


def test_large_counts_are_dark_in_the_plot(tmp_path: Path) -> None:
    diagonal = np.diag([10] * 60)  # without names and counts: cells only
    counts = {}
    for name, matrix in (('right', diagonal), ('wrong', diagonal[:, ::-1])):
        draw_confusion(matrix, [f'class {i}' for i in range(60)], tmp_path / f'{name}.png')
        picture = cv2.imread(str(tmp_path / f'{name}.png'))
        assert picture is not None
        blue = (picture[..., 0].astype(int) - picture[..., 2]) > 60
        rows, columns = np.nonzero(blue)
        counts[name] = np.corrcoef(rows, columns)[0, 1]
    assert counts['right'] > 0.9
    assert counts['wrong'] < -0.9


@pytest.mark.parametrize('classes', [CLASSES, ('$a', 'b$_', 'c')])
def test_any_class_name_can_be_plotted(tmp_path: Path, classes: tuple[str, ...]) -> None:
    draw_confusion(MATRIX, classes, tmp_path / 'confusion.png')
    assert cv2.imread(str(tmp_path / 'confusion.png')) is not None
