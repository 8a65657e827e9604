"""The YAML files of a family: safe parsing, checks of every value, precise error messages."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import Repr
from typing import Any

import yaml

from dynamic_ofa_ros.errors import FamilyError

VERSION = 1
MAX_DEPTH = 100

# That of libyaml, where installed, is 8 times as fast, which saves 0.1 s of a start.
_LOADER = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)

# Anchors of YAML can repeat a value so often that its whole text would fill the memory.
_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring = 2, 6, 4, 100


class Reader:
    """Reads typed values from a parsed YAML mapping; every error names the file and the key."""

    def __init__(self, path: Path, document: Any, prefix: str = '') -> None:
        if not isinstance(document, dict):
            raise FamilyError(
                f'{path}: {prefix.rstrip(".") or "the file"} must be a mapping of keys to values'
            )
        self.path, self._document, self.prefix = path, document, prefix

    def check_format(self, expected: str) -> None:
        """Raise FamilyError unless format and version are the expected ones."""
        if self._document.get('format') != expected:
            raise FamilyError(
                f'{self.path}: format is {self._document.get("format")!r}, expected {expected!r}'
            )
        if self._document.get('version') != VERSION:
            raise FamilyError(
                f'{self.path}: version is {self._document.get("version")!r}; this release reads '
                f'version {VERSION}. Install a release that matches, or build the family again.'
            )

    def value(self, key: str) -> Any:
        """Return the value of `key`."""
        if key not in self._document:
            raise FamilyError(f'{self.path}: {self.prefix}{key} is missing')
        return self._document[key]

    def has(self, key: str) -> bool:
        """Return whether `key` has a value other than null."""
        return self._document.get(key) is not None

    def text(self, key: str) -> str:
        """Return a text, which must not be empty."""
        value = self.value(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, value, 'text')
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """Return a text, which must be one of `choices`."""
        value = self.value(key)
        if value not in choices:
            raise self._wrong(key, value, f'one of {", ".join(choices)}')
        return str(value)

    def number(self, key: str, above: float = -math.inf) -> float:
        """Return a finite number, which must be greater than `above`."""
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._wrong(key, value, 'a number')
        if not (_is_finite(value) and value > above):
            wanted = (
                'a finite number' if above == -math.inf else f'a finite number above {above:g}'
            )
            raise self._wrong(key, value, wanted)
        return float(value)

    def integer(self, key: str) -> int:
        """Return an integer, which must be positive."""
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong(key, value, 'a positive integer')
        return value

    def sequence(self, key: str) -> list[Any]:
        """Return a list, which must not be empty."""
        value = self.value(key)
        if not isinstance(value, list) or not value:
            raise self._wrong(key, value, 'a non-empty list')
        return value

    def mapping(self, key: str) -> dict[Any, Any]:
        """Return a mapping."""
        value = self.value(key)
        if not isinstance(value, dict):
            raise self._wrong(key, value, 'a mapping of keys to values')
        return value

    def optional_mapping(self, key: str) -> dict[Any, Any]:
        """Return a mapping; empty if the key is missing or null."""
        return self.mapping(key) if self._document.get(key) is not None else {}

    def section(self, key: str) -> Reader:
        """Return a reader for the mapping at `key`."""
        return Reader(self.path, self.mapping(key), f'{self.prefix}{key}.')

    def triple(self, key: str) -> tuple[float, float, float]:
        """Return three numbers."""
        value = self.sequence(key)
        if len(value) != 3 or not all(_is_finite(v) for v in value):
            raise self._wrong(key, value, 'three numbers')
        return float(value[0]), float(value[1]), float(value[2])

    def _wrong(self, key: str, value: Any, expected: str) -> FamilyError:
        return FamilyError(
            f'{self.path}: {self.prefix}{key} is {_SHORT.repr(value)}, expected {expected}'
        )


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # An int can be too large for a float.
    return is_number and abs(value) <= sys.float_info.max


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes; raise FamilyError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FamilyError(
            f'{path} is missing; the folder is not a family, or the family is incomplete'
        ) from None
    except OSError as error:
        raise FamilyError(f'{path} cannot be read: {error.strerror or error}') from None


def parse_yaml(path: Path, data: bytes) -> Any:
    """Parse YAML without executing code; raise FamilyError, which names `path`."""
    try:
        depth = 0
        for event in yaml.parse(data, _LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:  # libyaml would end the process if it is much deeper
                raise ValueError(f'it is nested deeper than {MAX_DEPTH} levels')
        return yaml.load(data, _LOADER)
    except (yaml.YAMLError, ValueError) as error:
        detail = ' '.join(str(error).split())
        raise FamilyError(f'{path} is not valid YAML: {detail}') from None


def dump_yaml(document: Mapping[str, Any]) -> str:
    """Return the document as YAML, with keys in the given order and short lists on one line."""
    return yaml.safe_dump(dict(document), sort_keys=False, default_flow_style=None, width=96)
