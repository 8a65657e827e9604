"""Message and service classes that behave as those rclpy generates.

Keyword construction with nested defaults, checked assignment, `array.array` for numeric sequences,
numpy arrays for fixed numeric arrays, constants as class attributes. CDR through `rosbags`.
"""

from __future__ import annotations

import array
import math
import threading
from collections import UserList, UserString
from collections.abc import Callable, Sequence, Set
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from rosbags.interfaces import Nodetype

from dynamic_ofa_ros.rclpy_zenoh.definitions import DEFAULTS
from dynamic_ofa_ros.rclpy_zenoh.typestore import catalogue

FLOAT32_MAX = 3.402823466e38

INTEGER_LIMITS: dict[str, tuple[int, int]] = {
    **{f'int{bits}': (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f'uint{bits}': (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
# array.array type codes; their sizes are the same on every platform that ROS 2 supports.
TYPE_CODES = {
    'int8': 'b', 'uint8': 'B', 'int16': 'h', 'uint16': 'H', 'int32': 'i', 'uint32': 'I',
    'int64': 'q', 'uint64': 'Q', 'float32': 'f', 'float64': 'd',
}  # fmt: skip
IDL_NAMES = {'float32': 'float', 'float64': 'double', 'bool': 'boolean', 'byte': 'octet'}

Check = Callable[[Any], Any]


class Message:
    """Base of every message class.

    Fields are checked when assigned: AssertionError names the field and the expected type.
    """

    __slots__ = ()
    TYPE_NAME: ClassVar[str] = ''
    _fields_and_field_types: ClassVar[dict[str, str]] = {}
    FIELDS: ClassVar[tuple[Field, ...]] = ()

    def __init__(self, **kwargs: Any) -> None:
        names = self._fields_and_field_types
        assert all(key in names for key in kwargs), (
            f'Invalid arguments passed to constructor: '
            f'{", ".join(sorted(set(kwargs) - set(names)))}'
        )
        for field in self.FIELDS:
            if field.name in kwargs:
                setattr(self, field.name, kwargs[field.name])
            else:
                field.store(self, field.default())

    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]:
        """Return {field name: ROS type}."""
        return dict(cls._fields_and_field_types)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, self.__class__):
            return False
        return all(
            np.array_equal(field.load(self), field.load(other))
            if isinstance(field.load(self), np.ndarray)
            else field.load(self) == field.load(other)
            for field in self.FIELDS
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        package, kind, name = self.TYPE_NAME.split('/')
        values = ', '.join(f'{field.name}={field.shown(self)}' for field in self.FIELDS)
        return f'{package}.{kind}.{name}({values})'


class Field:
    """One field of a message class: default, check, and its way to and from the wire."""

    def __init__(self, owner: str, name: str, description: Any) -> None:
        self.name = name
        self.slot = f'_{name}'
        self.store: Callable[[Any, Any], None]
        self.load: Callable[[Any], Any]
        kind, details = description
        item, count = (description, 0) if kind in (1, 2) else details
        self.is_array = kind == Nodetype.ARRAY
        self.is_sequence = kind == Nodetype.SEQUENCE
        self.is_nested = item[0] == Nodetype.NAME
        self.count = count
        self.nested = message_class(item[1]) if self.is_nested else None
        self.base = '' if self.is_nested else item[1][0]
        self.string_limit = item[1][1] if self.base == 'string' else 0
        self.type_code = TYPE_CODES.get(self.base, '')
        self.check_item: Check = self._item_check()
        self._default = DEFAULTS.get(owner, {}).get(name)
        self.needs_packing = self._needs_packing()

    def bind(self, cls: type[Message]) -> None:
        """Take the slot's accessors and put the checked property in the class."""
        descriptor = cls.__dict__[self.slot]
        self.store = descriptor.__set__
        self.load = descriptor.__get__
        check = self.check
        load, store = self.load, self.store
        setattr(
            cls,
            self.name,
            property(load, lambda message, value: store(message, check(value))),
        )

    @property
    def ros_type(self) -> str:
        """Return the type as `get_fields_and_field_types` names it."""
        if self.nested is not None:
            package, _, name = self.nested.TYPE_NAME.split('/')
            base = f'{package}/{name}'
        else:
            base = IDL_NAMES.get(self.base, self.base)
            if self.string_limit:
                base = f'string<{self.string_limit}>'
        if self.is_array:
            return f'{base}[{self.count}]'
        if self.is_sequence:
            return f'sequence<{base}, {self.count}>' if self.count else f'sequence<{base}>'
        return base

    def default(self) -> Any:
        """Return a fresh default value."""
        if self._default is not None:
            return self._default
        if self.is_sequence:
            return array.array(self.type_code) if self.type_code else []
        if self.is_array:
            if self.type_code:
                return np.zeros(self.count, dtype=self.base)
            return [self._item_default() for _ in range(self.count)]
        return self._item_default()

    def _item_default(self) -> Any:
        if self.nested is not None:
            return self.nested()
        if self.base == 'string':
            return ''
        if self.base == 'bool':
            return False
        if self.base == 'byte':
            return b'\0'
        return 0.0 if self.base.startswith('float') else 0

    def _item_check(self) -> Check:
        """Return a function that passes a valid single value and asserts otherwise."""
        name, base = self.name, self.base
        if self.nested is not None:
            expected, short = self.nested, self.nested.__name__

            def check_nested(value: Any) -> Any:
                assert isinstance(value, expected), (
                    f"The '{name}' field must be a sub message of type '{short}'"
                )
                return value

            return check_nested
        if base in INTEGER_LIMITS:
            low, high = INTEGER_LIMITS[base]
            word = 'an unsigned integer' if low == 0 else 'an integer'

            def check_integer(value: Any) -> Any:
                assert isinstance(value, int), f"The '{name}' field must be of type 'int'"
                assert low <= value <= high, (
                    f"The '{name}' field must be {word} in [{low}, {high}]"
                )
                return value

            return check_integer
        if base in ('float32', 'float64'):
            limit = FLOAT32_MAX if base == 'float32' else math.inf

            def check_float(value: Any) -> Any:
                assert isinstance(value, float), f"The '{name}' field must be of type 'float'"
                assert not limit < abs(value) < math.inf, (
                    f"The '{name}' field must be a float in [-{limit}, {limit}]"
                )
                return value

            return check_float
        if base == 'byte':

            def check_byte(value: Any) -> Any:
                message = f"The '{name}' field must be of type 'bytes' and length 1"
                assert isinstance(value, (bytes, bytearray, memoryview)), message
                assert len(value) == 1, message
                return bytes(value)

            return check_byte
        expected_type = bool if base == 'bool' else str
        string_limit = self.string_limit

        def check_plain(value: Any) -> Any:
            assert isinstance(value, expected_type), (
                f"The '{name}' field must be of type '{expected_type.__name__}'"
            )
            assert not string_limit or len(str(value)) <= string_limit, (
                f"The '{name}' field must be string value not longer than {string_limit}"
            )
            return value

        return check_plain

    def check(self, value: Any) -> Any:
        """Return the value to store; AssertionError if it does not fit the field."""
        if not (self.is_array or self.is_sequence):
            return self.check_item(value)
        if self.type_code:
            checked = self._check_numeric(value)
        else:
            self._assert_collection(value)
            checked = [self.check_item(item) for item in value]
        if self.is_array:
            assert len(checked) == self.count, (
                f"The '{self.name}' field must be a collection with {self.count} elements"
            )
        elif self.count:
            assert len(checked) <= self.count, (
                f"The '{self.name}' field must hold at most {self.count} elements"
            )
        return checked

    def _assert_collection(self, value: Any) -> None:
        message = f"The '{self.name}' field must be a set or sequence, for {self.ros_type!r}"
        assert isinstance(value, (Sequence, Set, UserList, np.ndarray)), message
        assert not isinstance(value, (str, UserString)), message

    def _check_numeric(self, value: Any) -> Any:
        """Return numbers as array.array (sequence) or numpy array (fixed), copied if needed."""
        if isinstance(value, array.array):
            assert value.typecode == self.type_code, (
                f"The '{self.name}' array.array() must have the type code of '{self.type_code}'"
            )
            return np.array(value, dtype=self.base) if self.is_array else value
        if self.base == 'uint8' and isinstance(value, (bytes, bytearray, memoryview)):
            numbers = array.array('B')
            numbers.frombytes(value)
            return np.array(numbers, dtype=self.base) if self.is_array else numbers
        if isinstance(value, np.ndarray):
            assert value.dtype == np.dtype(self.base), (
                f"The '{self.name}' numpy.ndarray() must have the dtype of '{self.base}'"
            )
            if self.is_array:
                return value
            numbers = array.array(self.type_code)
            numbers.frombytes(np.ascontiguousarray(value).data.cast('B') if value.size else b'')
            return numbers
        self._assert_collection(value)
        items = [self.check_item(item) for item in value]
        if self.is_array:
            return np.array(items, dtype=self.base)
        return array.array(self.type_code, items)

    def _needs_packing(self) -> bool:
        if self.nested is not None:
            return any(field.needs_packing for field in self.nested.FIELDS)
        return self.base == 'byte' or (
            (self.is_array or self.is_sequence) and self.base != 'string'
        )

    def packed(self, message: Message) -> Any:
        """Return the value as `rosbags` serialises it."""
        value = self.load(message)
        if not self.needs_packing:
            return value
        if self.nested is not None:
            return [pack(item) for item in value] if isinstance(value, list) else pack(value)
        if isinstance(value, array.array):
            return np.frombuffer(value, dtype=self.base) if len(value) else np.empty(0, self.base)
        if self.base == 'byte':
            return signed_byte(value) if isinstance(value, bytes) else packed_bytes(value)
        return np.ascontiguousarray(value, dtype='bool' if self.base == 'bool' else self.base)

    def unpacked(self, value: Any) -> Any:
        """Return what `rosbags` deserialised as the message class holds it."""
        if self.base == 'byte' and not (self.is_array or self.is_sequence):
            return bytes((value & 0xFF,))
        if not isinstance(value, np.ndarray):
            return value
        if self.base == 'bool':
            return value.tolist()
        if self.base == 'byte':
            return [bytes((int(item) & 0xFF,)) for item in value]
        if self.is_array:
            return value.copy()
        numbers = array.array(self.type_code)
        numbers.frombytes(value.data.cast('B') if value.size else b'')
        return numbers

    def shown(self, message: Message) -> str:
        """Return the value as `repr` shows it."""
        value = self.load(message)
        if isinstance(value, array.array):
            return repr(value.tolist())
        return repr(value)


def signed_byte(value: bytes) -> int:
    """Return the int8 that `rosbags` packs a `byte` as."""
    return value[0] - 256 if value[0] > 127 else value[0]


def packed_bytes(value: Sequence[bytes]) -> Any:
    """Return a `byte[]` as `rosbags` packs it."""
    return np.frombuffer(b''.join(value), dtype=np.uint8)


def pack(message: Message) -> Any:
    """Return an object whose attributes `rosbags` can serialise."""
    fields = message.FIELDS
    if not any(field.needs_packing for field in fields):
        return message
    packed = SimpleNamespace()
    for field in fields:
        setattr(packed, field.name, field.packed(message))
    return packed


def serialize(message: Message) -> bytearray:
    """Return the message as CDR with its encapsulation header."""
    store = catalogue()
    if not message.FIELDS:
        return bytearray(b'\x00\x01\x00\x00\x00')
    buffer: bytearray = store.serialize_cdr(pack(message), message.TYPE_NAME).obj  # type: ignore[assignment]
    return buffer


def deserialize(data: bytes, cls: type[Message]) -> Any:
    """Return the message that CDR bytes hold; `rosbags.serde.SerdeError` if damaged."""
    return catalogue().deserialize_cdr(memoryview(data), cls.TYPE_NAME)


_classes: dict[str, Any] = {}
_lock = threading.RLock()


def message_class(name: str) -> Any:
    """Return the class of a message (`std_msgs/msg/String`), made on first use.

    Raises KeyError for a type that is not in the catalogue.
    """
    if name not in _classes:
        with _lock:
            if name not in _classes:
                _classes[name] = _make_message_class(name)
    return _classes[name]


def _make_message_class(name: str) -> Any:
    store = catalogue()
    package, kind, short = name.split('/')
    fields = tuple(Field(name, field, description) for field, description in store.fields(name))
    byte_constants = {
        constant
        for constant, constant_type, _ in store.fielddefs[name][0]
        if constant_type in ('byte', 'octet')
    }
    constants = {
        constant: bytes((value,)) if constant in byte_constants else value
        for constant, value in store.constants[name].items()
    }
    cls: Any = type(
        short,
        (Message,),
        {
            '__slots__': tuple(field.slot for field in fields),
            '__module__': f'{package}.{kind}',
            '__doc__': f'{name}, as its definition says.',
            'TYPE_NAME': name,
            'FIELDS': fields,
            '_fields_and_field_types': {field.name: field.ros_type for field in fields},
            **constants,
        },
    )
    for field in fields:
        field.bind(cls)
    steps = [(field.store, field.unpacked) for field in fields]

    def build(*values: Any) -> Message:
        message: Message = cls.__new__(cls)
        for (store_value, unpack), value in zip(steps, values, strict=False):
            store_value(message, unpack(value))
        return message

    store.types[name] = build  # type: ignore[assignment]
    return cls


def service_class(name: str) -> Any:
    """Return the class of a service (`std_srvs/srv/Trigger`) with Request, Response and Event."""
    if name not in _classes:
        if name not in catalogue().services:
            raise KeyError(name)
        package, kind, short = name.split('/')
        with _lock:
            parts = {
                part: message_class(f'{name}_{part}') for part in ('Request', 'Response', 'Event')
            }
            doc = f'{name}, as its definition says.'
            body = {'__module__': f'{package}.{kind}', '__doc__': doc, 'TYPE_NAME': name, **parts}
            _classes[name] = type(short, (), body)
    return _classes[name]
