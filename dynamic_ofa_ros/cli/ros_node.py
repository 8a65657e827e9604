"""`dynamic-ofa ros node|param|service|lifecycle`."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import yaml
from rcl_interfaces.msg import Parameter
from rclpy.parameter import get_parameter_value, parameter_value_to_python

from dynamic_ofa_ros.cli.ros import RosCommandError
from dynamic_ofa_ros.cli.ros_message import filled, interface
from dynamic_ofa_ros.cli.ros_support import ANSWER_S, DISCOVERY_S, CommandNode, command_node

# Indexed by the constants of rcl_interfaces/msg/ParameterType.
_TYPES = ('not set', 'boolean', 'integer', 'double', 'string', 'byte array', 'boolean array',
          'integer array', 'double array', 'string array')  # fmt: skip


def node_list(args: argparse.Namespace) -> None:
    """List the nodes."""
    with command_node() as ros:
        ros.discover(lambda: bool(ros.nodes()))
        for name in ros.nodes(hidden=args.all):
            print(name)


def service_call(args: argparse.Namespace) -> None:
    """Call a service and show its response."""
    kind = interface(args.service_type, 'srv')
    request = filled(kind.Request, args.values)
    with command_node() as ros:
        client = ros.create_client(kind, args.service_name)
        print('waiting for service to become available...')
        ros.spin_until(client.service_is_ready)
        print(f'requester: making request: {request!r}\n')
        print(f'response:\n{ros.response(client, request)!r}\n')


def _ask(ros: CommandNode, node: str, service: str, **fields: Any) -> Any:
    """Call a parameter or lifecycle service of a node and return the response."""
    name = f'/{node.removeprefix("/")}'
    if not ros.spin_until(lambda: name in ros.nodes(hidden=True), DISCOVERY_S):
        raise RosCommandError('Node not found')
    package = 'rcl_interfaces' if 'parameters' in service else 'lifecycle_msgs'
    kind = interface(f'{package}/srv/{service.title().replace("_", "")}', 'srv')
    client = ros.create_client(kind, f'{name}/{service}')
    if not ros.spin_until(client.service_is_ready, DISCOVERY_S):
        raise RosCommandError(f"Wait for service timed out waiting for '{name}/{service}'")
    # A transition may take long; the user can press Ctrl-C.
    timeout_s = math.inf if service == 'change_state' else ANSWER_S
    return ros.response(client, kind.Request(**fields), timeout_s)


def param_list(args: argparse.Namespace) -> None:
    """List the parameters of a node, or of all nodes that answer."""
    with command_node() as ros:
        if args.node_name:
            print(*_parameters(ros, args.node_name, args.param_type), sep='\n')
            return
        ros.discover(lambda: bool(ros.nodes()))
        for node in ros.nodes():
            try:
                lines = _parameters(ros, node, args.param_type)
            except RosCommandError as error:  # dead or stopped: list the others
                print(f'{node}: {error}', file=sys.stderr)
                continue
            if lines:
                print(f'{node}:', *lines, sep='\n')


def _parameters(ros: CommandNode, node: str, with_types: bool) -> list[str]:
    """Return a line for each parameter of a node, sorted."""
    names = sorted(_ask(ros, node, 'list_parameters').result.names)
    descriptors = _ask(ros, node, 'describe_parameters', names=names).descriptors
    kinds = [f' (type: {_TYPES[each.type]})' if with_types else '' for each in descriptors]
    return [f'  {name}{kind}' for name, kind in zip(names, kinds, strict=True)]


def param_get(args: argparse.Namespace) -> None:
    """Show the value of a parameter."""
    with command_node() as ros:
        response = _ask(ros, args.node_name, 'get_parameters', names=[args.parameter_name])
    if not response.values:
        raise RosCommandError('Parameter not set')
    word, _, array = _TYPES[response.values[0].type].capitalize().partition(' ')
    value = parameter_value_to_python(response.values[0])
    label = '' if args.hide_type else f'{word} value{"s are" if array else " is"}: '
    print('Parameter not set.' if value is None else f'{label}{value}')


def param_set(args: argparse.Namespace) -> None:
    """Set a parameter."""
    try:
        parameter = Parameter(name=args.parameter_name, value=get_parameter_value(args.value))
    except (AssertionError, yaml.YAMLError) as error:  # a mapping, a 65-bit number
        raise RosCommandError(f'Setting parameter failed: {error}') from error
    with command_node() as ros:
        response = _ask(ros, args.node_name, 'set_parameters', parameters=[parameter])
    result = response.results[0]
    reason = f': {result.reason}' if result.reason else ''
    if not result.successful:
        raise RosCommandError(f'Setting parameter failed{reason}')
    print(f'Set parameter successful{reason}')


def param_describe(args: argparse.Namespace) -> None:
    """Show type, description and limits of parameters."""
    with command_node() as ros:
        response = _ask(ros, args.node_name, 'describe_parameters', names=args.parameter_names)
    if not response.descriptors:
        raise RosCommandError('Parameter not set')
    for each in response.descriptors:
        print(f'Parameter name: {each.name}\n  Type: {_TYPES[each.type]}')
        if each.description:
            print(f'  Description: {each.description}')
        print('  Constraints:')
        if each.read_only:
            print('    Read only: true')
        for limits in (*each.floating_point_range, *each.integer_range):
            print(f'    Min value: {limits.from_value}\n    Max value: {limits.to_value}')
            if limits.step:
                print(f'    Step: {limits.step}')
        if each.additional_constraints:
            print(f'    Additional constraints: {each.additional_constraints}')


def lifecycle_get(args: argparse.Namespace) -> None:
    """Show the state of a lifecycle node."""
    with command_node() as ros:
        state = _ask(ros, args.node_name, 'get_state').current_state
    print(f'{state.label} [{state.id}]')


def lifecycle_set(args: argparse.Namespace) -> None:
    """Change the state of a node by a transition, given by its label or number."""
    with command_node() as ros:
        response = _ask(ros, args.node_name, 'get_available_transitions')
        transitions = [each.transition for each in response.available_transitions]
        asked = [each for each in transitions if args.transition in (each.label, str(each.id))]
        if not asked:
            known = ''.join(f'\n- {each.label} [{each.id}]' for each in transitions)
            raise RosCommandError(f'Unknown transition requested, available ones are:{known}')
        if not _ask(ros, args.node_name, 'change_state', transition=asked[0]).success:
            raise RosCommandError('Transitioning failed')
    print('Transitioning successful')
