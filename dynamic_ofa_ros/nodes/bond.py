"""A bond with nav2's lifecycle manager: the node sends heartbeats while it is active.

This implements the protocol of the package `bond`, from which only the message is used. Both sides
publish bond/Status with the id of the bond and their own instance id. `active` is true in every
heartbeat and false when a side ends the bond; the other side then also sends a message with
`active` false. bondpy is not used because it does not exist on Humble, and because it destroys a
subscription while the executor uses it: on Jazzy, the executor then raises InvalidHandle, which
would end the node at its first deactivation.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType

from dynamic_ofa_ros.errors import MissingPackageError
from dynamic_ofa_ros.nodes import conversions, qos

TOPIC = 'bond'
"""A relative name, as in nav2: a manager uses the topic in its own namespace."""

HEARTBEAT_PERIOD_S = 0.1
HEARTBEAT_TIMEOUT_S = 4.0
"""Same value as in the nodes of nav2; the manager uses its own `bond_timeout`."""


class Bond:
    """The node's side of a bond, whose id is the node's name.

    publish: called with a publisher and a message.
    """

    def __init__(self, node: Any, publish: Callable[[Any, Any], None]) -> None:
        self._node = node
        self._publish = publish
        self._instance = ''
        self._publisher: Any = None  # never destroyed, so that the last message is delivered
        self._timer: Any = None

    def check(self) -> None:
        """Raise MissingPackageError if the package `bond` is missing."""
        _status_type()

    def open(self) -> None:
        """Start sending heartbeats."""
        self._instance = str(uuid.uuid4())
        if self._publisher is None:
            status = _status_type()
            self._publisher = self._node.create_publisher(status, TOPIC, qos.BOND)
            self._node.create_subscription(status, TOPIC, self._on_status, qos.BOND)
        # A timer of the executor, so that a node sends no heartbeats if its executor hangs. A
        # steady clock, so that heartbeats continue when simulated time stops.
        self._timer = self._node.create_timer(
            HEARTBEAT_PERIOD_S, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def close(self) -> None:
        """End the bond and notify the other side."""
        timer, self._timer = self._timer, None
        if timer is not None:
            self._node.destroy_timer(timer)
            self._send(is_active=False)

    def _on_timer(self) -> None:
        if self._timer is not None:
            self._send(is_active=True)

    def _on_status(self, message: Any) -> None:
        """Acknowledge the end of the other side's bond; heartbeats continue for its next bond."""
        is_other = message.id == self._node.get_name() and message.instance_id != self._instance
        if is_other and not message.active and self._timer is not None:
            self._send(is_active=False)

    def _send(self, *, is_active: bool) -> None:
        message = _status_type()(
            header=conversions.stamped_header(self._node.get_clock()),
            id=self._node.get_name(),
            instance_id=self._instance,
            active=is_active,
            heartbeat_timeout=HEARTBEAT_TIMEOUT_S,
            heartbeat_period=HEARTBEAT_PERIOD_S,
        )
        self._publish(self._publisher, message)


def _status_type() -> Any:
    try:
        return importlib.import_module('bond.msg').Status
    except ImportError as error:
        raise MissingPackageError(
            'bond is true, but the package bond is missing: apt install ros-$ROS_DISTRO-bond, '
            'or set bond to false'
        ) from error
