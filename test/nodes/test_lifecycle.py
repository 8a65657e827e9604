"""The lifecycle of classifier_node: transitions, services during transitions, memory leaks."""

from __future__ import annotations

import shutil

import numpy as np
import psutil
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Classification

from dynamic_ofa_ros.nodes import conversions

NODE = '/managed/classifier'
TIMEOUT_S = 60.0
PASSING = ('configuring', 'activating', 'deactivating', 'cleaningup')
CYCLES = 10
MAX_GROWTH_BYTES = 40 * 2**20
"""Permitted growth of the resident memory in ten cycles, as allocators keep freed memory."""


def state_of(ros, node):
    return ros.call(GetState, f'{node}/get_state', GetState.Request()).current_state.label


class Managed:
    """A classifier that is not configured."""

    def __init__(self, domain, family, environment=None):
        self.ros = domain
        self.labels = domain.listen(Classification, '/managed/classification')
        self.diagnostics = domain.listen(DiagnosticArray, '/diagnostics')
        self.images = domain.node.create_publisher(Image, '/managed/image_raw', 5)
        domain.environment.update(environment or {})
        self.process = domain.start(
            'classifier_node',
            {'family': family, 'engine': 'onnxruntime', 'device': 'cpu', 'autostart': False},
            arguments=('-r', '__ns:=/managed'),
        )

    def change(self, transition):
        """Request a transition; return the future of its response."""
        client = self.ros.node.create_client(ChangeState, f'{NODE}/change_state')
        self.ros.wait_until(client.service_is_ready, 'the lifecycle services', TIMEOUT_S)
        request = ChangeState.Request(transition=Transition(id=transition))
        return client.call_async(request)

    def changed(self, transition):
        """Request a transition, wait for its end, and return whether it succeeded."""
        before, future = self.state, self.change(transition)
        self.ros.wait_until(
            lambda: future.done() or self.state not in (before, *PASSING),
            f'transition {transition} from {before}',
            TIMEOUT_S,
        )
        return not future.done() or future.result().success

    @property
    def state(self):
        return state_of(self.ros, NODE)

    def feed(self):
        header = Header(stamp=Time(sec=1), frame_id='camera')
        self.images.publish(
            conversions.image_message(np.zeros((48, 64, 3), np.uint8), header, 'rgb8')
        )

    def bring_to(self, wanted):
        """Change to 'unconfigured' or 'inactive' from any state."""
        if self.state == 'active':
            assert self.changed(Transition.TRANSITION_DEACTIVATE)
        if self.state == 'inactive' and wanted == 'unconfigured':
            assert self.changed(Transition.TRANSITION_CLEANUP)
        if self.state == 'unconfigured' and wanted == 'inactive':
            assert self.changed(Transition.TRANSITION_CONFIGURE)
        assert self.state == wanted

    def wait_for_label(self):
        self.labels.messages.clear()
        self.ros.wait_until(lambda: self.labels.last, 'a label', meanwhile=self.feed)


@pytest.fixture(scope='module')
def managed(domain, family, tmp_path_factory):
    cache = tmp_path_factory.mktemp('cache')
    node = Managed(domain, family, {'DYNAMIC_OFA_CACHE': str(cache)})
    node.cache = cache
    yield node
    assert node.process.stop() == 0, node.process.output()
    assert 'Traceback' not in node.process.output()


def test_everything_else_answers_while_it_is_configured(managed):
    managed.bring_to('unconfigured')
    for path in managed.cache.iterdir():  # with an empty cache, configuring takes seconds
        shutil.rmtree(path)
    assert not managed.changed(Transition.TRANSITION_ACTIVATE)  # rejected; the node keeps running
    managed.ros.wait_until(
        lambda: (
            'transition rejected: 3 is not possible in the state unconfigured [1]; '
            'possible: configure [1], shutdown [5]' in managed.process.output()
        ),
        'the reason',
    )
    managed.diagnostics.messages.clear()
    future = managed.change(Transition.TRANSITION_CONFIGURE)
    answers, states = 0, []
    while not future.done():
        states.append(managed.state)
        result = managed.ros.set_parameter(NODE, 'constraints.max_latency_ms', 50.0 + answers)
        assert result.successful, result.reason
        answers += not future.done()
    assert future.result().success
    assert answers >= 3
    order = ['unconfigured', 'configuring', 'inactive']  # the first before the request arrives
    assert 'configuring' in states
    assert states == sorted(states, key=order.index)
    assert managed.state == 'inactive'
    messages = [
        status.message for array in managed.diagnostics.messages for status in array.status
    ]
    assert any(message.startswith('configuring: ') for message in messages), messages
    # Parameters that were set meanwhile are in effect.
    assert managed.ros.get_parameter(NODE, 'constraints.max_latency_ms') >= 50.0


def test_an_inactive_node_expects_no_images(managed):
    managed.bring_to('unconfigured')
    assert managed.changed(Transition.TRANSITION_CONFIGURE)
    managed.diagnostics.messages.clear()
    managed.ros.wait_until(lambda: len(managed.diagnostics.messages) >= 4, 'diagnostics')
    inputs = [
        status
        for array in managed.diagnostics.messages
        for status in array.status
        if status.name.endswith('Input')
    ]
    assert {status.message for status in inputs} == {'not active'}


def test_it_labels_images_only_while_active(managed):
    managed.bring_to('inactive')
    managed.ros.wait_until(
        lambda: managed.images.get_subscription_count() == 0, 'no subscription yet'
    )
    assert managed.changed(Transition.TRANSITION_ACTIVATE)
    managed.wait_for_label()
    assert managed.changed(Transition.TRANSITION_DEACTIVATE)
    managed.ros.wait_until(
        lambda: managed.images.get_subscription_count() == 0, 'the end of the subscription'
    )
    assert managed.changed(Transition.TRANSITION_ACTIVATE)
    managed.wait_for_label()
    assert managed.changed(Transition.TRANSITION_DEACTIVATE)
    assert managed.changed(Transition.TRANSITION_CLEANUP)
    assert managed.state == 'unconfigured'


def test_ten_cycles_leak_neither_memory_nor_threads(managed):
    managed.bring_to('unconfigured')
    process = psutil.Process(managed.process.process.pid)

    def cycle():
        assert managed.changed(Transition.TRANSITION_CONFIGURE)
        assert managed.changed(Transition.TRANSITION_ACTIVATE)
        managed.wait_for_label()
        assert managed.changed(Transition.TRANSITION_DEACTIVATE)
        assert managed.changed(Transition.TRANSITION_CLEANUP)

    for _ in range(2):  # memory that is allocated once
        cycle()
    threads, memory, files = process.num_threads(), process.memory_info().rss, process.num_fds()
    for _ in range(CYCLES):
        cycle()
    assert process.num_threads() <= threads
    assert process.num_fds() <= files + 2
    assert process.memory_info().rss < memory + MAX_GROWTH_BYTES


@pytest.mark.parametrize(
    ('path', 'sentence'),
    [
        ('/nowhere', 'there is no family at /nowhere'),
        ('x' * 300, f'{"x" * 300}: File name too long'),
        ('~nobody_of_this_name/x', 'the home folder is unknown: set HOME'),
    ],
)
def test_a_family_that_is_not_there_fails_the_transition_and_not_the_node(domain, path, sentence):
    node = domain.start(
        'classifier_node',
        {'family': path, 'autostart': False},
        arguments=('-r', '__ns:=/lost'),
    )
    service = '/lost/classifier/change_state'
    configure = Transition(id=Transition.TRANSITION_CONFIGURE)
    response = domain.call(ChangeState, service, ChangeState.Request(transition=configure))
    assert not response.success
    assert state_of(domain, '/lost/classifier') == 'unconfigured'
    assert sentence in node.output()
    assert 'Traceback' not in node.output()
    shutdown = Transition(id=Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    domain.call(ChangeState, service, ChangeState.Request(transition=shutdown))
    assert state_of(domain, '/lost/classifier') == 'finalized'
    assert node.stop() == 0, node.output()


def test_an_error_during_the_autostart_is_logged_once_and_ends_the_node(domain):
    node = domain.start(
        'classifier_node', {'family': 'nonsense'}, arguments=('-r', '__ns:=/unknown')
    )
    assert node.wait(TIMEOUT_S) == 2
    (line,) = (line for line in node.output().splitlines() if 'no family' in line)
    assert line.startswith('[FATAL]')
    assert '[unknown.classifier]: there is no family at nonsense' in line


def test_parameters_are_checked_before_engines_are_built(domain, family, tmp_path):
    domain.environment['DYNAMIC_OFA_CACHE'] = str(tmp_path)
    node = domain.start('classifier_node', {'family': family, 'top_k': 0})
    assert node.wait() == 2
    assert 'top_k is 0; it must lie in [1, 1000]' in node.output()
    assert 'loading' not in node.output()


def test_a_level_that_the_family_lacks_is_refused_at_the_start(domain, family):
    node = domain.start('classifier_node', {'family': family, 'manager.fixed_level': 3})
    assert node.wait(TIMEOUT_S) == 2
    assert node.output().count('manager.fixed_level is 3; it must lie in [0, 2]') == 1
    assert 'Traceback' not in node.output()


@pytest.mark.parametrize(
    ('parameter', 'arguments', 'meant'),
    [
        ('constraints.max_latency', (), 'constraints.max_latency_ms'),
        (
            'qos_overrides./image_raw.subscription.reliability',
            ('-r', 'image_raw:=/camera/image_raw'),
            'qos_overrides./camera/image_raw.subscription.reliability',
        ),
        (
            'qos_overrides./typo/image_raw.subscription.depth',
            (),
            'qos_overrides./typo/image_raw.subscription.reliability',
        ),
    ],
)
def test_an_unknown_parameter_is_warned_of(domain, family, parameter, arguments, meant):
    node = domain.start(
        'classifier_node',
        {'family': family, 'autostart': False, parameter: 20.0},
        arguments=('-r', '__ns:=/typo', *arguments),
    )
    warning = f'unknown parameter {parameter} is ignored; did you mean {meant}?'
    domain.wait_until(lambda: warning in node.output(), 'the warning')
    hint = 'waiting for a lifecycle manager, or for: ros2 lifecycle set /typo/classifier configure'
    domain.wait_until(lambda: hint in node.output(), 'the hint')
    assert node.stop() == 0, node.output()


def test_a_signal_during_configuration_ends_it(domain, family, tmp_path):
    domain.environment['DYNAMIC_OFA_CACHE'] = str(tmp_path)
    node = domain.start('classifier_node', {'family': family}, arguments=('-r', '__ns:=/early'))
    domain.wait_until(lambda: 'loading family' in node.output(), 'the start', TIMEOUT_S)
    assert node.stop(timeout_s=TIMEOUT_S) == 0, node.output()
    assert 'Traceback' not in node.output()
