"""Every benchmark can be imported with the present code."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / 'benchmarks'
MODULES = sorted(path.stem for path in FOLDER.glob('*.py') if path.stem != '__init__')


def test_the_benchmarks_are_found() -> None:
    assert {'engines', 'node', 'monitor', 'policies'} <= set(MODULES)


@pytest.mark.parametrize('name', MODULES)
def test_a_benchmark_can_be_imported(name: str) -> None:
    try:
        importlib.import_module(f'benchmarks.{name}')
    except ModuleNotFoundError as error:  # an extra is not installed
        if error.name and error.name.split('.')[0] in ('dynamic_ofa_ros', 'benchmarks'):
            raise
        pytest.skip(str(error))
