# ruff: noqa: N818 - the names are those of rclpy
"""The exceptions of `rclpy.exceptions` and `rclpy.executors`."""

from __future__ import annotations

from typing import Any


class MissingFeatureError(NotImplementedError, ImportError):
    """A feature of rclpy that this subset does not have."""

    def __init__(self, feature: str) -> None:
        super().__init__(
            f'{feature} is not part of the rclpy subset that runs without ROS 2 '
            '(see docs/rclpy-zenoh.md); source a ROS 2 installation to use it.'
        )


class NotInitializedException(Exception):
    """Raised when the context has not been initialised or was shut down."""

    def __init__(self, *args: Any) -> None:
        super().__init__('rclpy.init() has not been called', *args)


class NoTypeSupportImportedException(Exception):
    """Raised when a class is no message or service."""


class NameValidationException(Exception):
    """Raised when a topic, service, node or parameter name is malformed."""

    def __init__(self, name_type: str, name: str, error_msg: str, invalid_index: int) -> None:
        pointer = ' ' * invalid_index + '^'
        super().__init__(f"Invalid {name_type}: {error_msg}:\n  '{name}'\n   {pointer}")
        self.name_type = name_type
        self.name = name
        self.error_msg = error_msg
        self.invalid_index = invalid_index


class InvalidNodeNameException(NameValidationException):
    """Raised for a malformed node name."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__('node name', name, error_msg, invalid_index)


class InvalidNamespaceException(NameValidationException):
    """Raised for a malformed namespace."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__('namespace', name, error_msg, invalid_index)


class InvalidTopicNameException(NameValidationException):
    """Raised for a malformed topic name."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__('topic name', name, error_msg, invalid_index)


class InvalidServiceNameException(NameValidationException):
    """Raised for a malformed service name."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__('service name', name, error_msg, invalid_index)


class UnknownROSArgsError(Exception):
    """Raised for arguments after --ros-args that mean nothing."""


class ParameterException(Exception):
    """Base of all errors about parameters."""

    def __init__(self, error_msg: str, parameters: Any, *args: Any) -> None:
        super().__init__(f'{error_msg}: {parameters}', *args)


class ParameterNotDeclaredException(ParameterException):
    """Raised when a parameter was never declared."""

    def __init__(self, parameters: Any, *args: Any) -> None:
        super().__init__('Invalid access to undeclared parameter(s)', parameters, *args)


class ParameterAlreadyDeclaredException(ParameterException):
    """Raised when a parameter is declared twice."""

    def __init__(self, parameters: Any, *args: Any) -> None:
        super().__init__('Parameter(s) already declared', parameters, *args)


class ParameterUninitializedException(ParameterException):
    """Raised when a statically typed parameter is read before it has a value."""

    def __init__(self, parameter_name: str, *args: Any) -> None:
        Exception.__init__(self, f"The parameter '{parameter_name}' is not initialized", *args)


class ParameterImmutableException(ParameterException):
    """Raised when a read-only parameter is undeclared."""

    def __init__(self, parameter_name: str, *args: Any) -> None:
        super().__init__('Attempted to modify read-only parameter', parameter_name, *args)


class InvalidParameterException(ParameterException):
    """Raised for a malformed parameter name."""

    def __init__(self, parameter: Any, *args: Any) -> None:
        super().__init__('Invalid parameter name', parameter, *args)


class InvalidParameterTypeException(ParameterException):
    """Raised when a declared parameter gets a value of another type."""

    def __init__(self, desired_parameter: Any, expected_type: Any, *args: Any) -> None:
        Exception.__init__(
            self,
            f"Trying to set parameter '{desired_parameter.name}' to '{desired_parameter.value}' "
            f"of type '{desired_parameter.type_.name}', expecting type '{expected_type}'",
            *args,
        )
        self.param_name = desired_parameter.name


class InvalidParameterValueException(ParameterException):
    """Raised when a declared parameter's value is refused."""

    def __init__(self, parameter: Any, value: Any, reason: str, *args: Any) -> None:
        Exception.__init__(
            self,
            f'Invalid parameter value ({value}) for parameter. Reason: {reason}',
            *args,
        )
        self.parameter = parameter


class ROSInterruptException(Exception):
    """Raised when a blocking call is interrupted by a shutdown."""


class InvalidHandle(Exception):
    """Raised when a destroyed entity is used."""


class InvalidTopicException(Exception):
    """Raised by `wait_for_message` and friends for a topic that makes no sense."""


class ExternalShutdownException(Exception):
    """Raised by spinning when something else shut the context down (a signal, another thread)."""


class TimeoutException(Exception):
    """Raised when an operation takes longer than allowed."""


class ShutdownException(Exception):
    """Raised when an executor is used after its shutdown."""


class ConditionReachedException(Exception):
    """Raised when the condition that an executor waits for is met."""
