"""The one place that imports `ofa`, the authors' package.

`ofa` 0.1 imports torchvision and gdown when it is imported, for its data loaders and downloads
only; we use neither. Where torchvision is absent or broken (a CPU-only torch has no matching
build, so that its import fails with "operator torchvision::nms does not exist"), empty modules
take its place while `ofa` is imported, and are removed afterwards. A torchvision that works is
used.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from dynamic_ofa_ros.errors import BackboneError

_UNUSED_BY_US = {
    'torchvision': ('torchvision', 'torchvision.transforms', 'torchvision.datasets'),
    'gdown': ('gdown',),
}


class _Empty(ModuleType):
    """A module whose every attribute is an empty class, good enough to subclass and never call."""

    def __getattr__(self, name: str) -> type:
        if name.startswith('__'):
            raise AttributeError(name)
        return type(name, (), {})


def import_ofa(module: str) -> ModuleType:
    """Import `ofa.<module>`; raise BackboneError with the reason when `ofa` cannot be imported."""
    try:
        with _stand_ins():
            return importlib.import_module(f'ofa.{module}')
    except ImportError as error:
        raise BackboneError(
            f'the ofa package cannot be imported ({error}); install it with: pip install ofa'
        ) from error


@contextmanager
def _stand_ins() -> Iterator[None]:
    added: list[str] = []
    for package, names in _UNUSED_BY_US.items():
        if _imports(package):
            continue
        for name in names:
            stand_in = _Empty(name)
            stand_in.__path__ = []
            sys.modules[name] = stand_in
            added.append(name)
            parent, _, child = name.rpartition('.')
            if parent:
                setattr(sys.modules[parent], child, stand_in)
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
    except (
        ImportError,
        RuntimeError,
    ):  # a torchvision built for another torch raises RuntimeError
        for name in set(sys.modules) - before:
            if name.partition('.')[0] == package:
                del sys.modules[name]
        return False
    return True
