"""The modules that take the place of ROS 2's in `sys.modules`.

They are made at run time, so they are typed loosely: this is the one place where that is so.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.exceptions import MissingFeatureError
from dynamic_ofa_ros.rclpy_zenoh.typestore import PACKAGE, catalogue

HERE = 'dynamic_ofa_ros.rclpy_zenoh'

# Submodule of rclpy: (our module, names of it that rclpy keeps there; None: all public ones).
RCLPY_MODULES = (
    'callback_groups', 'client', 'clock', 'context', 'duration', 'event_handler', 'exceptions',
    'executors', 'guard_condition', 'logging', 'node', 'parameter', 'parameter_service',
    'publisher', 'qos', 'qos_overriding_options', 'service', 'signals', 'subscription', 'task',
    'time', 'time_source', 'timer', 'utilities',
)  # fmt: skip
# Names that rclpy has in another module than ours.
RCLPY_ALIASES = {
    'rclpy.qos_event': 'event_handler',
    'rclpy._rclpy_pybind11': 'publisher',
    'rclpy.topic_endpoint_info': 'graph_queries',
    'rclpy.impl.rcutils_logger': 'logging',
    'rclpy.impl.logging_severity': 'logging',
}


def _module(name: str, doc: str, attribute: Callable[[str], Any]) -> Any:
    """Register a module whose names come from a function."""
    module: Any = types.ModuleType(name, doc)
    module.__path__ = []
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__getattr__ = attribute
    sys.modules[name] = module
    parent, _, child = name.rpartition('.')
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)
    return module


def _is_special(name: str) -> bool:
    # Python and tools probe modules for these; they must see an ordinary AttributeError.
    return name.startswith('__') and name.endswith('__')


def _forward(public_name: str, own_name: str) -> Callable[[str], Any]:
    """Return a module `__getattr__` that takes names from one of our modules."""

    def attribute(name: str) -> Any:
        if _is_special(name):
            raise AttributeError(f'module {public_name!r} has no attribute {name!r}')
        own = importlib.import_module(own_name)
        try:
            return getattr(own, name)
        except AttributeError:
            raise MissingFeatureError(f'{public_name}.{name}') from None

    return attribute


def _interface(package: str, kind: str) -> Callable[[str], Any]:
    """Return a module `__getattr__` that makes message or service classes."""
    from dynamic_ofa_ros.rclpy_zenoh import messages

    make = messages.message_class if kind == 'msg' else messages.service_class

    def attribute(name: str) -> Any:
        known = catalogue().names(package, kind)
        # Service classes' parts can be imported too: `from x.srv import Trigger_Request`.
        if f'{package}/{kind}/{name}' in catalogue().fielddefs:
            maker = make if name in known else messages.message_class
            value = maker(f'{package}/{kind}/{name}')
            setattr(sys.modules[f'{package}.{kind}'], name, value)
            return value
        raise AttributeError(f'module {package}.{kind!r} has no attribute {name!r}')

    return attribute


class _MissingRclpyModules(importlib.abc.MetaPathFinder):
    """Names what is missing when a submodule of rclpy is imported that the subset lacks."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> None:
        if fullname.startswith('rclpy.'):
            raise MissingFeatureError(fullname)


def register(marker: str) -> None:
    """Put all stand-ins into `sys.modules`."""
    rclpy = _module('rclpy', 'rclpy over Zenoh (a subset).', _forward('rclpy', f'{HERE}.api'))
    setattr(rclpy, marker, True)
    for name in RCLPY_MODULES:
        _module(f'rclpy.{name}', f'rclpy.{name}.', _forward(f'rclpy.{name}', f'{HERE}.{name}'))
    _module('rclpy.impl', 'rclpy.impl.', _forward('rclpy.impl', f'{HERE}.logging'))
    for public, own in RCLPY_ALIASES.items():
        _module(public, public, _forward(public, f'{HERE}.{own}'))
    sys.meta_path.insert(0, _MissingRclpyModules())
    _module('cv_bridge', 'cv_bridge (a subset).', _forward('cv_bridge', f'{HERE}.cv_bridge'))
    for package in sorted(catalogue().packages()):
        _register_interfaces(package)


def _register_interfaces(package: str) -> None:
    if package != PACKAGE:

        def absent(name: str, package: str = package) -> Any:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')

        _module(package, f'Interfaces of {package}.', absent)
    for kind in ('msg', 'srv'):
        if names := catalogue().names(package, kind):
            module = _module(f'{package}.{kind}', f'{package}/{kind}.', _interface(package, kind))
            module.__all__ = names
