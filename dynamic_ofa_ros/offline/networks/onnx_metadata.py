"""The metadata of ONNX files: class names, preprocessing and task."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family import CHANNELS, INTERPOLATIONS, RESIZES

LABELS_KEY = 'dynamic_ofa.labels'
PREPROCESSING_KEY = 'dynamic_ofa.preprocessing'
MAX_CHARACTERS = 2**20

ULTRALYTICS = {'mean': [0.0] * 3, 'std': [1.0] * 3, 'crop_fraction': 1.0}
"""Ultralytics classifiers use values in [0, 1] and the whole shorter side."""

_UNREADABLE = (ValueError, SyntaxError, LookupError, TypeError, MemoryError, RecursionError)


def check_task(metadata: Mapping[str, str], name: str) -> None:
    """Raise FamilyError if the file states another task."""
    task = metadata.get('task', 'classify')
    if task != 'classify':
        raise FamilyError(
            f"{name} is for '{task}', not for classification; with Ultralytics, export a "
            "classification model ('-cls')"
        )


def read_labels(metadata: Mapping[str, str], classes: int) -> tuple[tuple[str, ...], list[str]]:
    """Return the class names, or none if they are not valid, and notes.

    They are a JSON list under our own key, or, as written by Ultralytics, a Python literal
    {0: 'name', ...} under `names`.
    """
    own, ultralytics = metadata.get(LABELS_KEY), metadata.get('names')
    text = own or ultralytics
    if not text:
        return (), []
    try:
        if len(text) > MAX_CHARACTERS:
            raise ValueError
        stated = json.loads(text) if own else ast.literal_eval(text)
        if isinstance(stated, dict):
            stated = [stated[index] for index in range(len(stated))]
        labels = tuple(str(label).strip() for label in stated)
    except _UNREADABLE:
        return (), ['the class names in the file cannot be read: ignored']
    if len(labels) != classes:
        return (), [f'the file has {len(labels)} class names for {classes} classes: ignored']
    if not all(label.isprintable() and label for label in labels):
        return (), ['class names in the file are empty or not printable: ignored']
    return labels, []


def read_preprocessing(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return the fields of a family's preprocessing that the file states."""
    text = metadata.get(PREPROCESSING_KEY)
    if text is None:
        return dict(ULTRALYTICS) if metadata.get('author') == 'Ultralytics' else {}
    try:
        facts = json.loads(text)
    except _UNREADABLE:
        facts = None
    if not isinstance(facts, dict) or not all(
        key in _ALLOWED and _ALLOWED[key](value) for key, value in facts.items()
    ):
        raise FamilyError(
            f'{PREPROCESSING_KEY} in {name} is {text[:80]!r}; it must be a JSON mapping of mean '
            'and std (three numbers, of values in [0, 1]), crop_fraction (0 to 1), interpolation '
            f'({" or ".join(INTERPOLATIONS)}), resize ({", ".join(RESIZES)}) and channels '
            f'({" or ".join(CHANNELS)})'
        )
    return facts


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _are_three(values: object) -> bool:
    return isinstance(values, Sequence) and len(values) == 3 and all(map(_is_number, values))


_ALLOWED: dict[str, Any] = {
    'mean': _are_three,
    'std': lambda values: _are_three(values) and min(values) > 0,
    'crop_fraction': lambda value: _is_number(value) and 0 < value <= 1,
    'interpolation': lambda value: value in INTERPOLATIONS,
    'resize': lambda value: value in RESIZES,
    'channels': lambda value: value in CHANNELS,
}
