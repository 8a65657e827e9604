"""`rclpy.event_handler`: accepted, never called; Zenoh has no QoS events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.exceptions import MissingFeatureError

EventCallback = Callable[[Any], None]


class UnsupportedEventTypeError(RuntimeError):
    """Raised for QoS events, which this middleware does not have."""


class _EventCallbacks:
    def __init__(self, *, use_default_callbacks: bool = True, **callbacks: Any) -> None:
        self.use_default_callbacks = use_default_callbacks
        for name, callback in callbacks.items():
            if callback is not None:
                raise MissingFeatureError(f'The QoS event callback {name!r}')


class PublisherEventCallbacks(_EventCallbacks):
    """Callbacks for a publisher's QoS events."""


class SubscriptionEventCallbacks(_EventCallbacks):
    """Callbacks for a subscription's QoS events."""
