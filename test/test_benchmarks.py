"""Every benchmark can be run with the present code."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / 'benchmarks'
MODULES = sorted(path.stem for path in FOLDER.glob('*.py') if path.stem != '__init__')


def test_all_are_found() -> None:
    assert {'engines', 'node', 'monitor', 'policies'} <= set(MODULES)


@pytest.mark.parametrize('name', MODULES)
def test_imports(name: str) -> None:
    try:
        importlib.import_module(f'benchmarks.{name}')
    except ModuleNotFoundError as error:  # an extra that is not installed here
        if error.name and error.name.split('.')[0] in ('dynamic_ofa_ros', 'benchmarks'):
            raise
        pytest.skip(str(error))
