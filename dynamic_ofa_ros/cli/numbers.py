"""Types of options: numbers in a range."""

from __future__ import annotations

import argparse
from collections.abc import Callable

LARGEST_SEED = 2**63 - 1
MOST_THREADS = 1024


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a type for argparse: a whole number from `least` to `most`."""
    range_text = f'{least} or more' if most is None else f'from {least} to {most}'

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f'is {text!r}; give a whole number, {range_text}')
        return value

    return parse


seed = whole_number(0, LARGEST_SEED)
