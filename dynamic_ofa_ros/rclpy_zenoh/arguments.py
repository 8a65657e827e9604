"""What stands after `--ros-args`: remapping, parameters, logging."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dynamic_ofa_ros.rclpy_zenoh.exceptions import UnknownROSArgsError
from dynamic_ofa_ros.rclpy_zenoh.names import Remap

PARAMETERS_KEY = 'ros__parameters'


class _RosLoader(yaml.SafeLoader):
    """YAML as ROS reads it: `1e3` is a number too."""


_RosLoader.add_implicit_resolver(
    'tag:yaml.org,2002:float',
    re.compile(
        r"""^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9]+[eE][-+]?[0-9]+
        |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
        re.X,
    ),
    list('-+0123456789.'),
)


def load_yaml(text: str) -> Any:
    """Parse YAML text with ROS's typing of scalars; yaml.YAMLError if it is malformed."""
    return yaml.load(text, Loader=_RosLoader)


@dataclass(frozen=True)
class ParameterRule:
    """Parameters for the nodes that a pattern (`/**`, `/ns/*`, a node's name) matches."""

    pattern: str
    values: Mapping[str, Any]

    def matches(self, name: str, namespace: str) -> bool:
        """Return whether the rule is for this node."""
        full = f'{namespace.rstrip("/")}/{name}'
        pattern = self.pattern if self.pattern.startswith('/') else f'/{self.pattern}'
        parts = []
        for token in pattern.strip('/').split('/'):
            if token == '**':
                parts.append('(/[^/]+)*')
            elif token == '*':
                parts.append('/[^/]+')
            else:
                parts.append('/' + re.escape(token))
        return re.fullmatch(''.join(parts), full) is not None


@dataclass(frozen=True)
class RosArguments:
    """Parsed ROS arguments, and the arguments that are not ROS's."""

    remaps: tuple[Remap, ...] = ()
    parameters: tuple[ParameterRule, ...] = ()
    log_levels: Mapping[str, str] = field(default_factory=dict)
    rosout_enabled: bool = True
    stdout_enabled: bool = True
    enclave: str = ''
    remaining: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def overrides_for(self, name: str, namespace: str) -> dict[str, Any]:
        """Return {parameter: value} for a node; later rules win."""
        found: dict[str, Any] = {}
        for rule in self.parameters:
            if rule.matches(name, namespace):
                found.update(rule.values)
        return found


def parse(arguments: Sequence[str] | None) -> RosArguments:
    """Parse a command line.

    UnknownROSArgsError names what is not understood; ValueError says what is malformed.
    """
    remaining: list[str] = []
    ros: list[str] = []
    inside = False
    for argument in arguments or ():
        if argument == '--ros-args':
            inside = True
        elif inside and argument == '--':
            inside = False
        else:
            (ros if inside else remaining).append(argument)
    return _parse_ros(ros, tuple(remaining))


def _parse_ros(ros: list[str], remaining: tuple[str, ...]) -> RosArguments:
    remaps: list[Remap] = []
    parameters: list[ParameterRule] = []
    log_levels: dict[str, str] = {}
    flags = {'rosout-logs': True, 'stdout-logs': True, 'external-lib-logs': True}
    enclave = ''
    unknown: list[str] = []
    pending = iter(ros)

    def value(option: str) -> str:
        try:
            return next(pending)
        except StopIteration:
            raise ValueError(f'The option {option} needs a value.') from None

    for option in pending:
        switch = re.fullmatch(
            r'--(enable|disable)-(rosout-logs|stdout-logs|external-lib-logs)', option
        )
        if option in ('-r', '--remap'):
            remaps.append(Remap.parse(value(option)))
        elif option in ('-p', '--param'):
            parameters.append(_parse_parameter(value(option)))
        elif option == '--params-file':
            parameters.extend(read_parameter_file(Path(value(option))))
        elif option == '--log-level':
            name, separator, level = value(option).rpartition(':=')
            log_levels[name if separator else ''] = level
        elif option in ('-e', '--enclave'):
            enclave = value(option)
        elif option in ('--log-config-file', '--log-file-name'):
            value(option)  # accepted: there are no log files here
        elif switch:
            flags[switch[2]] = switch[1] == 'enable'
        elif ':=' in option and not option.startswith('-'):
            remaps.append(Remap.parse(option))
        else:
            unknown.append(option)
    if unknown:
        raise UnknownROSArgsError(f'Found unknown ROS arguments: {" ".join(unknown)}')
    return RosArguments(
        remaps=tuple(remaps),
        parameters=tuple(parameters),
        log_levels=log_levels,
        rosout_enabled=flags['rosout-logs'],
        stdout_enabled=flags['stdout-logs'],
        enclave=enclave,
        remaining=remaining,
    )


def _parse_parameter(text: str) -> ParameterRule:
    match, separator, value = text.partition(':=')
    if not separator or not match:
        raise ValueError(
            f"Couldn't parse parameter override rule: '-p {text}'. Expected: name:=value"
        )
    node, colon, name = match.partition(':')
    if not colon:
        node, name = '/**', match
    try:
        loaded = load_yaml(value)
    except yaml.YAMLError as error:
        raise ValueError(f"Couldn't parse the value of '-p {text}': {error}") from error
    return ParameterRule(node, {name: check_value(name, '' if loaded is None else loaded)})


def check_value(name: str, value: Any) -> Any:
    """Return a parameter value from YAML; ValueError where ROS has no type for it."""
    if isinstance(value, list):
        kinds = {type(item) for item in value}
        if len(kinds) > 1 or not kinds <= {bool, int, float, str}:
            raise ValueError(
                f"Parameter '{name}': a sequence must hold values of one type (bool, int, double "
                f'or string), found {value}.'
            )
        return value
    if isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def read_parameter_file(path: Path) -> list[ParameterRule]:
    """Read a parameter file; ValueError says what is wrong with it and where."""
    try:
        content = load_yaml(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise ValueError(f"Couldn't read the parameter file '{path}': {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"Couldn't parse the parameter file '{path}': {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"The parameter file '{path}' holds no mapping of node names.")
    return list(_node_rules(content, '', path))


def _node_rules(content: Mapping[Any, Any], prefix: str, path: Path) -> Iterable[ParameterRule]:
    for key, body in content.items():
        if not isinstance(body, Mapping):
            raise ValueError(
                f"In the parameter file '{path}', '{key}' is no node: expected a mapping with "
                f"'{PARAMETERS_KEY}', found {body!r}."
            )
        pattern = f'{prefix}/{str(key).strip("/")}'
        inner = dict(body)
        parameters = inner.pop(PARAMETERS_KEY, None)
        if parameters is not None:
            if not isinstance(parameters, Mapping):
                raise ValueError(
                    f"In the parameter file '{path}', '{PARAMETERS_KEY}' of '{pattern}' is no "
                    f'mapping: {parameters!r}.'
                )
            yield ParameterRule(pattern, dict(_flatten(parameters, '')))
        yield from _node_rules(inner, pattern, path)


def _flatten(parameters: Mapping[Any, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in parameters.items():
        name = f'{prefix}{key}'
        if isinstance(value, Mapping):
            yield from _flatten(value, f'{name}.')
        elif value is not None:
            yield name, check_value(name, value)
