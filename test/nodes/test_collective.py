"""Collective choices of one node; test_collective_end_to_end.py tests whole nodes."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from runtime_fakes import make_levels, make_profile
from std_msgs.msg import Header

from dynamic_ofa_ros.msg import ClassifierStatus
from dynamic_ofa_ros.nodes import conversions, qos
from dynamic_ofa_ros.nodes.collective import TOPIC, Collective
from dynamic_ofa_ros.runtime.coordination import Frame, Status
from dynamic_ofa_ros.runtime.host import device_identity
from dynamic_ofa_ros.runtime.manager import RuntimeManager

DEVICE = device_identity('cpu')
PLATFORM = make_profile((10, 20, 30)).platform
PEER = Status(
    '/peer',
    DEVICE,
    level=2,
    latencies_ms=(10.0, 20.0),
    accuracies=(0.6, 0.8),
    limit_ms=5.0,
    importance=50.0,
    interval_ms=30.0,
)


class Allowances:
    """A fake manager that records its allowances."""

    def __init__(self) -> None:
        self._manager = RuntimeManager(make_levels((0.6, 0.7, 0.8)), make_profile((10, 20, 30)))
        self.given = []
        self.status = self._manager.status

    def set_allowance(self, allowance):
        self.given.append(allowance)
        self._manager.set_allowance(allowance)
        self._manager.decide(time.perf_counter_ns())  # as for a frame


class FastMailbox:
    """A fake mailbox whose count of frames grows by three at each access."""

    def __init__(self) -> None:
        self._counts = iter(range(0, 100_000, 3))

    @property
    def received(self):
        return next(self._counts)


@pytest.fixture(scope='module')
def talk(domain):
    """All statuses on the topic, and a publisher for those of a peer."""
    topic = domain.listen(ClassifierStatus, TOPIC, qos.STATUS)
    publisher = domain.node.create_publisher(ClassifierStatus, TOPIC, qos.STATUS)
    return topic, publisher


@pytest.fixture
def collective(domain):
    manager = Allowances()
    worker = SimpleNamespace(mailbox=FastMailbox())
    part = Collective(domain.node, lambda: None)
    part.open(SimpleNamespace(manager=manager, worker=worker, devices={PLATFORM: DEVICE}))
    part.configure(is_on=True, importance=2.0)
    yield part, manager
    part.close()


def said_now(status):
    """Return the status of a peer whose frames are all late."""
    now_ns = time.perf_counter_ns()
    frames = tuple(Frame(now_ns - i * 30_000_000, 25.0, status.level) for i in range(8, 0, -1))
    told = replace(status, time_ns=now_ns, frames=frames)
    return conversions.classifier_status(Header(), told)


def said(topic, name):
    return [message for message in topic.messages if message.name == name]


def test_the_status_is_published_ten_times_a_second(domain, talk, collective):
    topic, _ = talk
    name = domain.node.get_fully_qualified_name()
    before = len(said(topic, name))
    message = domain.wait_until(lambda: said(topic, name)[before + 8 :], 'nine statuses')[-1]
    status = conversions.peer_status(message)
    assert (status.device, status.importance, status.level) == (DEVICE, 2.0, 3)
    assert status.latencies_ms == (10.0, 20.0, 30.0)
    assert status.is_sound(time.perf_counter_ns())
    assert status.interval_ms < 1000.0, 'frames are counted'


def test_a_more_important_peer_restricts_the_levels(domain, talk, collective):
    _, publisher = talk
    _, manager = collective
    domain.wait_until(lambda: len(manager.given) > 2, 'decisions')
    assert set(manager.given) == {None}
    allowance = domain.wait_until(
        lambda: (
            manager.given[-1] is not None and manager.given[-1].highest == 1 and manager.given[-1]
        ),
        'the lowest level',
        meanwhile=lambda: publisher.publish(said_now(PEER)),
    )
    assert 'makes room for /peer' in allowance.reason
    domain.wait_until(lambda: manager.given[-1] is None, 'the silent peer to be forgotten')


@pytest.mark.parametrize('changes', [{'importance': -1.0}, {'device': 'elsewhere/cpu'}])
def test_peers_that_are_invalid_or_on_other_devices_are_ignored(domain, talk, collective, changes):
    topic, publisher = talk
    _, manager = collective
    peer = replace(PEER, name=f'/peer_{next(iter(changes))}', **changes)
    domain.wait_until(
        lambda: len(said(topic, peer.name)) > 5 and len(manager.given) > 10,
        'messages and decisions',
        meanwhile=lambda: publisher.publish(said_now(peer)),
    )
    assert set(manager.given) == {None}


def test_without_coordination_no_status_is_published_and_all_levels_are_allowed(
    domain, talk, collective
):
    part, manager = collective
    domain.wait_until(lambda: len(manager.given) > 1, 'decisions')
    part.configure(is_on=False, importance=2.0)
    count = len(manager.given)
    assert manager.given[-1] is None
    topic, publisher = talk
    domain.wait_until(
        lambda: len(said(topic, '/late')) > 20,
        'messages',
        meanwhile=lambda: publisher.publish(said_now(replace(PEER, name='/late'))),
    )
    assert len(manager.given) == count
