from __future__ import annotations

import pytest
from families import make_random_family
from ros_harness import ros


@pytest.fixture(scope='module')
def domain(tmp_path_factory):
    """A private domain with a node of the test's own."""
    with ros(tmp_path_factory.mktemp('ros')) as session:
        yield session


@pytest.fixture(scope='module')
def family(tmp_path_factory):
    """The folder of a family of two levels with random weights."""
    return make_random_family(tmp_path_factory.mktemp('family'), levels=2)
