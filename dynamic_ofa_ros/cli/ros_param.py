"""`dynamic-ofa ros param`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from dynamic_ofa_ros.cli.ros_node import existing_node, visible_nodes
from dynamic_ofa_ros.cli.ros_support import (
    RosCommandError,
    call_service,
    command_node,
    suggestion,
)
from dynamic_ofa_ros.rclpy_zenoh import wire
from dynamic_ofa_ros.rclpy_zenoh.message_yaml import dump
from dynamic_ofa_ros.rclpy_zenoh.messages import message_class, service_class
from dynamic_ofa_ros.rclpy_zenoh.node import Node
from dynamic_ofa_ros.rclpy_zenoh.parameter import (
    ParameterType,
    get_parameter_value,
    parameter_value_to_python,
)

_LABELS = {
    ParameterType.BOOL: 'Boolean value is:',
    ParameterType.INTEGER: 'Integer value is:',
    ParameterType.DOUBLE: 'Double value is:',
    ParameterType.STRING: 'String value is:',
    ParameterType.BYTE_ARRAY: 'Byte values are:',
    ParameterType.BOOL_ARRAY: 'Boolean values are:',
    ParameterType.INTEGER_ARRAY: 'Integer values are:',
    ParameterType.DOUBLE_ARRAY: 'Double values are:',
    ParameterType.STRING_ARRAY: 'String values are:',
}


class _RemoteParameters:
    """The parameters of another node, through its services."""

    def __init__(self, node: Node, remote: str, timeout_s: float) -> None:
        self._node = node
        self._remote = remote
        self._timeout_s = timeout_s

    @property
    def is_available(self) -> bool:
        """Return whether the node offers its parameters."""
        return bool(
            self._node.context.graph.tokens([wire.SERVICE], f'{self._remote}/list_parameters')
        )

    def call(self, service: str, **fields: Any) -> Any:
        """Call one of the parameter services and return its response."""
        kind = service_class(f'rcl_interfaces/srv/{service}')
        snake = ''.join(f'_{c.lower()}' if c.isupper() else c for c in service)[1:]
        request = kind.Request(**fields)
        name = f'{self._remote}/{snake}'
        return call_service(self._node, kind, name, request, self._timeout_s)

    def names(self) -> list[str]:
        """Return the names of all parameters, sorted."""
        return sorted(self.call('ListParameters').result.names)

    def check(self, names: list[str]) -> None:
        """Raise RosCommandError with the nearest name for a parameter that does not exist."""
        known = self.names()
        for name in names:
            if name not in known:
                raise RosCommandError(
                    f"The node '{self._remote}' has no parameter '{name}'{suggestion(name, known)}"
                )

    def values(self, names: list[str]) -> list[Any]:
        """Return ParameterValue messages."""
        values: list[Any] = self.call('GetParameters', names=names).values
        return values


def _remote(node: Node, args: argparse.Namespace) -> _RemoteParameters:
    return _RemoteParameters(node, existing_node(node, args.node), args.timeout)


def param_list(args: argparse.Namespace) -> int:
    """List parameters of one node, or of all."""
    with command_node() as node:
        remotes = [existing_node(node, args.node)] if args.node else visible_nodes(node)
        for remote in remotes:
            parameters = _RemoteParameters(node, remote, args.timeout)
            if not args.node:
                if not parameters.is_available:
                    continue
                print(f'{remote}:')
            names = parameters.names()
            values = parameters.values(names) if args.param_type else []
            for index, name in enumerate(names):
                kind = f' (type: {_type_name(values[index].type)})' if values else ''
                print(f'  {name}{kind}', flush=True)
    return 0


def _type_name(kind: int) -> str:
    return ParameterType(kind).name.lower().replace('_', ' ')


def param_get(args: argparse.Namespace) -> int:
    """Show the value of a parameter."""
    with command_node() as node:
        parameters = _remote(node, args)
        parameters.check([args.name])
        value = parameters.values([args.name])[0]
    kind = ParameterType(value.type)
    if kind is ParameterType.NOT_SET:
        print('Parameter not set.')
        return 1
    shown = parameter_value_to_python(value)
    print(shown if args.hide_type else f'{_LABELS[kind]} {shown}')
    return 0


def param_set(args: argparse.Namespace) -> int:
    """Set a parameter; 1 if the node refuses it."""
    with command_node() as node:
        parameters = _remote(node, args)
        parameter = message_class('rcl_interfaces/msg/Parameter')(
            name=args.name, value=get_parameter_value(args.value)
        )
        result = parameters.call('SetParameters', parameters=[parameter]).results[0]
        if result.successful:
            print('Set parameter successful')
            return 0
        if args.name not in (names := parameters.names()):
            result.reason += suggestion(args.name, names)
    print(f'Setting parameter failed: {result.reason}', file=sys.stderr)
    return 1


def param_describe(args: argparse.Namespace) -> int:
    """Show type, description and limits of parameters."""
    with command_node() as node:
        parameters = _remote(node, args)
        parameters.check(args.names)
        descriptors = parameters.call('DescribeParameters', names=args.names).descriptors
    for descriptor in descriptors:
        print(f'Parameter name: {descriptor.name}')
        print(f'  Type: {_type_name(descriptor.type)}')
        if descriptor.description:
            print(f'  Description: {descriptor.description}')
        print('  Constraints:')
        for limits in (*descriptor.floating_point_range, *descriptor.integer_range):
            print(f'    Min value: {limits.from_value}')
            print(f'    Max value: {limits.to_value}')
            if limits.step:
                print(f'    Step: {limits.step}')
        if descriptor.read_only:
            print('    Read only: true')
        if descriptor.additional_constraints:
            print(f'    Additional constraints: {descriptor.additional_constraints}')
    return 0


def param_dump(args: argparse.Namespace) -> int:
    """Show all parameters of a node as a parameter file."""
    with command_node() as node:
        remote = existing_node(node, args.node)
        parameters = _RemoteParameters(node, remote, args.timeout)
        names = parameters.names()
        values = parameters.values(names)
    tree: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        if value.type == ParameterType.NOT_SET:
            continue
        *groups, last = name.split('.')
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[last] = parameter_value_to_python(value)
    print(dump({remote: {'ros__parameters': tree}}), end='')
    return 0
