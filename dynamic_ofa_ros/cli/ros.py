"""`dynamic-ofa ros`: the most used ros2 commands, for machines without ros2cli."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shutil
import sys
from typing import Any

from dynamic_ofa_ros.cli.numbers import LARGEST, number, whole_number
from dynamic_ofa_ros.errors import DynamicOfaError


class RosCommandError(DynamicOfaError):
    """An unknown name or an invalid value, reported with the message that ros2 prints."""


def _arg(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, options


_COUNT = whole_number(0, 1_000_000_000)
_WINDOW = whole_number(1, 1_000_000)
_RATE = number(0, 10_000, above=True)
_YES = {'action': 'store_true'}
_VALUES = _arg('values', nargs='?', default='{}', help='YAML, such as "{data: true}"')
# fmt: off
COMMANDS = {
    'topic list': [_arg('-t', '--show-types', **_YES)],
    'topic echo': [
        _arg('topic_name'), _arg('message_type', nargs='?'),
        _arg('--once', **_YES, help='show one message and exit'),
        _arg('--timeout', type=number(0, LARGEST), default=float('inf'), metavar='SECONDS'),
        _arg('--field', default='', help='show one field, such as header.stamp'),
        _arg('-l', '--truncate-length', type=_COUNT, default=128, help='default: 128'),
        _arg('-f', '--full-length', dest='truncate_length', action='store_const', const=None),
    ],
    'topic hz': [_arg('topic_name'), _arg('-w', '--window', type=_WINDOW, default=10000)],
    'topic pub': [
        _arg('topic_name'), _arg('message_type'), _VALUES,
        _arg('-r', '--rate', type=_RATE, default=1.0, metavar='HZ', help='default: 1'),
        _arg('-t', '--times', type=_COUNT, default=0),
        _arg('-1', '--once', dest='times', action='store_const', const=1),
        _arg('-w', '--wait-matching-subscriptions', type=_COUNT, help='default: 1 with -1 or -t'),
    ],
    'param list': [_arg('node_name', nargs='?'), _arg('--param-type', **_YES)],
    'param get': [_arg('node_name'), _arg('parameter_name'), _arg('--hide-type', **_YES)],
    'param set': [_arg('node_name'), _arg('parameter_name'), _arg('value', help='YAML')],
    'param describe': [_arg('node_name'), _arg('parameter_names', nargs='+')],
    'node list': [_arg('-a', '--all', **_YES, help='show hidden nodes too')],
    'service call': [_arg('service_name'), _arg('service_type'), _VALUES],
    'lifecycle get': [_arg('node_name')],
    'lifecycle set': [_arg('node_name'), _arg('transition')],
    'bag record': [
        _arg('topics', nargs='*'), _arg('-a', '--all', **_YES),
        _arg('-o', '--output', help='new folder; default: rosbag2_ and the time'),
        _arg('-s', '--storage', default='mcap', choices=('mcap', 'sqlite3'), help='default: mcap'),
    ],
}
# fmt: on


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb's arguments."""
    text = f'the most used ros2 commands, without ros2cli: {", ".join(COMMANDS)}'
    parser = subparsers.add_parser('ros', help=text, description=text)
    groups = parser.add_subparsers(dest='ros_group', metavar='GROUP', required=True)
    verbs: dict[str, Any] = {}
    for command, arguments in COMMANDS.items():
        group, verb = command.split()
        if group not in verbs:
            group_parser = groups.add_parser(group, help=f'see ros2 {group}')
            verbs[group] = group_parser.add_subparsers(dest='ros_verb', required=True)
        verb_parser = verbs[group].add_parser(verb, help=f'see ros2 {command}')
        for names, options in arguments:
            verb_parser.add_argument(*names, **options)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run a command; return 0, or 1 after printing the error message of ros2."""
    # A ROS 2 installation may lack commands: bag, for example, is part of rosbag2.
    if shutil.which('ros2') and importlib.util.find_spec(f'ros2{args.ros_group}'):
        command = f'ros2 {args.ros_group} {args.ros_verb}'
        raise DynamicOfaError(f"ros2 is installed here: use '{command}' instead.")
    # Messages check assigned values only if this variable is set when they are imported.
    os.environ.setdefault('ROS_PYTHON_CHECK_FIELDS', '1')
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    module = f'ros_{args.ros_group}' if args.ros_group in ('topic', 'bag') else 'ros_node'
    try:
        commands = importlib.import_module(f'dynamic_ofa_ros.cli.{module}')
        getattr(commands, f'{args.ros_group}_{args.ros_verb}')(args)
    except ImportError as error:
        message = f"rclpy cannot be imported ({error}): source ROS 2, or run 'make setup'."
        raise DynamicOfaError(message) from error
    except RosCommandError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
