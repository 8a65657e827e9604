"""The bond with nav2's lifecycle manager: heartbeats, their end, and a missing package."""

from __future__ import annotations

import importlib.util
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
from families import make_random_family
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from std_msgs.msg import Header

from dynamic_ofa_ros.errors import MissingPackageError
from dynamic_ofa_ros.nodes import bond
from dynamic_ofa_ros.nodes.bond import Bond

HAS_BOND = importlib.util.find_spec('bond') is not None
NODE = '/bound/classifier'
PERIODS = 20
TIMEOUT_S = 60.0


class FakeNode:
    """A fake node that stores the entities of a bond; the test calls their callbacks."""

    def __init__(self):
        self.published, self.timer, self.on_status, self.topics = [], None, None, []

    def get_name(self):
        return 'classifier'

    def get_clock(self):
        return SimpleNamespace(now=lambda: SimpleNamespace(to_msg=lambda: None))

    def create_publisher(self, kind, topic, qos):
        self.topics.append(topic)
        return topic

    def create_subscription(self, kind, topic, callback, qos):
        self.topics.append(topic)
        self.on_status = callback

    def create_timer(self, period_s, callback, clock):
        self.timer = callback
        return callback

    def destroy_timer(self, timer):
        self.timer = None


@pytest.fixture
def node(monkeypatch):
    message = ModuleType('bond.msg')
    message.Status = SimpleNamespace
    monkeypatch.setitem(sys.modules, 'bond', ModuleType('bond'))
    monkeypatch.setitem(sys.modules, 'bond.msg', message)
    monkeypatch.setattr(bond.conversions, 'stamped_header', lambda clock: Header())
    return FakeNode()


def make_bond(node):
    return Bond(node, lambda publisher, message: node.published.append(message))


def other(active, name='classifier'):
    return SimpleNamespace(id=name, instance_id='of the manager', active=active)


def test_heartbeats_are_sent_until_the_bond_is_closed(node):
    one = make_bond(node)
    one.close()
    assert node.published == []
    one.open()
    for _ in range(3):
        node.timer()
    late = node.timer
    one.close()
    one.close()
    late()  # a callback that the executor had already taken
    assert [message.active for message in node.published] == [True, True, True, False]
    assert {message.id for message in node.published} == {'classifier'}
    assert len({message.instance_id for message in node.published}) == 1
    assert node.published[0].instance_id


def test_a_bond_that_is_opened_again_is_a_new_instance_on_the_same_topic(node):
    one = make_bond(node)
    for _ in range(2):
        one.open()
        node.timer()
        one.close()
    assert len({message.instance_id for message in node.published}) == 2
    assert node.topics == ['bond', 'bond']  # one publisher, one subscription


def test_only_the_end_of_the_other_side_is_acknowledged(node):
    one = make_bond(node)
    one.open()
    node.on_status(other(active=True))
    node.on_status(other(active=False, name='planner'))
    node.on_status(SimpleNamespace(**{**vars(other(active=False)), 'instance_id': one._instance}))
    assert node.published == []
    node.on_status(other(active=False))
    assert [message.active for message in node.published] == [False]
    node.timer()  # for the next bond of the manager
    assert node.published[-1].active
    one.close()
    node.on_status(other(active=False))
    assert len(node.published) == 3


def test_a_missing_bond_package_is_reported_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'bond.msg', None)
    with pytest.raises(MissingPackageError, match='the package bond is missing: apt install'):
        Bond(FakeNode(), print).check()


def change(ros, transition):
    """Request a transition, a second time if necessary, and return the resulting state."""
    request = ChangeState.Request(transition=Transition(id=transition))
    ros.call(ChangeState, f'{NODE}/change_state', request, TIMEOUT_S)
    return ros.call(GetState, f'{NODE}/get_state', GetState.Request()).current_state.label


@pytest.fixture
def family(tmp_path):
    return make_random_family(tmp_path / 'family', levels=2)


@pytest.mark.skipif(HAS_BOND, reason='the package bond is there')
def test_without_the_package_configuring_fails_before_engines_are_built(domain, family):
    node = domain.start_classifier(family, 'bound', autostart=False, bond=True)
    assert change(domain, Transition.TRANSITION_CONFIGURE) == 'unconfigured'
    assert 'the package bond is missing' in node.output()
    assert 'loading' not in node.output()
    assert node.stop() == 0, node.output()


@pytest.mark.skipif(not HAS_BOND, reason='the package bond is not installed')
def test_a_manager_sees_the_bond_while_the_node_is_active(domain, family):
    from bond.msg import Status

    topic = domain.listen(Status, '/bound/bond')
    node = domain.start_classifier(family, 'bound', autostart=False, bond=True)
    assert change(domain, Transition.TRANSITION_CONFIGURE) == 'inactive'
    assert topic.messages == []
    assert change(domain, Transition.TRANSITION_ACTIVATE) == 'active'
    domain.wait_until(lambda: topic.messages, 'the first heartbeat')
    begin_s, before = time.monotonic(), len(topic.messages)
    domain.wait_until(lambda: len(topic.messages) >= before + PERIODS, 'heartbeats')
    period_s = (time.monotonic() - begin_s) / PERIODS
    assert 0.5 < period_s / bond.HEARTBEAT_PERIOD_S < 3.0
    assert all(message.active and message.id == 'classifier' for message in topic.messages)
    assert change(domain, Transition.TRANSITION_DEACTIVATE) == 'inactive'
    domain.wait_until(lambda: not topic.last.active, 'the end of the bond')
    after = len(topic.messages)
    assert change(domain, Transition.TRANSITION_CLEANUP) == 'unconfigured'
    assert len(topic.messages) == after
    assert node.stop() == 0, node.output()
