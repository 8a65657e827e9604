"""Import `ofa`, the package of the Once-for-all authors.

`ofa` 0.1 imports torchvision and gdown for its data loaders and downloads, which this package does
not use. If one of them is missing or broken (for instance, with a CPU-only torch the import of
torchvision can fail with "operator torchvision::nms does not exist"), it is replaced by empty
modules while `ofa` is imported.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from dynamic_ofa_ros.errors import BackboneError

_NOT_NEEDED = {
    'torchvision': ('torchvision', 'torchvision.transforms', 'torchvision.datasets'),
    'gdown': ('gdown',),
}


class _Empty(ModuleType):
    """A module that returns an empty class for every attribute, so that it can be subclassed."""

    def __getattr__(self, name: str) -> type:
        if name.startswith('__'):
            raise AttributeError(name)
        return type(name, (), {})


def import_ofa(module: str) -> ModuleType:
    """Import `ofa.<module>`; raise BackboneError if `ofa` cannot be imported."""
    try:
        with _placeholders():
            return importlib.import_module(f'ofa.{module}')
    except ImportError as error:
        raise BackboneError(
            f'the ofa package cannot be imported ({error}); install it with: pip install ofa'
        ) from error


@contextmanager
def _placeholders() -> Iterator[None]:
    added: list[str] = []
    for package, names in _NOT_NEEDED.items():
        if _imports(package):
            continue
        for name in names:
            placeholder = _Empty(name)
            placeholder.__path__ = []
            sys.modules[name] = placeholder
            added.append(name)
            parent, _, child = name.rpartition('.')
            if parent:
                setattr(sys.modules[parent], child, placeholder)
    if 'torchvision' in added:
        functional = types.ModuleType('torchvision.transforms.functional')
        sys.modules[functional.__name__] = functional
        sys.modules['torchvision.transforms'].functional = functional  # type: ignore[attr-defined]
        added.append(functional.__name__)
    try:
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def _imports(package: str) -> bool:
    before = set(sys.modules)
    try:
        importlib.import_module(package)
    except (ImportError, RuntimeError):  # RuntimeError: a torchvision built for another torch
        for name in set(sys.modules) - before:
            if name.partition('.')[0] == package:
                del sys.modules[name]
        return False
    return True
