"""`rclpy.parameter_service`: the six services through which others reach a node's parameters."""

from __future__ import annotations

from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.exceptions import (
    ParameterNotDeclaredException,
    ParameterUninitializedException,
)
from dynamic_ofa_ros.rclpy_zenoh.messages import message_class, service_class
from dynamic_ofa_ros.rclpy_zenoh.parameter import Parameter, ParameterType
from dynamic_ofa_ros.rclpy_zenoh.qos import qos_profile_parameters


class ParameterService:
    """Offers `<node>/describe_parameters` and its five siblings."""

    def __init__(self, node: Any) -> None:
        self._node = node
        for name, callback in {
            'DescribeParameters': self._describe,
            'GetParameters': self._get,
            'GetParameterTypes': self._get_types,
            'ListParameters': self._list,
            'SetParameters': self._set,
            'SetParametersAtomically': self._set_atomically,
        }.items():
            snake = ''.join(f'_{c.lower()}' if c.isupper() else c for c in name)[1:]
            node.create_service(
                service_class(f'rcl_interfaces/srv/{name}'),
                f'~/{snake}',
                callback,
                qos_profile=qos_profile_parameters,
            )

    def _describe(self, request: Any, response: Any) -> Any:
        kind = message_class('rcl_interfaces/msg/ParameterDescriptor')
        for name in request.names:
            try:
                response.descriptors.append(self._node.describe_parameter(name))
            except ParameterNotDeclaredException:
                response.descriptors.append(kind(name=name))
        return response

    def _get(self, request: Any, response: Any) -> Any:
        for name in request.names:
            try:
                parameter = self._node.get_parameter(name)
            except (ParameterNotDeclaredException, ParameterUninitializedException):
                parameter = Parameter(name, ParameterType.NOT_SET)
            response.values.append(parameter.get_parameter_value())
        return response

    def _get_types(self, request: Any, response: Any) -> Any:
        for name in request.names:
            known = self._node.has_parameter(name)
            kind = self._node.get_parameter_type(name) if known else ParameterType.NOT_SET
            response.types.append(int(kind))
        return response

    def _list(self, request: Any, response: Any) -> Any:
        response.result = self._node.list_parameters(request.prefixes, request.depth)
        return response

    def _set(self, request: Any, response: Any) -> Any:
        for message in request.parameters:
            parameter = Parameter.from_parameter_msg(message)
            response.results.append(self._set_together([parameter]))
        return response

    def _set_atomically(self, request: Any, response: Any) -> Any:
        parameters = [Parameter.from_parameter_msg(message) for message in request.parameters]
        response.result = self._set_together(parameters)
        return response

    def _set_together(self, parameters: list[Parameter]) -> Any:
        try:
            return self._node.set_parameters_atomically(parameters)
        except ParameterNotDeclaredException as error:
            kind = message_class('rcl_interfaces/msg/SetParametersResult')
            return kind(successful=False, reason=str(error))
