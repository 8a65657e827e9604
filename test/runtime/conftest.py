"""Fixtures for the tests of the runtime: a small random family and a fake engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import make_random_family

from dynamic_ofa_ros.family import Family


@pytest.fixture(scope='session')
def random_family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family.load(make_random_family(tmp_path_factory.mktemp('families') / 'random'))


@pytest.fixture(scope='session')
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a build cache shared by all tests that do not test the building."""
    return tmp_path_factory.mktemp('cache')
