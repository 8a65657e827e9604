"""What lets the nodes run where ROS 2 is not installed: rclpy over Zenoh.

`install()` registers stand-ins for `rclpy`, the message packages and `cv_bridge`, unless the real
`rclpy` can be imported: a sourced ROS 2 always wins. What it can do: docs/rclpy-zenoh.md.
"""

from __future__ import annotations

import importlib

_MARKER = '__dynamic_ofa_stand_in__'


def real_ros_is_available() -> bool:
    """Return whether the real `rclpy` can be imported."""
    try:
        module = importlib.import_module('rclpy')
    except ImportError:
        return False
    return not hasattr(module, _MARKER)


def is_installed() -> bool:
    """Return whether the stand-ins are registered."""
    import sys

    return hasattr(sys.modules.get('rclpy'), _MARKER)


def install() -> bool:
    """Register the stand-ins where ROS 2 is missing; return whether they serve.

    Cheap to call again. Zenoh is loaded later, when a context opens its session.
    """
    if is_installed():
        return True
    if real_ros_is_available():
        return False
    from dynamic_ofa_ros.rclpy_zenoh.stand_ins import register

    register(_MARKER)
    return True
