import os
import shutil

import pytest

from dynamic_ofa_ros.demo.parts import Parts
from dynamic_ofa_ros.demo.running import DemoOptions


def options(family, rate_hz, source=''):
    return DemoOptions(family, 40.0, rate_hz, False, 60.0, source)


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


def ros_parameters(command):
    """Return the parameters of a node's command line."""
    values = [command[i + 1] for i, word in enumerate(command) if word == '-p']
    return dict(value.split(':=', 1) for value in values)


def test_classifier_and_competitor_meet_on_one_cpu(supervisor, monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0, 2, 3})
    parts = Parts(supervisor, options('/some/family', 25.0), 17)
    parts.start_classifier()
    parts.start_camera()
    parts.start_competitor()
    classifier, _, cpus = supervisor.started['classifier']
    assert cpus == {3}
    assert ros_parameters(classifier)['family'] == '/some/family'
    camera, _, cpus = supervisor.started['camera']
    assert cpus == {0, 2}
    assert ros_parameters(camera)['rate_hz'] == '25.0'
    command, _, cpus = supervisor.started['competitor']
    assert cpus == {0, 2, 3}
    competitor = ros_parameters(command)
    assert competitor['cpus'] == '"3"'  # a string, whatever a parser makes of numbers
    assert competitor['workload'] == 'none'
    assert int(competitor['workers']) > 1


def test_the_camera_shows_a_folder_that_was_given(supervisor):
    Parts(supervisor, options('imagenet', 30.0, '/photos/1'), 17).start_camera()
    camera, _, _ = supervisor.started['camera']
    assert ros_parameters(camera)['source'] == 'folder'
    assert ros_parameters(camera)['path'] == '"/photos/1"'


def test_commands_are_those_of_this_machine(supervisor, monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    parts = Parts(supervisor, options('signs', 30.0), 17)
    assert parts.set_limit_command(2.35) == (
        'ROS_DOMAIN_ID=17 dynamic-ofa ros param set /classifier constraints.max_latency_ms 2.35'
    )
    # Without its point it would be an integer; the parameter is a double.
    assert parts.set_limit_command(2.0).endswith(' 2.0')
    assert parts.competitor_command('busy').endswith('param set /contention workload busy')
    monkeypatch.setattr(shutil, 'which', lambda name: f'/opt/{name}')
    assert parts.set_limit_command(2.0).startswith('ROS_DOMAIN_ID=17 ros2 param set /classifier ')
