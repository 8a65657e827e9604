"""`dynamic-ofa ros` and `dynamic-ofa router`, as a user types them."""

import argparse
import os
import signal
import subprocess
import sys

import pytest
import yaml
from rclpy_zenoh.support import REPOSITORY, Node, ros, spinning, wait_until

from dynamic_ofa_ros.cli import ros as ros_cli
from dynamic_ofa_ros.cli import router as router_cli
from dynamic_ofa_ros.errors import DynamicOfaError
from dynamic_ofa_ros.rclpy_zenoh.router import free_port

from diagnostic_msgs.msg import DiagnosticStatus  # isort: skip
from dynamic_ofa_ros.msg import Constraints  # isort: skip
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor  # isort: skip
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # isort: skip
from sensor_msgs.msg import Image  # isort: skip
from std_msgs.msg import String  # isort: skip
from std_srvs.srv import SetBool  # isort: skip

TIMEOUT_S = 30.0
# The same as the console script, but for these two verbs only.
MAIN = """
import argparse, sys
from dynamic_ofa_ros.cli import ros, router
from dynamic_ofa_ros.errors import DynamicOfaError
parser = argparse.ArgumentParser()
subparsers = parser.add_subparsers()
ros.add_parser(subparsers)
router.add_parser(subparsers)
args = parser.parse_args()
try:
    sys.exit(args.run(args))
except DynamicOfaError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, '-c', MAIN, *arguments], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, 'PYTHONPATH': str(REPOSITORY)},
    )  # fmt: skip


@pytest.fixture
def run(capsys):
    """Run a command in this process; return status, output and errors."""

    def run_command(*arguments):
        parser = argparse.ArgumentParser()
        subparsers = parser.add_subparsers()
        ros_cli.add_parser(subparsers)
        router_cli.add_parser(subparsers)
        args = parser.parse_args(arguments)
        capsys.readouterr()
        try:
            status = args.run(args)
        except DynamicOfaError as error:
            return 2, capsys.readouterr().out, str(error)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_command


@pytest.fixture
def robot(router):
    """Spin a node with one of everything."""
    with ros() as context:
        node = Node('classifier', context=context, namespace='/robot')
        node.received = []
        node.create_subscription(Constraints, '~/constraints', node.received.append, 1)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_publisher(String, 'labels', latched).publish(String(data='stop; go'))
        sensor = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        image = node.create_publisher(Image, 'image', sensor)
        status = node.create_publisher(DiagnosticStatus, 'status', 1)
        message = Image(height=480, width=640, encoding='rgb8', data=bytes(300))

        def tick():
            image.publish(message)
            status.publish(DiagnosticStatus(level=DiagnosticStatus.WARN, name='n'))

        node.create_timer(0.02, tick)
        node.declare_parameter(
            'limit_ms',
            10.0,
            ParameterDescriptor(
                description='The limit [ms]',
                floating_point_range=[FloatingPointRange(from_value=0.0, to_value=100.0)],
            ),
        )
        node.declare_parameter('device', 'cpu', ParameterDescriptor(read_only=True))
        node.declare_parameter('group.sizes', [1, 2])

        def enable(request, response):
            response.success, response.message = request.data, f'got {request.data}'
            return response

        node.create_service(SetBool, '~/enable', enable)
        with spinning(node):
            yield node


def test_lists(run, robot):
    assert run('ros', 'node', 'list') == (0, '/robot/classifier\n', '')
    assert run('ros', 'node', 'list', '-c')[1] == '1\n'
    status, topics, _ = run('ros', 'topic', 'list', '-t')
    assert status == 0
    assert topics.splitlines() == [
        '/parameter_events [rcl_interfaces/msg/ParameterEvent]',
        '/robot/classifier/constraints [dynamic_ofa_ros/msg/Constraints]',
        '/robot/image [sensor_msgs/msg/Image]',
        '/robot/labels [std_msgs/msg/String]',
        '/robot/status [diagnostic_msgs/msg/DiagnosticStatus]',
        '/rosout [rcl_interfaces/msg/Log]',
    ]
    assert '/robot/image\n' in run('ros', 'topic', 'list')[1]
    assert (
        '/robot/classifier/enable [std_srvs/srv/SetBool]' in run('ros', 'service', 'list', '-t')[1]
    )


def test_node_info(run, robot):
    status, output, _ = run('ros', 'node', 'info', 'robot/classifier')
    assert status == 0
    assert '  Publishers:\n    /parameter_events: rcl_interfaces/msg/ParameterEvent\n' in output
    assert '    /robot/classifier/enable: std_srvs/srv/SetBool\n' in output


def test_topic_info(run, robot):
    _, output, _ = run('ros', 'topic', 'info', '-v', '/robot/image')
    assert output.startswith('Type: sensor_msgs/msg/Image\n')
    assert 'Publisher count: 1' in output
    assert 'Reliability: BEST_EFFORT' in output
    assert 'Node namespace: /robot' in output


def test_echo_latched_topic_without_being_told_its_qos(run, robot):
    assert run('ros', 'topic', 'echo', '--once', '/robot/labels') == (
        0,
        'data: stop; go\n---\n',
        '',
    )
    assert run('ros', 'topic', 'echo', '--once', '--field', 'data', 'robot/labels')[1] == (
        'stop; go\n---\n'
    )


def test_echo_shows_yaml_and_cuts_long_arrays(run, robot):
    _, output, _ = run('ros', 'topic', 'echo', '--once', '-l', '2', '/robot/image')
    shown = yaml.safe_load(output.removesuffix('---\n'))
    assert shown['header']['stamp'] == {'sec': 0, 'nanosec': 0}
    assert shown['data'] == [0, 0, '...']
    _, output, _ = run('ros', 'topic', 'echo', '--once', '--no-arr', '/robot/image')
    assert 'length: 300' in output
    _, output, _ = run('ros', 'topic', 'echo', '--once', '-f', '--field', 'data', '/robot/image')
    assert len(yaml.safe_load(output.removesuffix('---\n'))) == 300
    _, output, _ = run('ros', 'topic', 'echo', '--once', '--field', 'level', '/robot/status')
    assert output == '1\n---\n'
    _, output, _ = run('ros', 'topic', 'echo', '--once', '--csv', '/robot/status')
    assert output == '1,n,,\n'


def test_echo_times_out(run, robot):
    assert run('ros', 'topic', 'echo', '--timeout', '0.1', '/x', 'std_msgs/msg/String')[0] == 1


@pytest.mark.parametrize(
    ('arguments', 'complaint'),
    [
        (('topic', 'echo', '/robot/imag'), "did you mean '/robot/image'?"),
        (('topic', 'info', '/robot/imag'), "did you mean '/robot/image'?"),
        (('topic', 'hz', '/robot/imag'), "did you mean '/robot/image'?"),
        (('topic', 'echo', '/x', 'std_msgs/msg/Sting'), "did you mean 'std_msgs/msg/String'?"),
        (('topic', 'echo', '--once', '--field', 'dat', '/robot/labels'), 'among data'),
        (('topic', 'pub', '-1', '/x', 'std_msgs/msg/String', '{dat: a}'), "did you mean 'data'?"),
        (('topic', 'pub', '-1', '/x', 'std_msgs/msg/UInt8', '{data: 256}'), '255'),
        (('topic', 'pub', '-1', '/x', 'std_msgs/msg/UInt8', '{data: a}'), 'no uint8'),
        (('topic', 'pub', '-1', '/x', 'std_msgs/msg/UInt8', '{'), 'YAML'),
        (('topic', 'pub', '-r', '0', '/x', 'std_msgs/msg/UInt8'), 'greater than 0'),
        (
            ('topic', 'pub', '-1', '/robot/labels', 'std_msgs/msg/UInt8'),
            'of type std_msgs/msg/Str',
        ),
        (('node', 'info', '/robot/classifer'), "did you mean '/robot/classifier'?"),
        (('param', 'get', '/robot/classifier', 'limit'), "did you mean 'limit_ms'?"),
        (('param', 'list', '/nobody'), 'does not exist'),
        (('service', 'call', '/robot/classifier/enabl', 'std_srvs/srv/SetBool'), 'did you mean'),
        (
            ('service', 'call', '/robot/classifier/enable', 'std_srvs/srv/Empty'),
            'of type std_srvs',
        ),
        (('service', 'call', '/x', 'std_srvs/srv/SetBoo'), "did you mean 'std_srvs/srv/SetBool'?"),
        (('service', 'call', '/x', 'std_srvs/srv/SetBool', '{data: 1}'), 'no boolean'),
    ],
)
def test_mistakes_are_named(run, robot, arguments, complaint):
    status, _, error = run('ros', *arguments)
    assert status == 2
    assert complaint in error


def test_pub_reaches_the_node(run, robot):
    status, output, _ = run(
        'ros', 'topic', 'pub', '-1', '/robot/classifier/constraints',
        'dynamic_ofa_ros/msg/Constraints', '{header: auto, max_latency_ms: 20, source: me}',
    )  # fmt: skip
    assert status == 0
    assert output.startswith(
        'publisher: beginning loop\npublishing #1: dynamic_ofa_ros.msg.Constr'
    )
    wait_until(lambda: robot.received)
    message = robot.received[0]
    assert (message.max_latency_ms, message.source) == (20.0, 'me')
    assert message.header.stamp.sec > 10**9


def test_pub_several(run, robot):
    status, output, _ = run(
        'ros',
        'topic',
        'pub',
        '-t',
        '3',
        '-r',
        '100',
        '-w',
        '0',
        '/x',
        'std_msgs/String',
        'data: a',
    )
    assert status == 0
    assert output.count('publishing #') == 3


def test_param_get_set_describe_dump(run, robot):
    name = '/robot/classifier'
    assert run('ros', 'param', 'get', name, 'limit_ms') == (0, 'Double value is: 10.0\n', '')
    assert run('ros', 'param', 'get', '--hide-type', name, 'group.sizes')[1] == '[1, 2]\n'
    assert run('ros', 'param', 'set', name, 'limit_ms', '20.5') == (
        0, 'Set parameter successful\n', '',
    )  # fmt: skip
    assert robot.get_parameter('limit_ms').value == 20.5
    for value, reason in (('200.0', 'out of range'), ('20', 'Wrong parameter type')):
        status, output, error = run('ros', 'param', 'set', name, 'limit_ms', value)
        assert (status, output) == (1, '')
        assert error.startswith('Setting parameter failed: ')
        assert reason in error
    assert 'read-only' in run('ros', 'param', 'set', name, 'device', 'gpu')[2]
    status, _, error = run('ros', 'param', 'set', name, 'limit', '1.0')
    assert status == 1
    assert "did you mean 'limit_ms'?" in error
    _, output, _ = run('ros', 'param', 'describe', name, 'limit_ms', 'device')
    assert 'Description: The limit [ms]' in output
    assert 'Max value: 100.0' in output
    assert 'Read only: true' in output
    _, output, _ = run('ros', 'param', 'dump', name)
    assert yaml.safe_load(output) == {
        name: {
            'ros__parameters': {
                'device': 'cpu', 'group': {'sizes': [1, 2]}, 'limit_ms': 20.5,
                'use_sim_time': False,
            }
        }
    }  # fmt: skip
    listed = '/robot/classifier:\n  device\n  group.sizes\n  limit_ms\n  use_sim_time\n'
    assert run('ros', 'param', 'list')[1] == listed


def test_service_call(run, robot):
    status, output, _ = run(
        'ros',
        'service',
        'call',
        '/robot/classifier/enable',
        'std_srvs/srv/SetBool',
        '{data: true}',
    )
    assert status == 0
    assert output == (
        'requester: making request: std_srvs.srv.SetBool_Request(data=True)\n\n'
        "response:\nstd_srvs.srv.SetBool_Response(success=True, message='got True')\n\n"
    )


def test_no_router(run, monkeypatch):
    monkeypatch.setenv('DYNAMIC_OFA_ROUTER', f'127.0.0.1:{free_port()}')
    for command in (('node', 'list'), ('topic', 'echo', '/x'), ('param', 'list')):
        status, _, error = run('ros', *command)
        assert status == 2
        assert 'No Zenoh router answers' in error


def test_endless_commands_print_line_by_line_and_end_quietly(robot):
    for arguments, expected in (
        (('topic', 'hz', '/robot/image'), 'average rate: '),
        (('topic', 'echo', '--field', 'name', '/robot/status'), 'n'),
        (('topic', 'pub', '-r', '50', '/x', 'std_msgs/msg/String'), 'publisher: beginning loop'),
    ):
        process = start('ros', *arguments)
        assert process.stdout.readline().startswith(expected)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, errors) == (0, '')


def test_router_says_when_it_is_ready_and_ends_with_ctrl_c():
    port = str(free_port())
    router = start('router', '--port', port)
    try:
        assert router.stdout.readline() == f'Router ready at 127.0.0.1:{port}. Ctrl-C ends it.\n'
        second = start('router', '--port', port)
        _, errors = second.communicate(timeout=TIMEOUT_S)
        assert second.returncode == 2
        assert 'already in use' in errors
        router.send_signal(signal.SIGINT)
    finally:
        _, errors = router.communicate(timeout=TIMEOUT_S)
    assert (router.returncode, errors) == (0, '')


def test_router_refuses_an_absurd_port(run):
    assert run('router', '--port', '99999')[0] == 2


def test_help_needs_nothing_heavy():
    code = (
        'import sys; from dynamic_ofa_ros.cli import ros, router\n'
        "print({'zenoh', 'rosbags', 'numpy', 'yaml'} & set(sys.modules))"
    )
    output = subprocess.run(
        [sys.executable, '-c', code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert output.stdout == 'set()\n'
