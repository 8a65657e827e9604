from __future__ import annotations

import pytest
from ros_harness import ros


@pytest.fixture(scope='module')
def domain(tmp_path_factory):
    """A private domain with a node of the test's own."""
    with ros(tmp_path_factory.mktemp('ros')) as session:
        yield session
