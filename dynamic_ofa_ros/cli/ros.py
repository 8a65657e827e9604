"""`dynamic-ofa ros`: the commands a ROS user reaches for, where `ros2` is not installed.

Arguments and output are those of `ros2 topic|node|param|service`.
"""

from __future__ import annotations

import argparse
import importlib

from dynamic_ofa_ros.errors import DynamicOfaError

Subparsers = argparse._SubParsersAction  # the only name argparse gives it


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the verb's arguments."""
    parser = subparsers.add_parser(
        'ros',
        help='look at and steer running nodes (ros2 topic, node, param, service)',
        description='The commands of ros2 for machines without ROS 2. They need a router: '
        "'dynamic-ofa router'.",
    )
    groups = parser.add_subparsers(dest='ros_group', metavar='COMMAND', required=True)
    _add_topic(groups.add_parser('topic', help='list, echo, hz, pub, info'))
    _add_node(groups.add_parser('node', help='list, info'))
    _add_param(groups.add_parser('param', help='list, get, set, describe, dump'))
    _add_service(groups.add_parser('service', help='list, call'))
    parser.set_defaults(run=run)


def _command(
    commands: Subparsers[argparse.ArgumentParser], name: str, module: str, text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f'{text[0].upper()}{text[1:]}.')
    function = f'{module.removeprefix("ros_")}_{name}'
    parser.set_defaults(ros_function=(module, function))
    return parser


def _add_topic(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest='ros_command', metavar='COMMAND', required=True)

    listing = _command(commands, 'list', 'ros_topic', 'list topics')
    listing.add_argument('-t', '--show-types', action='store_true', help='show types too')
    listing.add_argument('-c', '--count-topics', action='store_true', help='only show the count')
    listing.add_argument(
        '--include-hidden-topics', action='store_true', help='names that start with _ too'
    )

    echo = _command(commands, 'echo', 'ros_topic', 'show the messages of a topic')
    echo.add_argument('topic')
    echo.add_argument('type', nargs='?', help='needed only before anybody publishes')
    echo.add_argument('--once', action='store_true', help='end after the first message')
    echo.add_argument('--timeout', type=float, metavar='S', help='give up after so many seconds')
    echo.add_argument('--field', metavar='PATH', help='show one field: header.stamp, levels[0]')
    echo.add_argument('-f', '--full-length', action='store_true', help='show long arrays whole')
    echo.add_argument(
        '-l', '--truncate-length', type=int, default=128, metavar='N', help='default: 128'
    )
    echo.add_argument('--no-arr', action='store_true', help='show only the length of arrays')
    echo.add_argument('--csv', action='store_true', help='one line of comma-separated values each')
    _add_qos(echo, 'default: what the publishers offer')

    hz = _command(commands, 'hz', 'ros_topic', 'show the rate of a topic')
    hz.add_argument('topic')
    hz.add_argument('-w', '--window', type=int, default=10000, metavar='N', help='messages')

    info = _command(commands, 'info', 'ros_topic', 'show the type and the endpoints of a topic')
    info.add_argument('topic')
    info.add_argument('-v', '--verbose', action='store_true', help='show nodes and QoS')

    pub = _command(commands, 'pub', 'ros_topic', 'publish messages')
    pub.add_argument('topic')
    pub.add_argument('type', help='such as std_msgs/msg/String')
    pub.add_argument('values', nargs='?', default='{}', help='YAML, such as "{data: hello}"')
    how_often = pub.add_mutually_exclusive_group()
    how_often.add_argument('-1', '--once', action='store_true', help='publish one message')
    how_often.add_argument('-t', '--times', type=int, default=0, metavar='N', help='N messages')
    pub.add_argument('-r', '--rate', type=float, default=1.0, metavar='HZ', help='default: 1 Hz')
    pub.add_argument(
        '-w',
        '--wait-matching-subscriptions',
        type=int,
        metavar='N',
        help='wait for so many subscriptions (default: 1 with --once or --times)',
    )
    pub.add_argument('--keep-alive', type=float, default=0.1, metavar='S', help='default: 0.1 s')
    _add_qos(pub, 'default: reliable, volatile, depth 1')


def _add_qos(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument('--qos-reliability', choices=('reliable', 'best_effort'), help=default)
    parser.add_argument('--qos-durability', choices=('transient_local', 'volatile'), help=default)
    parser.add_argument('--qos-depth', type=int, metavar='N')


def _add_node(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest='ros_command', metavar='COMMAND', required=True)
    listing = _command(commands, 'list', 'ros_node', 'list nodes')
    listing.add_argument('-a', '--all', action='store_true', help='hidden nodes too')
    listing.add_argument('-c', '--count-nodes', action='store_true', help='only show the count')
    info = _command(commands, 'info', 'ros_node', 'show the topics and services of a node')
    info.add_argument('node')
    info.add_argument('--include-hidden', action='store_true', help='names that start with _ too')


def _add_param(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest='ros_command', metavar='COMMAND', required=True)
    listing = _command(commands, 'list', 'ros_param', 'list parameters')
    listing.add_argument('node', nargs='?', help='default: all nodes')
    listing.add_argument('--param-type', action='store_true', help='show types too')
    get = _command(commands, 'get', 'ros_param', 'show the value of a parameter')
    get.add_argument('node')
    get.add_argument('name')
    get.add_argument('--hide-type', action='store_true', help='show the value only')
    setting = _command(commands, 'set', 'ros_param', 'set a parameter')
    setting.add_argument('node')
    setting.add_argument('name')
    setting.add_argument('value', help='YAML: 20.0, true, text, [1, 2]')
    describe = _command(commands, 'describe', 'ros_param', 'show what a parameter is')
    describe.add_argument('node')
    describe.add_argument('names', nargs='+', metavar='name')
    dump = _command(commands, 'dump', 'ros_param', 'show all parameters as a parameter file')
    dump.add_argument('node')
    for command in (listing, get, setting, describe, dump):
        command.add_argument('--timeout', type=float, default=5.0, metavar='S', help='default: 5')


def _add_service(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest='ros_command', metavar='COMMAND', required=True)
    listing = _command(commands, 'list', 'ros_service', 'list services')
    listing.add_argument('-t', '--show-types', action='store_true', help='show types too')
    listing.add_argument('-c', '--count-services', action='store_true', help='only show the count')
    listing.add_argument(
        '--include-hidden-services', action='store_true', help='names that start with _ too'
    )
    call = _command(commands, 'call', 'ros_service', 'call a service')
    call.add_argument('service')
    call.add_argument('type', help='such as std_srvs/srv/SetBool')
    call.add_argument('values', nargs='?', default='{}', help='YAML, such as "{data: true}"')
    call.add_argument('--timeout', type=float, metavar='S', help='give up after so many seconds')


def run(args: argparse.Namespace) -> int:
    """Run one of the commands."""
    from dynamic_ofa_ros.rclpy_zenoh import install

    if not install():
        raise DynamicOfaError(
            'A ROS 2 installation is sourced here: use '
            f"'ros2 {args.ros_group} {args.ros_command}' instead."
        )
    module, function = args.ros_function
    command = getattr(importlib.import_module(f'dynamic_ofa_ros.cli.{module}'), function)
    status: int = command(args)
    return status
