"""Messages as plain dictionaries: what `topic echo` shows and `topic pub` reads."""

from __future__ import annotations

import array
import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from dynamic_ofa_ros.rclpy_zenoh.arguments import load_yaml
from dynamic_ofa_ros.rclpy_zenoh.messages import Field, Message, message_class


def to_plain(
    value: Any, *, truncate: int | None = None, with_arrays: bool = True, ros_type: str = ''
) -> Any:
    """Return a message, or a field's value, made of dictionaries, lists and scalars.

    Arrays and strings longer than `truncate` are cut and end in '...'.
    """
    if isinstance(value, Message):
        return {
            field.name: to_plain(
                getattr(value, field.name),
                truncate=truncate,
                with_arrays=with_arrays,
                ros_type=field.ros_type,
            )
            for field in value.FIELDS
        }
    if isinstance(value, (array.array, np.ndarray, list, tuple)):
        if not with_arrays:
            return f'<{ros_type or "array"}, length: {len(value)}>'
        cut = value if truncate is None else value[:truncate]
        items = [
            to_plain(item, truncate=truncate, with_arrays=with_arrays)
            for item in (cut if isinstance(cut, (list, tuple)) else cut.tolist())
        ]
        return [*items, '...'] if len(cut) < len(value) else items
    if isinstance(value, bytes):
        return value[0] if len(value) == 1 else list(value)
    if isinstance(value, str) and truncate is not None and len(value) > truncate:
        return value[:truncate] + '...'
    return value


def dump(value: Any) -> str:
    """Return plain data as YAML in the layout of `ros2 topic echo`."""
    text: str = yaml.safe_dump(
        value, sort_keys=False, default_flow_style=False, allow_unicode=True, width=10**9
    )
    return text.removesuffix('...\n') if text.endswith('\n...\n') else text


def parse(text: str) -> Any:
    """Return what a YAML argument means; ValueError if it is malformed."""
    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(f"'{text}' is no valid YAML: {error}") from error


def fill(message: Message, values: Any, *, now: Any = None, path: str = '') -> None:
    """Set a message's fields from plain data.

    `now` (a builtin_interfaces/Time) replaces `header: auto` and `stamp: now`. ValueError names
    the field that is unknown or does not fit.
    """
    if values is None:
        return
    if not isinstance(values, Mapping):
        raise ValueError(
            f'{path or message.TYPE_NAME}: expected a mapping of fields such as '
            f'{{{next(iter(message._fields_and_field_types), "")}: ...}}, found {values!r}'
        )
    fields = {field.name: field for field in message.FIELDS}
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            raise ValueError(
                f"{message.TYPE_NAME} has no field '{path}{name}'"
                + (f"; did you mean '{near[0]}'?" if near else f'; it has {", ".join(fields)}')
            )
        _fill_field(message, fields[name], value, now, f'{path}{name}')


def _fill_field(message: Message, field: Field, value: Any, now: Any, path: str) -> None:
    nested = field.nested
    try:
        if nested is not None and (field.is_array or field.is_sequence):
            items = [nested() for _ in value]
            for index, (item, item_value) in enumerate(zip(items, value, strict=True)):
                fill(item, item_value, now=now, path=f'{path}[{index}].')
            setattr(message, field.name, items)
        elif nested is not None:
            current = getattr(message, field.name)
            if now is not None and value in ('now', 'auto'):
                setattr(message, field.name, _stamped(nested, now))
            else:
                fill(current, value, now=now, path=f'{path}.')
        elif field.is_array or field.is_sequence:
            setattr(message, field.name, [_scalar(field, item) for item in value])
        else:
            setattr(message, field.name, _scalar(field, value))
    except (AssertionError, TypeError) as error:
        raise ValueError(f'{path}: {value!r} is no {field.ros_type} ({error})') from error


def _stamped(kind: Any, now: Any) -> Any:
    if kind.TYPE_NAME == 'std_msgs/msg/Header':
        return kind(stamp=now)
    if kind.TYPE_NAME == 'builtin_interfaces/msg/Time':
        return now
    raise TypeError('only a header or a time can be set to the present')


def _scalar(field: Field, value: Any) -> Any:
    """Return a value as the field wants it: integers serve for floats and bytes."""
    if field.base.startswith('float') and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if field.base == 'byte' and isinstance(value, int):
        return bytes((value,))
    if field.base == 'string' and isinstance(value, (int, float)):
        return str(value)
    return value


def make_message(type_name: str, text: str, *, now: Any = None) -> Any:
    """Return a message of a type from YAML; ValueError says what does not fit."""
    message = message_class(type_name)()
    fill(message, parse(text), now=now)
    return message
