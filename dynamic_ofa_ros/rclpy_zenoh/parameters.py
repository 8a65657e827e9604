"""A node's parameters: declaring, setting, descriptors, callbacks, events."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterAlreadyDeclaredException,
    ParameterImmutableException,
    ParameterNotDeclaredException,
    ParameterUninitializedException,
)
from dynamic_ofa_ros.rclpy_zenoh.messages import message_class
from dynamic_ofa_ros.rclpy_zenoh.names import validate_parameter_name
from dynamic_ofa_ros.rclpy_zenoh.parameter import Parameter, ParameterType

# Edges of a floating point range, and steps in it, are compared with this tolerance, as in rcl.
RELATIVE_TOLERANCE = 1e-7

PreSetCallback = Callable[[list[Parameter]], list[Parameter]]
OnSetCallback = Callable[[list[Parameter]], Any]
PostSetCallback = Callable[[list[Parameter]], None]


def _result(reason: str = '') -> Any:
    """Return a SetParametersResult; without a reason it is a success."""
    kind = message_class('rcl_interfaces/msg/SetParametersResult')
    return kind(successful=not reason, reason=reason)


class Parameters:
    """The parameters of one node."""

    def __init__(
        self,
        overrides: dict[str, Parameter],
        *,
        allow_undeclared: bool,
        publish_event: Callable[[Any], None],
    ) -> None:
        self.overrides = overrides
        self.allow_undeclared = allow_undeclared
        self.values: dict[str, Parameter] = {}
        self.descriptors: dict[str, Any] = {}
        self.pre_set: list[PreSetCallback] = []
        self.on_set: list[OnSetCallback] = []
        self.post_set: list[PostSetCallback] = []
        self._publish_event = publish_event

    # Declaring

    def declare(
        self, name: str, value: Any, descriptor: Any | None, *, ignore_override: bool
    ) -> Parameter:
        """Declare one parameter from a default value, or from a type without a default.

        Raises ParameterAlreadyDeclaredException, InvalidParameterTypeException,
        InvalidParameterValueException, InvalidParameterException or ValueError.
        """
        validate_parameter_name(name)
        kind = message_class('rcl_interfaces/msg/ParameterDescriptor')
        if descriptor is None:
            descriptor = kind()
        elif not isinstance(descriptor, kind):
            raise TypeError(
                f'Third element {descriptor!r} for parameter {name!r} is not a ParameterDescriptor'
            )
        descriptor = copy.deepcopy(descriptor)  # one may serve several parameters
        if name in self.values:
            raise ParameterAlreadyDeclaredException([name])
        if isinstance(value, ParameterType):
            if value is ParameterType.NOT_SET:
                raise ValueError(f"Cannot declare parameter {name!r} with 'NOT_SET' as type")
            if descriptor.dynamic_typing:
                raise ValueError(
                    f'When declaring parameter {name!r}: a static type and dynamic typing exclude '
                    'each other'
                )
            descriptor.type = int(value)
            value = None
        elif not descriptor.dynamic_typing:
            inferred = ParameterType.from_parameter_value(value)
            if inferred is ParameterType.NOT_SET:
                raise ValueError(
                    f'Cannot declare parameter {name!r} without a type: give a default value, a '
                    'Parameter.Type, or a descriptor with dynamic_typing'
                )
            descriptor.type = int(inferred)
        if not ignore_override and name in self.overrides:
            value = self.overrides[name].value
        descriptor.name = name
        parameter = Parameter(name, value=value)
        result = self._apply([parameter], {name: descriptor}, is_declaration=True)
        if not result.successful:
            if result.reason.startswith('Wrong parameter type'):
                raise InvalidParameterTypeException(parameter, ParameterType(descriptor.type))
            raise InvalidParameterValueException(name, value, result.reason)
        return self.values[name]

    def undeclare(self, name: str) -> None:
        """Forget a parameter; raises if it is unknown, or read-only."""
        self.check_declared([name])
        if self.descriptors[name].read_only:
            raise ParameterImmutableException(name)
        del self.values[name]
        del self.descriptors[name]

    def check_declared(self, names: Iterable[str]) -> None:
        """Raise ParameterNotDeclaredException for names that are not declared."""
        unknown = [name for name in names if name not in self.descriptors]
        if unknown and not self.allow_undeclared:
            raise ParameterNotDeclaredException(unknown)

    # Reading

    def get(self, name: str) -> Parameter:
        """Return a parameter.

        Raises ParameterNotDeclaredException, or ParameterUninitializedException where it was
        declared by type only and never set.
        """
        if name in self.values:
            parameter = self.values[name]
            if parameter.type_ is ParameterType.NOT_SET and not (
                self.descriptors[name].dynamic_typing
            ):
                raise ParameterUninitializedException(name)
            return parameter
        if self.allow_undeclared:
            return Parameter(name, ParameterType.NOT_SET, None)
        raise ParameterNotDeclaredException([name])

    def describe(self, name: str) -> Any:
        """Return a parameter's descriptor; ParameterNotDeclaredException if there is none."""
        if name not in self.descriptors:
            if self.allow_undeclared:
                return message_class('rcl_interfaces/msg/ParameterDescriptor')()
            raise ParameterNotDeclaredException([name])
        return self.descriptors[name]

    def under(self, prefixes: Sequence[str], depth: int) -> Any:
        """Return ListParametersResult of the names under prefixes, down to a depth (0: all)."""
        names = []
        for name in self.values:
            if not prefixes:
                if depth == 0 or name.count('.') < depth:
                    names.append(name)
                continue
            for prefix in prefixes:
                inside = name.startswith(f'{prefix}.')
                if name == prefix or (
                    inside and (depth == 0 or name[len(prefix) :].count('.') <= depth)
                ):
                    names.append(name)
                    break
        groups = {name.rpartition('.')[0] for name in names if '.' in name}
        kind = message_class('rcl_interfaces/msg/ListParametersResult')
        return kind(names=sorted(names), prefixes=sorted(groups))

    # Setting

    def set_each(self, parameters: Sequence[Parameter]) -> list[Any]:
        """Set parameters one by one; return a SetParametersResult each."""
        return [self._set([parameter]) for parameter in parameters]

    def set_atomically(self, parameters: Sequence[Parameter]) -> Any:
        """Set all of the parameters or none; return one SetParametersResult."""
        return self._set(list(parameters))

    def _set(self, parameters: list[Parameter]) -> Any:
        if self.pre_set:
            # Several callbacks: what they return is concatenated, as in rclpy.
            parameters = [changed for callback in self.pre_set for changed in callback(parameters)]
            if not parameters:
                return _result(
                    'parameter list cannot be empty, this might be due to '
                    'pre_set_parameters_callback modifying the original parameters list.'
                )
        self.check_declared(parameter.name for parameter in parameters)
        return self._apply(parameters, {}, is_declaration=False)

    def _apply(
        self, parameters: list[Parameter], descriptors: dict[str, Any], *, is_declaration: bool
    ) -> Any:
        """Check everything, then store everything, publish the event, and call back."""
        kind = message_class('rcl_interfaces/msg/ParameterDescriptor')
        for parameter in parameters:
            if not is_declaration:
                known = self.descriptors.get(parameter.name)
                descriptors[parameter.name] = (
                    kind(name=parameter.name, dynamic_typing=True) if known is None else known
                )
            reason = self._refusal(
                parameter, descriptors[parameter.name], check_read_only=not is_declaration
            )
            if reason:
                return _result(reason)
        for callback in self.on_set:
            result = callback(parameters)
            if not result.successful:
                return result
        event = message_class('rcl_interfaces/msg/ParameterEvent')()
        for parameter in parameters:
            name = parameter.name
            if parameter.type_ is ParameterType.NOT_SET and not is_declaration:
                event.deleted_parameters.append(parameter.to_parameter_msg())
                self.values.pop(name, None)
                self.descriptors.pop(name, None)
                continue
            changed = event.changed_parameters if name in self.values else event.new_parameters
            changed.append(parameter.to_parameter_msg())
            descriptor = descriptors[name]
            if descriptor.dynamic_typing:
                descriptor.type = int(parameter.type_)
            self.descriptors[name] = descriptor
            self.values[name] = parameter
        self._publish_event(event)
        for post_callback in self.post_set:
            post_callback(parameters)
        return _result()

    def _refusal(self, parameter: Parameter, descriptor: Any, *, check_read_only: bool) -> str:
        """Return why a value does not fit a descriptor; empty if it does."""
        name = parameter.name
        if check_read_only and descriptor.read_only:
            return f'Trying to set a read-only parameter: {name}.'
        kind = parameter.type_
        if not descriptor.dynamic_typing:
            if kind is ParameterType.NOT_SET:
                return 'Static parameter cannot be undeclared' if name in self.values else ''
            if kind.value != descriptor.type:
                expected = ParameterType(descriptor.type)
                return f"Wrong parameter type, expected '{expected}' got '{kind}'"
        if kind is ParameterType.INTEGER and descriptor.integer_range:
            return _integer_refusal(parameter, descriptor.integer_range[0])
        if kind is ParameterType.DOUBLE and descriptor.floating_point_range:
            return _double_refusal(parameter, descriptor.floating_point_range[0])
        return ''


def _integer_refusal(parameter: Parameter, allowed: Any) -> str:
    low, high = sorted((allowed.from_value, allowed.to_value))
    value = parameter.value
    if value in (low, high):
        return ''
    if not low < value < high:
        return f'Parameter {parameter.name} out of range. Min: {low}, Max: {high}, value: {value}'
    if allowed.step and (value - low) % allowed.step:
        return (
            f'The parameter value for {parameter.name} is not a valid step. '
            f'Min: {low}, max: {high}, value: {value}, step: {allowed.step}'
        )
    return ''


def _double_refusal(parameter: Parameter, allowed: Any) -> str:
    low, high = sorted((allowed.from_value, allowed.to_value))
    value = parameter.value
    if any(math.isclose(value, edge, rel_tol=RELATIVE_TOLERANCE) for edge in (low, high)):
        return ''
    if not low < value < high:
        return f'Parameter {parameter.name} out of range Min: {low}, Max: {high}, value: {value}'
    if allowed.step:
        nearest = round((value - low) / allowed.step) * allowed.step
        if not math.isclose(low + nearest, value, rel_tol=RELATIVE_TOLERANCE):
            return (
                f'The parameter value for {parameter.name} is not close enough to a valid step. '
                f'Min: {low}, max: {high}, value: {value}, step: {allowed.step}'
            )
    return ''


class ParameterMethods:
    """The methods of `rclpy.node.Node` that are about parameters."""

    _parameters: Parameters

    def declare_parameter(
        self,
        name: str,
        value: Any = None,
        descriptor: Any | None = None,
        ignore_override: bool = False,
    ) -> Parameter:
        """Declare a parameter and return it, with the value of an override if there is one."""
        if value is None and descriptor is None:
            warnings.warn(
                f'declaring a parameter by its name only is deprecated: {name!r}. '
                'Give a default value, a type, or a descriptor.',
                stacklevel=2,
            )
            descriptor = message_class('rcl_interfaces/msg/ParameterDescriptor')(
                dynamic_typing=True
            )
        return self._parameters.declare(name, value, descriptor, ignore_override=ignore_override)

    def declare_parameters(
        self, namespace: str, parameters: Sequence[tuple[Any, ...]], ignore_override: bool = False
    ) -> list[Parameter]:
        """Declare several parameters `(name, value, descriptor)` under a common prefix."""
        declared = []
        for index, entry in enumerate(parameters):
            if not 1 <= len(entry) <= 3:
                raise TypeError(
                    f'Invalid parameter tuple length at index {index} in parameters list: {entry}'
                    '; expecting length between 1 and 3'
                )
            name = f'{namespace}.{entry[0]}' if namespace else entry[0]
            value = entry[1] if len(entry) > 1 else None
            descriptor = entry[2] if len(entry) > 2 else None
            declared.append(self.declare_parameter(name, value, descriptor, ignore_override))
        return declared

    def undeclare_parameter(self, name: str) -> None:
        """Forget a parameter."""
        self._parameters.undeclare(name)

    def has_parameter(self, name: str) -> bool:
        """Return whether a parameter is declared."""
        return name in self._parameters.values

    def get_parameter_types(self, names: Sequence[str]) -> list[ParameterType]:
        """Return the types of some parameters."""
        return [self.get_parameter_type(name) for name in names]

    def get_parameter_type(self, name: str) -> ParameterType:
        """Return the type of a parameter."""
        if name in self._parameters.values:
            return self._parameters.values[name].type_
        if self._parameters.allow_undeclared:
            return ParameterType.NOT_SET
        raise ParameterNotDeclaredException([name])

    def get_parameters(self, names: Sequence[str]) -> list[Parameter]:
        """Return some parameters."""
        if not all(isinstance(name, str) for name in names):
            raise TypeError('All names must be instances of type str')
        return [self._parameters.get(name) for name in names]

    def get_parameter(self, name: str) -> Parameter:
        """Return a parameter."""
        return self._parameters.get(name)

    def get_parameter_or(self, name: str, alternative_value: Parameter | None = None) -> Parameter:
        """Return a parameter, or the alternative where it is not set."""
        if name in self._parameters.values and (
            self._parameters.values[name].type_ is not ParameterType.NOT_SET
        ):
            return self._parameters.values[name]
        return alternative_value or Parameter(name, ParameterType.NOT_SET)

    def get_parameters_by_prefix(self, prefix: str) -> dict[str, Parameter]:
        """Return {name without the prefix: parameter} of a group."""
        start = f'{prefix}.' if prefix else ''
        return {
            name[len(start) :]: parameter
            for name, parameter in self._parameters.values.items()
            if name.startswith(start)
        }

    def list_parameters(self, prefixes: Sequence[str], depth: int) -> Any:
        """Return the names under some prefixes, as ListParametersResult."""
        return self._parameters.under(prefixes, depth)

    def describe_parameter(self, name: str) -> Any:
        """Return a parameter's descriptor."""
        return self._parameters.describe(name)

    def describe_parameters(self, names: Sequence[str]) -> list[Any]:
        """Return descriptors."""
        return [self._parameters.describe(name) for name in names]

    def set_descriptor(
        self, name: str, descriptor: Any, alternative_value: Any | None = None
    ) -> Any:
        """Replace a parameter's descriptor; its value must fit."""
        self._parameters.check_declared([name])
        if self._parameters.descriptors[name].read_only:
            raise ParameterImmutableException(name)
        current = self._parameters.values[name]
        reason = self._parameters._refusal(current, descriptor, check_read_only=False)
        if reason:
            raise InvalidParameterValueException(name, current.value, reason)
        self._parameters.descriptors[name] = descriptor
        return self._parameters.values[name].get_parameter_value()

    def set_parameters(self, parameter_list: Sequence[Parameter]) -> list[Any]:
        """Set parameters one by one; ParameterNotDeclaredException for an unknown one."""
        return self._parameters.set_each(parameter_list)

    def set_parameters_atomically(self, parameter_list: Sequence[Parameter]) -> Any:
        """Set all of the parameters or none."""
        return self._parameters.set_atomically(parameter_list)

    def add_pre_set_parameters_callback(self, callback: PreSetCallback) -> None:
        """Let a callback change what is about to be set."""
        self._parameters.pre_set.insert(0, callback)

    def add_on_set_parameters_callback(self, callback: OnSetCallback) -> None:
        """Let a callback refuse what is about to be set; the last one added is asked first."""
        self._parameters.on_set.insert(0, callback)

    def add_post_set_parameters_callback(self, callback: PostSetCallback) -> None:
        """Call back after parameters were set."""
        self._parameters.post_set.insert(0, callback)

    def remove_pre_set_parameters_callback(self, callback: PreSetCallback) -> None:
        """Undo `add_pre_set_parameters_callback`; ValueError if it was not added."""
        self._parameters.pre_set.remove(callback)

    def remove_on_set_parameters_callback(self, callback: OnSetCallback) -> None:
        """Undo `add_on_set_parameters_callback`; ValueError if it was not added."""
        self._parameters.on_set.remove(callback)

    def remove_post_set_parameters_callback(self, callback: PostSetCallback) -> None:
        """Undo `add_post_set_parameters_callback`; ValueError if it was not added."""
        self._parameters.post_set.remove(callback)
