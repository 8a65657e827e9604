"""Values of launch arguments as parameters of a node; requires launch_ros."""

from __future__ import annotations

# ruff: noqa: I001 - ruff mistakes `launch` for the folder of the launch files

import contextlib

import yaml
from launch import LaunchContext
from launch.substitutions import LaunchConfiguration
from launch_ros.parameter_descriptions import ParameterValue


class _Number(LaunchConfiguration):  # type: ignore[misc]  # launch is untyped
    """The number in an argument as YAML, or another text as it is, which the node rejects.

    launch does not name the argument, and if it ends with an exception, nodes that it has started
    before keep running.
    """

    def __init__(self, argument: str, value_type: type) -> None:
        super().__init__(argument)
        self._value_type = value_type

    def perform(self, context: LaunchContext) -> str:
        """Return the text of the argument as YAML."""
        value = str(super().perform(context))
        with contextlib.suppress(ValueError):
            value = self._value_type(value)
        return str(yaml.safe_dump(value))


def typed(argument: str, value_type: type) -> ParameterValue:
    """Return the value of a launch argument as a parameter of a type."""
    if value_type in (int, float):
        return ParameterValue(_Number(argument, value_type))
    return ParameterValue(LaunchConfiguration(argument), value_type=value_type)
