"""Every benchmark can be imported with the present code."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / 'benchmarks'
OPTIONAL = ('sklearn', 'tornado')
"""Packages that only one benchmark requires."""

MODULES = sorted(path.stem for path in FOLDER.glob('*.py') if path.stem != '__init__')


def test_the_benchmarks_are_found() -> None:
    assert {'engines', 'node', 'monitor', 'policies'} <= set(MODULES)


@pytest.mark.parametrize('name', MODULES)
def test_a_benchmark_can_be_imported(name: str) -> None:
    try:
        importlib.import_module(f'benchmarks.{name}')
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(str(error))
