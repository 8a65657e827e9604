"""Values of launch arguments as parameters of a node; requires launch_ros."""

from __future__ import annotations

from launch.substitutions import LaunchConfiguration
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext

_WORDS = {int: 'an integer', float: 'a number'}


class _Number(LaunchConfiguration):  # type: ignore[misc]  # launch is untyped
    """The text of an argument that must be a number."""

    def __init__(self, argument: str, value_type: type) -> None:
        super().__init__(argument)
        self._argument, self._value_type = argument, value_type

    def perform(self, context: LaunchContext) -> str:
        """Return the text; raise ValueError with the name of the argument if it is no number."""
        text = str(super().perform(context))
        try:
            self._value_type(text)
        except ValueError:
            word = _WORDS[self._value_type]
            raise ValueError(f'{self._argument} is {text!r}; it must be {word}') from None
        return text


def typed(argument: str, value_type: type) -> ParameterValue:
    """Return the value of a launch argument as a parameter of a type."""
    is_number = value_type in _WORDS
    text = _Number(argument, value_type) if is_number else LaunchConfiguration(argument)
    return ParameterValue(text, value_type=value_type)
