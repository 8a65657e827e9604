"""Conversion of messages from and to text, in the format of ros2."""

from __future__ import annotations

import array
import importlib
import re
import sys
from typing import Any

import numpy as np
import yaml

from dynamic_ofa_ros.cli.ros import RosCommandError


def interface(name: str, kind: str) -> Any:
    """Return the class of a message (`msg`) or service (`srv`); RosCommandError if unknown."""
    word, mark = {'msg': ('message', 'SLOT_TYPES'), 'srv': ('service', 'Request')}[kind]
    try:
        package, *middle, short = name.split('/')  # std_msgs/String means std_msgs/msg/String
        found = getattr(importlib.import_module('.'.join([package, *(middle or [kind])])), short)
    except (AttributeError, ImportError, TypeError, ValueError):
        raise RosCommandError(f'The passed {word} type is invalid') from None
    if not hasattr(found, mark):
        raise RosCommandError(f'The passed type is not a {word}')
    return found


def filled(kind: Any, text: str, now: Any = None) -> Any:
    """Return a message with the values of a YAML text.

    The value `now` of a time, and `auto` of a header, are replaced by the argument `now`.
    """
    try:
        return _message(kind, yaml.safe_load(text), now)
    except yaml.YAMLError as error:
        problem = ' '.join(str(error).split())
        raise RosCommandError(f'The passed value is not valid YAML: {problem}') from error
    except (ArithmeticError, AssertionError, AttributeError, TypeError, ValueError) as error:
        raise RosCommandError(f'Failed to populate field: {error}') from error


def _message(kind: Any, values: Any, now: Any) -> Any:
    message, types = kind(), kind.get_fields_and_field_types()
    for name, value in _checked(values, dict, 'dictionary').items():
        getattr(message, name)  # raises the error that ros2 shows for an unknown field
        setattr(message, name, _value(types[name], value, now))
    return message


def _checked(value: Any, kind: type, word: str) -> Any:
    if isinstance(value, kind):
        return value
    found = type(value).__name__
    raise TypeError(f"Value '{value}' is expected to be a {word} but is a {found}")


def _value(kind: str, value: Any, now: Any) -> Any:
    """Return a value for a field of a type such as double, a/B, double[3] or sequence<a/B, 5>."""
    element = re.fullmatch(r'sequence<(.+?)(?:, \d+)?>|(.+)\[\d+\]', kind)
    if element:
        kind = element[1] or element[2]
        return [_value(kind, item, now) for item in _checked(value, list, 'list')]
    if (kind, value) == ('builtin_interfaces/Time', 'now'):
        return now
    if '/' in kind:
        is_stamp = (kind, value) == ('std_msgs/Header', 'auto')
        return _message(interface(kind, 'msg'), {'stamp': 'now'} if is_stamp else value, now)
    if kind == 'octet':  # ros2 shows a byte as a string of one character
        return value.encode('latin-1') if isinstance(value, str) else bytes([value])
    if kind == 'boolean':  # bool('false') is True
        return bool(_checked(value, int, 'bool'))
    return {'float': float, 'double': float}.get(kind, str if 'string' in kind else int)(value)


def to_yaml(message: Any, length: int | None) -> str:
    """Return a message as YAML, with arrays and strings truncated to a length."""
    plain = _plain(message, length)
    return str(yaml.dump(plain, sort_keys=False, allow_unicode=True, width=sys.maxsize))


def _plain(value: Any, length: int | None) -> Any:
    if hasattr(value, 'get_fields_and_field_types'):
        names = value.get_fields_and_field_types()
        return {name: _plain(getattr(value, name), length) for name in names}
    if isinstance(value, (bytes, str)):
        text = value if isinstance(value, str) else value.decode('latin-1')
        return text if text == text[:length] else f'{text[:length]}...'
    if isinstance(value, (array.array, list, np.ndarray)):
        items = [_plain(item, length) for item in value[:length]]
        return items if len(items) == len(value) else [*items, '...']
    return value.item() if isinstance(value, np.generic) else value
