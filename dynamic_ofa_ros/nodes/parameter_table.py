"""Declare parameters from tables, validate changes, and provide all values as one snapshot.

A change has three stages in rclpy: the pre-set callback converts an int given for a double, the
on-set callback validates all proposed values without changing anything, and the post-set callback
replaces the snapshot. Humble has only the on-set callback: there, doubles are declared with
dynamic typing, and the on-set callback replaces the snapshot after validation.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.parameter import Parameter

from dynamic_ofa_ros.errors import DynamicOfaError

MAX_SHOWN = 40
"""Longer values are truncated in messages."""

Value = bool | int | float | str
Settings = TypeVar('Settings')


class ParameterError(DynamicOfaError, ValueError):
    """A parameter value is invalid; the message contains the name, the value and the range."""


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter; its type is the type of its default value.

    meaning: the description, one sentence. lowest, highest: inclusive range of a number.
    choices: valid strings. pattern: a regular expression for valid strings; if set, `choices` is
    only their description for the user, such as `cuda:N`. is_live: whether the parameter can be
    changed while the node runs; otherwise it is read-only.
    """

    name: str
    default: Value
    meaning: str
    lowest: float = -math.inf
    highest: float = math.inf
    choices: tuple[str, ...] = ()
    pattern: str = ''
    is_live: bool = True

    @property
    def is_double(self) -> bool:
        """Whether the parameter is a double."""
        return isinstance(self.default, float)

    @property
    def has_range(self) -> bool:
        """Whether the parameter is a number with a range."""
        return math.isfinite(self.lowest) and math.isfinite(self.highest)

    @property
    def range_text(self) -> str:
        """The range or the choices as text; empty if all values of the type are valid."""
        if self.has_range:
            return f'{self.lowest:g} to {self.highest:g}'
        return ', '.join(self.choices)

    def coerced(self, value: Any) -> Any:
        """Convert an int to the parameter's type if that is double or string.

        Strings: the node receives `-p cpus:=1` and `-p path:=0` as integers.
        """
        if isinstance(value, int) and not isinstance(value, (bool, type(self.default))):
            if isinstance(self.default, float):
                return float(value)
            if isinstance(self.default, str):
                return str(value)
        return value

    def problem(self, value: Any) -> str:
        """Return an error message for an invalid value; empty if the value is valid."""
        value = self.coerced(value)
        shown = repr(value) if len(repr(value)) <= MAX_SHOWN else f'{repr(value)[:MAX_SHOWN]}...'
        if _type_word(value) != _type_word(self.default):
            return (
                f'{self.name} is {shown}; it must be {_type_word(self.default)}'
                f'{f": {self.range_text}" if self.range_text else ""}'
            )
        # `not a <= b <= c` is also true for NaN, so NaN is rejected.
        if self.has_range and not self.lowest <= value <= self.highest:
            return f'{self.name} is {value:g}; it must lie in [{self.lowest:g}, {self.highest:g}]'
        is_known = re.fullmatch(self.pattern, value) if self.pattern else value in self.choices
        if self.choices and not is_known:
            return f'{self.name} is {shown}; it must be one of: {", ".join(self.choices)}'
        return ''

    def descriptor(self, is_dynamically_typed: bool = False) -> Any:
        """Return the rcl_interfaces/msg/ParameterDescriptor; step 0 means a continuous range."""
        descriptor = ParameterDescriptor(
            name=self.name,
            type=Parameter.Type.from_parameter_value(self.default).value,
            description=self.meaning,
            additional_constraints=f'One of: {", ".join(self.choices)}' if self.choices else '',
            read_only=not self.is_live,
            dynamic_typing=is_dynamically_typed,
        )
        if self.has_range and self.is_double:
            descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=float(self.lowest), to_value=float(self.highest), step=0.0
                )
            ]
        elif self.has_range:
            descriptor.integer_range = [
                IntegerRange(from_value=int(self.lowest), to_value=int(self.highest), step=0)
            ]
        return descriptor


def _type_word(value: object) -> str:
    words = {bool: 'a bool', int: 'an integer', float: 'a double', str: 'a string'}
    return words.get(type(value), type(value).__name__)


def markdown_tables(specs: Iterable[ParameterSpec]) -> str:
    """Return Markdown tables of the read-only and the live parameters, without a last newline."""
    specs = tuple(specs)
    fixed = [spec for spec in specs if not spec.is_live]
    live = [spec for spec in specs if spec.is_live]
    return '\n\n'.join(
        f'{title}:\n\n{_markdown_table(part)}'
        for title, part in (('Read-only', fixed), ('Live', live))
        if part
    )


def _markdown_table(specs: Iterable[ParameterSpec]) -> str:
    lines = ['| name | values (bold: default) | meaning |', '|---|---|---|']
    lines += [f'| `{spec.name}` | {_values_text(spec)} | {spec.meaning} |' for spec in specs]
    return '\n'.join(lines)


def _values_text(spec: ParameterSpec) -> str:
    """Return the default in bold, with the range or among the choices."""
    if spec.choices:
        return ', '.join(f'**{word}**' if word == spec.default else word for word in spec.choices)
    default = str(spec.default).lower() if isinstance(spec.default, bool) else str(spec.default)
    texts = (f'**{default}**' if default else '', spec.range_text)
    return '; '.join(text for text in texts if text) or 'text'


def declare(node: Any, spec: ParameterSpec) -> Any:
    """Declare a parameter and return its value; raise ParameterError if an override is invalid."""
    is_dynamic = spec.is_double and not _has_stages(node)
    try:
        parameter = node.declare_parameter(spec.name, spec.default, spec.descriptor(is_dynamic))
    except InvalidParameterTypeException:
        return _declare_coerced(node, spec)
    except InvalidParameterValueException as error:
        raise ParameterError(spec.problem(_override(node, spec)) or str(error)) from error
    problem = spec.problem(parameter.value)
    if problem:
        raise ParameterError(problem)
    return spec.coerced(parameter.value)


def _declare_coerced(node: Any, spec: ParameterSpec) -> Any:
    """Declare a parameter whose override has another type; convert the override if possible.

    rclpy does not call pre-set callbacks for overrides.
    """
    value = spec.coerced(_override(node, spec))
    problem = spec.problem(value)
    if problem:
        raise ParameterError(problem)
    return node.declare_parameter(spec.name, value, spec.descriptor(), ignore_override=True).value


def _override(node: Any, spec: ParameterSpec) -> Any:
    """Return the override of any type that was given at the start."""
    node.declare_parameter(spec.name, spec.default, ParameterDescriptor(dynamic_typing=True))
    value = node.get_parameter(spec.name).value
    node.undeclare_parameter(spec.name)
    return value


def _has_stages(node: Any) -> bool:
    """Return whether rclpy has pre-set and post-set callbacks (not on Humble)."""
    return hasattr(node, 'add_pre_set_parameters_callback')


def warn_of_unknown(node: Any) -> None:
    """Log a warning for each unknown parameter that was given at the start."""
    # rclpy has no documented way to list overrides; without this attribute there is no warning.
    given = getattr(node, '_parameter_overrides', {})
    known = list(node.get_parameters_by_prefix(''))
    for name in sorted(set(given) - set(known)):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f'; did you mean {close[0]}?' if close else ''
        node.get_logger().warning(f'unknown parameter {name} is ignored{hint}')


def reject_unknown_types(node: Any) -> None:
    """Reply to requests with an unknown parameter type; otherwise, rclpy ends the node."""
    for service in node.services:
        if service.srv_type in (SetParameters, SetParametersAtomically):
            service.callback = functools.partial(_set_known_types, service.callback)


def _set_known_types(callback: Callable[[Any, Any], Any], request: Any, response: Any) -> Any:
    known = {kind.value for kind in Parameter.Type}
    for parameter in request.parameters:
        if parameter.value.type not in known:
            reason = f'{parameter.name} has the unknown type {parameter.value.type}'
            result = SetParametersResult(successful=False, reason=reason)
            if isinstance(response, SetParametersAtomically.Response):
                response.result = result
            else:
                response.results = [result] * len(request.parameters)
            return response
    return callback(request, response)


class NodeParameters(Generic[Settings]):
    """The parameters of a node, declared from a table and read as one immutable snapshot.

    build: creates the snapshot from all values by name, and raises DynamicOfaError for an invalid
    combination of values. It is called for every proposed change and must have no side effects.
    on_change: called with the old and the new snapshot after a change, on the executor's thread.
    """

    def __init__(
        self,
        node: Any,
        build: Callable[[Mapping[str, Any]], Settings],
        on_change: Callable[[Settings, Settings], None],
    ) -> None:
        self._node = node
        self._build = build
        self._on_change = on_change
        self._specs: dict[str, ParameterSpec] = {}
        self._values: dict[str, Any] = {}
        self._snapshot: Settings | None = None
        self._has_stages = _has_stages(node)

    @property
    def values(self) -> Mapping[str, Any]:
        """The current values, by name."""
        return dict(self._values)

    @property
    def snapshot(self) -> Settings:
        """The current settings; RuntimeError before `activate`."""
        if self._snapshot is None:
            raise RuntimeError('activate() was not called')
        return self._snapshot

    def declare(self, specs: Iterable[ParameterSpec]) -> Mapping[str, Any]:
        """Declare parameters; return the values, including overrides, of all declared so far.

        Raise ParameterError if an override is invalid.
        """
        for spec in specs:
            self._values[spec.name] = declare(self._node, spec)
            self._specs[spec.name] = spec
        return dict(self._values)

    def activate(self) -> Settings:
        """Build and return the first snapshot, and accept changes from now on."""
        self._snapshot = self._build(self._values)
        if self._has_stages:
            self._node.add_pre_set_parameters_callback(self._coerce)
            self._node.add_post_set_parameters_callback(self._swap)
        self._node.add_on_set_parameters_callback(self._validate)
        return self._snapshot

    def _coerce(self, parameters: Sequence[Any]) -> list[Any]:
        return [self._coerced(parameter) for parameter in parameters]

    def _coerced(self, parameter: Any) -> Any:
        spec = self._specs.get(parameter.name)
        if spec is None or spec.coerced(parameter.value) is parameter.value:
            return parameter
        return Parameter(parameter.name, value=spec.coerced(parameter.value))

    def _proposed(self, parameters: Sequence[Any]) -> dict[str, Any]:
        """Return all values after a change; other parameters (use_sim_time) are ignored."""
        proposed = dict(self._values)
        for parameter in parameters:
            spec = self._specs.get(parameter.name)
            if spec is not None:
                proposed[parameter.name] = spec.coerced(parameter.value)
        return proposed

    def _validate(self, parameters: Sequence[Any]) -> Any:
        for parameter in parameters:
            spec = self._specs.get(parameter.name)
            problem = spec.problem(parameter.value) if spec is not None else ''
            if problem:
                return SetParametersResult(successful=False, reason=problem)
        try:
            self._build(self._proposed(parameters))
        except DynamicOfaError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if not self._has_stages:
            self._swap(parameters)
        return SetParametersResult(successful=True)

    def _swap(self, parameters: Sequence[Any]) -> None:
        proposed = self._proposed(parameters)
        if proposed == self._values:
            return
        before, after = self.snapshot, self._build(proposed)
        self._values, self._snapshot = proposed, after
        self._on_change(before, after)
