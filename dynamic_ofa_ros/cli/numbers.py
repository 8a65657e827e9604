"""Types of options: numbers in a range, and lists of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from dynamic_ofa_ros.family import MAX_RESOLUTION

T = TypeVar('T')

LARGEST_SEED = 2**63 - 1
MOST_THREADS = 1024
MOST_WORKERS = 256
MOST_IMAGES = 10_000_000
MOST_SCENES = 1_000_000
MOST_SUBNETS = 10_000
MOST_EVALUATIONS = 1_000_000
LARGEST = 1e9
"""Bound of milliseconds, seconds and rates."""

# The widest published network has a width of 1.3.
WIDEST = 4.0
SMALLEST_RESOLUTION = 32
# Equal to supernet.batch_norm.FEWEST_IMAGES and offline.accuracy.predictor_fit.FEWEST_PAIRS, whose
# modules import PyTorch and scikit-learn.
FEWEST_CALIBRATION_IMAGES = 2
FEWEST_PAIRS = 20
LONGEST_SHOWN = 40


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return a type for argparse: a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise wrong(text, f'a whole number, from {least} to {most}')
        return value

    return parse


def number(
    least: float, most: float, *, above: bool = False, below: bool = False
) -> Callable[[str], float]:
    """Return a type for argparse: a number from `least` to `most`.

    above, below: whether `least`, `most` are themselves excluded.
    """
    low = f'above {least:g} and' if above else f'from {least:g} to'
    high = f'below {most:g}' if below else f'at most {most:g}' if above else f'{most:g}'
    expected = f'a number {low} {high}'

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise wrong(text, expected) from None
        if not least <= value <= most or (above and value == least) or (below and value == most):
            raise wrong(text, expected)
        return value

    return parse


def several(parse: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Return a type for argparse: values separated by commas, each of the type `parse`."""
    return lambda text: tuple(parse(part) for part in text.split(','))


def resolutions(most: int = MAX_RESOLUTION) -> Callable[[str], tuple[int, ...]]:
    """Return a type for argparse: input sizes in pixels, which are sorted and made distinct."""
    parse = several(whole_number(SMALLEST_RESOLUTION, most))
    return lambda text: tuple(sorted(set(parse(text))))


def wrong(text: str, expected: str) -> argparse.ArgumentTypeError:
    """Return the error of an option whose value is `text`."""
    shown = text if len(text) <= LONGEST_SHOWN else f'{text[:LONGEST_SHOWN]}...'
    return argparse.ArgumentTypeError(f'is {shown!r}; give {expected}')


seed = whole_number(0, LARGEST_SEED)
