"""Executors that wait while a transition on another thread destroys entities."""

import pytest
from rclpy.exceptions import InvalidHandle
from rclpy.executors import SingleThreadedExecutor

from dynamic_ofa_ros.nodes.executors import COLLECT_TRIES, NodeExecutor


class Breaking:
    """A fake of rclpy's collection of entities; raises InvalidHandle `times` times."""

    def __init__(self, times):
        self.left = times

    def __call__(self, *_, **__):
        if self.left:
            self.left -= 1
            raise InvalidHandle('destruction was requested')
        return 'ready'


@pytest.fixture
def executor(domain):
    executor = NodeExecutor(context=domain.context)
    yield executor
    executor.shutdown()


def test_entities_destroyed_during_the_collection_are_left_out(executor, monkeypatch):
    monkeypatch.setattr(SingleThreadedExecutor, 'wait_for_ready_callbacks', Breaking(3))
    assert executor.wait_for_ready_callbacks() == 'ready'


def test_a_permanently_invalid_entity_raises_an_error(executor, monkeypatch):
    breaking = Breaking(COLLECT_TRIES)
    monkeypatch.setattr(SingleThreadedExecutor, 'wait_for_ready_callbacks', breaking)
    with pytest.raises(InvalidHandle):
        executor.wait_for_ready_callbacks()
