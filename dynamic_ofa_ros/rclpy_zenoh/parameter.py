"""`rclpy.parameter`: typed parameter values."""

from __future__ import annotations

import array
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.arguments import load_yaml, read_parameter_file
from dynamic_ofa_ros.rclpy_zenoh.messages import message_class

PARAMETER_SEPARATOR_STRING = '.'

__all__ = [
    'PARAMETER_SEPARATOR_STRING',
    'Parameter',
    'get_parameter_value',
    'parameter_value_to_python',
    'read_parameter_file',
]


def _all(value: Any, kind: type) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, kind) for item in value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class ParameterType(IntEnum):
    """Type of a parameter; the values are those of rcl_interfaces/msg/ParameterType."""

    NOT_SET = 0
    BOOL = 1
    INTEGER = 2
    DOUBLE = 3
    STRING = 4
    BYTE_ARRAY = 5
    BOOL_ARRAY = 6
    INTEGER_ARRAY = 7
    DOUBLE_ARRAY = 8
    STRING_ARRAY = 9

    def __str__(self) -> str:
        return f'Type.{self.name}'

    __repr__ = __str__

    @classmethod
    def from_parameter_value(cls, value: Any) -> ParameterType:
        """Return the type of a Python value; TypeError if a parameter cannot hold it."""
        if value is None:
            return cls.NOT_SET
        for kind, check in _CHECKS.items():
            if check(value):
                return kind
        raise TypeError(
            f"The given value is not one of the allowed types '{value}'. A list must hold values "
            'of one type.'
        )

    def check(self, value: Any) -> bool:
        """Return whether a Python value is of this type."""
        if self is ParameterType.NOT_SET:
            return value is None
        return _CHECKS[self](value)


# In the order in which a value's type is inferred: an empty list is a byte array, as in rclpy.
_CHECKS: dict[ParameterType, Callable[[Any], bool]] = {
    ParameterType.BOOL: lambda value: isinstance(value, bool),
    ParameterType.INTEGER: _is_integer,
    ParameterType.DOUBLE: lambda value: isinstance(value, float),
    ParameterType.STRING: lambda value: isinstance(value, str),
    ParameterType.BYTE_ARRAY: lambda value: (
        isinstance(value, (list, tuple))
        and all(isinstance(item, bytes) and len(item) == 1 for item in value)
    ),
    ParameterType.BOOL_ARRAY: lambda value: _all(value, bool),
    ParameterType.INTEGER_ARRAY: lambda value: (
        (isinstance(value, array.array) and value.typecode not in 'fd')
        or (_all(value, int) and not any(isinstance(item, bool) for item in value))
    ),
    ParameterType.DOUBLE_ARRAY: lambda value: (
        (isinstance(value, array.array) and value.typecode in 'fd') or _all(value, float)
    ),
    ParameterType.STRING_ARRAY: lambda value: _all(value, str),
}

_VALUE_FIELDS = {
    ParameterType.BOOL: 'bool_value',
    ParameterType.INTEGER: 'integer_value',
    ParameterType.DOUBLE: 'double_value',
    ParameterType.STRING: 'string_value',
    ParameterType.BYTE_ARRAY: 'byte_array_value',
    ParameterType.BOOL_ARRAY: 'bool_array_value',
    ParameterType.INTEGER_ARRAY: 'integer_array_value',
    ParameterType.DOUBLE_ARRAY: 'double_array_value',
    ParameterType.STRING_ARRAY: 'string_array_value',
}


class Parameter:
    """A name with a typed value."""

    Type = ParameterType

    def __init__(self, name: str, type_: ParameterType | None = None, value: Any = None) -> None:
        if type_ is None:
            type_ = ParameterType.from_parameter_value(value)
        if not isinstance(type_, ParameterType):
            raise TypeError("type must be an instance of '<enum 'Type'>'")
        if not type_.check(value):
            raise ValueError(f"Type '{type_}' and value '{value}' do not agree")
        self._type_ = type_
        self._name = name
        self._value = value

    @classmethod
    def from_parameter_msg(cls, param_msg: Any) -> Parameter:
        """Return a Parameter from rcl_interfaces/msg/Parameter."""
        value = param_msg.value
        kind = ParameterType(value.type)
        return cls(param_msg.name, kind, parameter_value_to_python(value))

    @property
    def name(self) -> str:
        """Return the full name, groups separated by dots."""
        return self._name

    @property
    def type_(self) -> ParameterType:
        """Return the type of the value."""
        return self._type_

    @property
    def value(self) -> Any:
        """Return the value."""
        return self._value

    def get_parameter_value(self) -> Any:
        """Return the value as rcl_interfaces/msg/ParameterValue."""
        message = message_class('rcl_interfaces/msg/ParameterValue')(type=int(self._type_))
        if self._type_ is not ParameterType.NOT_SET:
            setattr(message, _VALUE_FIELDS[self._type_], self._value)
        return message

    def to_parameter_msg(self) -> Any:
        """Return rcl_interfaces/msg/Parameter."""
        return message_class('rcl_interfaces/msg/Parameter')(
            name=self._name, value=self.get_parameter_value()
        )

    def __repr__(self) -> str:
        return f'Parameter(name={self._name!r}, type_={self._type_}, value={self._value!r})'


def parameter_value_to_python(parameter_value: Any) -> Any:
    """Return the Python value of rcl_interfaces/msg/ParameterValue; None if not set."""
    kind = ParameterType(parameter_value.type)
    if kind is ParameterType.NOT_SET:
        return None
    value = getattr(parameter_value, _VALUE_FIELDS[kind])
    return value.tolist() if isinstance(value, array.array) else value


def get_parameter_value(string_value: str) -> Any:
    """Guess a ParameterValue from text by YAML's rules, as `ros2 param set` does."""
    try:
        value = load_yaml(string_value)
    except Exception:
        value = string_value
    try:
        return Parameter('value', value=value).get_parameter_value()
    except TypeError:
        return Parameter('value', value=string_value).get_parameter_value()
