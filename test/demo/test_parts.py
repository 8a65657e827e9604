import os
import socket

import pytest

from dynamic_ofa_ros.demo import parts as module
from dynamic_ofa_ros.demo.parts import Parts


class FakeSupervisor:
    """Notes what would be started."""

    def __init__(self, folder):
        self.folder = folder
        self.started = {}

    def start(self, name, command, env=None, cpus=()):
        self.started[name] = (list(command), dict(env or {}), set(cpus))

    def log_path(self, name):
        return self.folder / f'{name}.log'


@pytest.fixture
def supervisor(tmp_path):
    return FakeSupervisor(tmp_path)


@pytest.fixture
def stand_ins(monkeypatch):
    monkeypatch.setattr(module, 'real_ros_is_available', lambda: False)
    monkeypatch.setenv('DYNAMIC_OFA_ROUTER', 'elsewhere:1')


def ros_parameters(command):
    """Return the parameters of a node's command line."""
    values = [command[i + 1] for i, word in enumerate(command) if word == '-p']
    return dict(value.split(':=', 1) for value in values)


def test_a_taken_port_is_left_to_its_owner(supervisor, stand_ins):
    with socket.socket() as owner:
        owner.bind(('127.0.0.1', 0))
        owner.listen()
        parts = Parts(supervisor, 'signs', 30.0)
        parts._port = taken = owner.getsockname()[1]
        parts.start_router()
    command = supervisor.started['router'][0]
    assert command[-2] == '--port'
    assert int(command[-1]) != taken
    assert f'DYNAMIC_OFA_ROUTER=127.0.0.1:{command[-1]} ' in parts.set_limit_command(2.0)


def test_the_router_is_ready_when_it_says_so(supervisor, stand_ins):
    parts = Parts(supervisor, 'signs', 30.0)
    assert not parts.router_is_ready()
    supervisor.log_path('router').write_text('Router ready at 127.0.0.1:1. Ctrl-C ends it.\n')
    assert parts.router_is_ready()


def test_everybody_is_led_to_the_demos_own_router(supervisor, stand_ins):
    parts = Parts(supervisor, 'signs', 30.0)
    parts.start_router(on_any_port=True)
    port = supervisor.started['router'][0][-1]
    parts.join()
    parts.start_classifier()
    assert os.environ['DYNAMIC_OFA_ROUTER'] == f'tcp/127.0.0.1:{port}'
    assert supervisor.started['classifier'][1]['DYNAMIC_OFA_ROUTER'] == f'tcp/127.0.0.1:{port}'


def test_classifier_and_competitor_meet_on_one_cpu(supervisor, stand_ins, monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0, 2, 3})
    parts = Parts(supervisor, '/some/family', 25.0)
    parts.start_classifier()
    parts.start_camera()
    parts.start_competitor()
    classifier, _, cpus = supervisor.started['classifier']
    assert cpus == {3}
    assert ros_parameters(classifier) == {'family': '/some/family'}
    camera, _, cpus = supervisor.started['camera']
    assert cpus == {0, 2}
    assert ros_parameters(camera)['rate_hz'] == '25.0'
    command, _, cpus = supervisor.started['competitor']
    assert cpus == {0, 2, 3}
    competitor = ros_parameters(command)
    assert competitor['cpus'] == '"3"'  # a string, whatever a parser makes of numbers
    assert competitor['workload'] == 'none'
    assert int(competitor['workers']) > 1


def test_commands_are_those_of_this_machine(supervisor, stand_ins, monkeypatch):
    parts = Parts(supervisor, 'signs', 30.0)
    assert parts.set_limit_command(2.35) == (
        'dynamic-ofa ros param set /classifier constraints.max_latency_ms 2.35'
    )
    # Without its point it would be an integer; the parameter is a double.
    assert parts.set_limit_command(2.0).endswith(' 2.0')
    assert parts.competitor_command('busy').endswith('param set /contention workload busy')
    monkeypatch.setattr(module, 'real_ros_is_available', lambda: True)
    real = Parts(supervisor, 'signs', 30.0)
    assert not real.needs_router
    assert real.namespace == f'/demo_{os.getpid()}'
    assert real.set_limit_command(2.0).startswith(f'ros2 param set {real.namespace}/classifier ')
    real.start_camera()
    assert f'__ns:={real.namespace}' in supervisor.started['camera'][0]
