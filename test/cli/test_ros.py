"""`dynamic-ofa ros` on the command line, with real nodes."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseWithCovariance
from programs import wait_until
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.demo.domain import own_domain
from dynamic_ofa_ros.recordings.bag import Bag

DEADLINE_S = 20.0
PERIOD_S = 0.02
FAILED = 'Setting parameter failed: '
COMMAND = [sys.executable, '-m', 'dynamic_ofa_ros.cli.main', 'ros']

Run = Callable[..., tuple[int, str, str]]


class Robot:
    """A lifecycle node with topics, parameters and a service, spun by a thread."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.context.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = node = LifecycleNode('classifier', namespace='/robot', context=self.context)
        self.received: list[str] = []
        self.headers: list[Header] = []
        node.create_subscription(String, '~/command', lambda m: self.received.append(m.data), 10)
        node.create_subscription(Header, '~/header', self.headers.append, 10)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        # Not the lifecycle publishers of LifecycleNode: these publish in every state.
        self.publishers = {
            Node.create_publisher(node, Image, 'image', best_effort): Image(
                encoding='rgb8', height=10, width=10, data=bytes(300)
            ),
            Node.create_publisher(node, DiagnosticStatus, 'status', 1): DiagnosticStatus(
                level=DiagnosticStatus.ERROR, message='m' * 200, values=[KeyValue(key='a')]
            ),
            Node.create_publisher(node, PoseWithCovariance, 'pose', 1): PoseWithCovariance(),
        }
        self.labels = Node.create_publisher(node, String, 'labels', latched)
        self.labels.publish(String(data='stop: go'))
        limits = FloatingPointRange(from_value=0.0, to_value=100.0)
        node.declare_parameter(
            'limit_ms',
            10.0,
            ParameterDescriptor(description='The limit', floating_point_range=[limits]),
        )
        node.declare_parameter('device', 'cpu', ParameterDescriptor(read_only=True))
        node.declare_parameter('sizes', [1, 2])
        node.create_service(SetBool, '~/enable', self._on_enable)
        node.create_timer(PERIOD_S, self._on_timer)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(node)
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        while not self._is_ending.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def _on_timer(self) -> None:
        for publisher, message in self.publishers.items():
            publisher.publish(message)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.success, response.message = request.data, f'got {request.data}'
        return response

    def close(self) -> None:
        self._is_ending.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture(scope='module')
def domain() -> Iterator[int]:
    """Give this module its own ROS domain."""
    with own_domain() as number:
        yield number


@pytest.fixture(scope='module')
def robot(domain: int) -> Iterator[Robot]:
    robot = Robot(domain)
    yield robot
    robot.close()


@pytest.fixture(autouse=True)
def _no_ros2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, 'which', lambda _: None)


@pytest.fixture(autouse=True)
def _deadline() -> Iterator[None]:
    """Fail a command that does not end."""

    def fail(*_: object) -> None:
        pytest.fail(f'no end within {2 * DEADLINE_S} s')

    previous = signal.signal(signal.SIGALRM, fail)
    signal.alarm(int(2 * DEADLINE_S))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; return status, output and errors."""

    def run_command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(['ros', *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_command


def test_nodes_topics_services_and_parameters_are_listed(run: Run, robot: Robot) -> None:
    assert run('node', 'list') == (0, '/robot/classifier\n', '')
    assert '/_dynamic_ofa_cli' not in run('node', 'list', '--all')[1]
    status, topics, errors = run('topic', 'list', '--show-types')
    assert (status, errors) == (0, '')
    assert topics.splitlines() == [
        '/parameter_events [rcl_interfaces/msg/ParameterEvent]',
        '/robot/classifier/command [std_msgs/msg/String]',
        '/robot/classifier/header [std_msgs/msg/Header]',
        '/robot/classifier/transition_event [lifecycle_msgs/msg/TransitionEvent]',
        '/robot/image [sensor_msgs/msg/Image]',
        '/robot/labels [std_msgs/msg/String]',
        '/robot/pose [geometry_msgs/msg/PoseWithCovariance]',
        '/robot/status [diagnostic_msgs/msg/DiagnosticStatus]',
        '/rosout [rcl_interfaces/msg/Log]',
    ]


def test_echo_takes_the_qos_of_the_publishers(run: Run, robot: Robot) -> None:
    # The label was published earlier, so only a transient local subscription receives it.
    # The image is best effort.
    assert run('topic', 'echo', '--once', '/robot/labels') == (0, "data: 'stop: go'\n---\n", '')
    status, output, _ = run('topic', 'echo', '--once', '-l', '3', 'robot/image')
    assert status == 0
    assert output.endswith("step: 0\ndata:\n- 0\n- 0\n- 0\n- '...'\n---\n")


def test_echo_shows_messages_as_ros2_does(run: Run, robot: Robot) -> None:
    status, output, _ = run('topic', 'echo', '--once', '/robot/status')
    assert status == 0
    assert output == (
        f"level: \"\\x02\"\nname: ''\nmessage: {'m' * 128}...\nhardware_id: ''\n"
        "values:\n- key: a\n  value: ''\n---\n"
    )
    assert 'm' * 200 in run('topic', 'echo', '--once', '-f', '/robot/status')[1]
    field = run('topic', 'echo', '--once', '--field', 'pose.orientation', '/robot/pose')
    assert field[1] == 'x: 0.0\ny: 0.0\nz: 0.0\nw: 1.0\n---\n'
    field = run('topic', 'echo', '--once', '--field', 'pose.orientation.w', '/robot/pose')
    assert field[1] == '1.0\n---\n'


def test_echo_ends_after_its_timeout(run: Run, robot: Robot) -> None:
    command = ('topic', 'echo', '--timeout', '0.1', '/robot/classifier/command')
    assert run(*command) == (0, '', '')


def test_pub_fills_every_kind_of_field(run: Run, robot: Robot) -> None:
    command = ('topic', 'pub', '--times', '2', '--rate', '50')
    status, output, _ = run(*command, '/robot/classifier/command', 'std_msgs/String', 'data: 5')
    assert status == 0
    assert output.endswith(
        "publisher: beginning loop\npublishing #1: std_msgs.msg.String(data='5')\n\n"
        "publishing #2: std_msgs.msg.String(data='5')\n\n"
    )
    wait_until(lambda: robot.received == ['5', '5'], 'what was published')
    before_s = time.time()
    values = '{stamp: now, frame_id: map}'
    assert (
        run('topic', 'pub', '-1', '/robot/classifier/header', 'std_msgs/msg/Header', values)[0]
        == 0
    )
    wait_until(lambda: len(robot.headers) == 1, 'what was published')
    assert before_s - 1 <= robot.headers[0].stamp.sec <= time.time()
    values = '{level: "\\x02", values: [{key: a}, {value: b}]}'
    command = ('topic', 'pub', '-1', '-w', '0', '/other')
    output = run(*command, 'diagnostic_msgs/msg/DiagnosticStatus', values)[1]
    assert "level=b'\\x02'" in output
    assert "KeyValue(key='', value='b')]" in output
    values = '{header: auto, height: 4, data: [1, 2]}'
    output = run(*command, 'sensor_msgs/msg/Image', values)[1]
    assert re.search(r'sec=\d{10}, .* height=4, .* data=\[1, 2\]\)', output)


@pytest.mark.parametrize(
    ('command', 'sentence'),
    [
        ('topic echo /nowhere', 'Could not determine the type for the passed topic'),
        ('topic echo /robot/labels std_msgs/msg/Nothing', 'The passed message type is invalid'),
        ('topic echo --field a.b /robot/labels', "'String' object has no attribute 'a'"),
        ('topic echo /9x std_msgs/msg/String', 'topic name token must not start with a number'),
        ('topic pub /x std_msgs/msg/Nothing', 'The passed message type is invalid'),
        ('topic pub /x nothing', 'The passed message type is invalid'),
        ('topic pub /x std_msgs/msg/String hello', "Value 'hello' is expected to be a dictionary"),
        ('topic pub /x std_msgs/msg/String \'data: [\'', 'The passed value is not valid YAML'),
        ('topic pub /x std_msgs/msg/String \'a: 1\'', "'String' object has no attribute 'a'"),
        ('topic pub /x std_msgs/msg/Bool \'data: "no"\'', "Value 'no' is expected to be a bool"),
        ('topic pub /x geometry_msgs/msg/Point \'x: a\'', 'could not convert string to float'),
        ('service call /x std_srvs/srv/Nothing', 'The passed service type is invalid'),
        ('service call /x std_msgs/msg/String', 'The passed type is not a service'),
        ('param get /nowhere x', 'Node not found'),
        ('param get /robot/classifier nothing', 'Parameter not set'),
        ('param describe /robot/classifier nothing', 'Parameter not set'),
        ('param set /robot/classifier limit_ms 200.0', f'{FAILED}Parameter limit_ms out of'),
        ('param set /robot/classifier limit_ms many', f'{FAILED}Wrong parameter type'),
        ('param set /robot/classifier device gpu', f'{FAILED}Trying to set a read-only'),
        ('lifecycle get /nowhere', 'Node not found'),
        ('lifecycle set /robot/classifier fly', 'available ones are:\n- configure [1]'),
    ],
)  # fmt: skip
def test_errors_are_those_of_ros2(
    run: Run, robot: Robot, command: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Do not wait long for a node that does not exist.
    limit_s = 0.5 if '/nowhere' in command else DEADLINE_S
    for module in ('ros_support', 'ros_node'):
        monkeypatch.setattr(f'dynamic_ofa_ros.cli.{module}.DISCOVERY_S', limit_s)
    status, _, errors = run(*shlex.split(command))
    assert status == 1
    assert sentence in errors
    assert 'Traceback' not in errors


def test_silent_node_is_named_and_the_others_are_listed(
    run: Run, robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('dynamic_ofa_ros.cli.ros_node.ANSWER_S', 0.5)
    monkeypatch.setattr('dynamic_ofa_ros.cli.ros_support.RESEND_S', 0.2)
    silent = rclpy.create_node('a_silent_one', context=robot.context)  # never spun
    try:
        status, output, errors = run('param', 'list')
    finally:
        silent.destroy_node()
    assert status == 0
    assert output.startswith('/robot/classifier:\n  device\n')
    assert errors == "/a_silent_one: No response from '/a_silent_one/list_parameters' in 0.5 s\n"


def test_parameters_are_shown_described_and_set(run: Run, robot: Robot) -> None:
    listed = run('param', 'list', '--param-type', '/robot/classifier')[1].splitlines()
    assert '  device (type: string)' in listed
    assert '  limit_ms (type: double)' in listed
    assert '  sizes (type: integer array)' in listed
    assert run('param', 'list')[1].startswith('/robot/classifier:\n  device\n')
    assert run('param', 'describe', 'robot/classifier', 'limit_ms', 'device') == (
        0,
        'Parameter name: limit_ms\n  Type: double\n  Description: The limit\n  Constraints:\n'
        '    Min value: 0.0\n    Max value: 100.0\n'
        'Parameter name: device\n  Type: string\n  Constraints:\n    Read only: true\n',
        '',
    )
    assert run('param', 'set', '/robot/classifier', 'limit_ms', '20.0') == (
        0,
        'Set parameter successful\n',
        '',
    )
    assert run('param', 'get', '/robot/classifier', 'limit_ms')[1] == 'Double value is: 20.0\n'
    assert run('param', 'get', '--hide-type', '/robot/classifier', 'limit_ms')[1] == '20.0\n'
    assert run('param', 'get', '/robot/classifier', 'sizes')[1] == 'Integer values are: [1, 2]\n'


def test_a_service_is_called(run: Run, robot: Robot) -> None:
    command = ('service', 'call', '/robot/classifier/enable', 'std_srvs/srv/SetBool')
    assert run(*command, '{data: true}') == (
        0,
        'waiting for service to become available...\n'
        'requester: making request: std_srvs.srv.SetBool_Request(data=True)\n\n'
        "response:\nstd_srvs.srv.SetBool_Response(success=True, message='got True')\n\n",
        '',
    )


def test_lifecycle_states_are_shown_and_changed(run: Run, robot: Robot) -> None:
    assert run('lifecycle', 'get', '/robot/classifier') == (0, 'unconfigured [1]\n', '')
    done = (0, 'Transitioning successful\n', '')
    assert run('lifecycle', 'set', '/robot/classifier', 'configure') == done
    assert run('lifecycle', 'get', '/robot/classifier')[1] == 'inactive [2]\n'
    assert run('lifecycle', 'set', '/robot/classifier', '2') == done  # cleanup, by its number


def test_sourced_ros2_is_used_instead(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, 'which', {'ros2': '/opt/ros2'}.get)
    monkeypatch.setattr(importlib.util, 'find_spec', {'ros2topic': True}.get)
    status, _, errors = run('topic', 'echo', '/x')
    assert status == 2
    assert "use 'ros2 topic echo' instead" in errors


def test_a_command_that_a_sourced_ros2_lacks_is_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, 'which', {'ros2': '/opt/ros2'}.get)
    monkeypatch.setattr(importlib.util, 'find_spec', {'ros2topic': True}.get)
    assert run('bag', 'record') == (1, '', 'Must specify either topics or -a\n')


def test_missing_rclpy_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith('dynamic_ofa_ros.cli.ros_')]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, 'rclpy', None)
    monkeypatch.setitem(sys.modules, 'rclpy.parameter', None)
    status, _, errors = run('node', 'list')
    assert status == 2
    assert "source ROS 2, or run 'make setup'" in errors


def start(*arguments: str, **options: object) -> subprocess.Popen[str]:
    """Start a command in a new process without ros2 on its PATH."""
    environment = {**os.environ, 'PATH': os.devnull}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    return subprocess.Popen([*COMMAND, *arguments], env=environment, **pipes, **options)


@pytest.mark.parametrize('inherited', [signal.SIG_DFL, signal.SIG_IGN])
def test_hz_until_ctrl_c(robot: Robot, inherited: signal.Handlers) -> None:
    # Shells start background commands with SIGINT ignored; kill -INT must end those too.
    process = start(
        'topic', 'hz', '/robot/pose', preexec_fn=lambda: signal.signal(signal.SIGINT, inherited)
    )
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], DEADLINE_S)[0]
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert re.fullmatch(r'average rate: \d+\.\d{3}\n', lines[0])
    assert 10 < float(lines[0].split()[2]) <= 2 / PERIOD_S
    number = r'(-?\d+\.\d{3})s'
    window = re.fullmatch(
        rf'\tmin: {number} max: {number} std dev: \d+\.\d{{5}}s window: (\d+)\n', lines[1]
    )
    assert window is not None
    assert int(window[3]) > 5
    assert (process.returncode, errors) == (130, '')


def test_values_of_the_wrong_type_never_reach_the_middleware(robot: Robot) -> None:
    # A new process, because messages check types only if an environment variable is set before
    # they are imported.
    values = '{covariance: [1, 2]}'
    command = ('topic', 'pub', '-1', '-w', '0', '/other')
    process = start(*command, 'geometry_msgs/msg/PoseWithCovariance', values)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert errors.startswith("Failed to populate field: The 'covariance' field must be")


@pytest.mark.parametrize(
    ('storage', 'topics', 'recorded'),
    [
        (
            'mcap',
            ['/robot/image', 'robot/labels', '/nothing'],
            {'/robot/image', '/robot/labels'},
        ),
        ('sqlite3', ['--all'], {'/robot/image', '/robot/labels', '/robot/pose', '/robot/status'}),
    ],
)
def test_bag_record_until_ctrl_c(
    robot: Robot, tmp_path: Path, storage: str, topics: list[str], recorded: set[str]
) -> None:
    folder = tmp_path / 'bag'
    process = start('bag', 'record', '-o', str(folder), '-s', storage, *topics)
    try:
        lines = [process.stdout.readline() for _ in recorded]
        assert all(line.startswith('Subscribed to topic') for line in lines)
        image = next(p for p in robot.publishers if p.topic_name == '/robot/image')
        wait_until(lambda: image.get_subscription_count() > 0, 'the recorder is discovered')
        threading.Event().wait(50 * PERIOD_S)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, '')
    assert f"Recording stopped: '{folder}'" in output
    assert ('       0 /nothing\n' in output) == ('/nothing' in topics)
    with Bag(folder) as bag:
        assert set(bag.topics) >= recorded
        images = [message.value for message in bag.messages({'/robot/image'})]
        assert len(images) >= 5
        assert {(i.encoding, i.width, bytes(i.data)) for i in images} == {('rgb8', 10, bytes(300))}
        # Published before the recording began.
        assert bag.first('/robot/labels').data == 'stop: go'


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_bag_record_ends_with_a_sentence_on_a_full_disk(
    robot: Robot, tmp_path: Path, storage: str
) -> None:
    folder = tmp_path / 'bag'
    process = start('bag', 'record', '-o', str(folder), '-s', storage, '/robot/image')
    try:
        assert process.stdout.readline().startswith('Subscribed to topic')
        # Not earlier, because the middleware needs large files for its shared memory.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100, 100))
        if storage == 'mcap':  # writes whole chunks only
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode in (1, 2)
    assert str(folder) in errors
    assert errors.count('\n') == 1


def test_bag_record_rejects_bad_arguments(run: Run, tmp_path: Path) -> None:
    assert run('bag', 'record')[::2] == (1, 'Must specify either topics or -a\n')
    status, _, errors = run('bag', 'record', '-a', '-o', str(tmp_path))
    assert (status, errors) == (1, f"Output folder '{tmp_path}' already exists.\n")
    status, _, errors = run('bag', 'record', '-o', str(tmp_path / 'new'), 'a b')
    assert status == 1
    assert errors.startswith('failed to resolve name')
    assert not (tmp_path / 'new').exists()
