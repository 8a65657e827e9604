"""A bond with nav2's lifecycle manager: heartbeats for as long as the node is active.

The protocol of the package `bond`, of which only the message is needed: both sides publish
bond/Status with the id of the bond and a number of their own, `active` at every heartbeat, and
not active when they end it; who hears that answers the same. bondpy is no choice: Humble has none,
and to end one of its bonds destroys a subscription under the executor that spins, which then
raises InvalidHandle (seen on Jazzy): the node would end with its first deactivation.
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
"""Relative, as in nav2: a manager looks for the nodes of its own namespace."""

HEARTBEAT_PERIOD_S = 0.1
HEARTBEAT_TIMEOUT_S = 4.0
"""What nav2's own nodes announce; the manager goes by its own `bond_timeout`."""


class Bond:
    """The node's end of the bond; the id is the node's name. publish: takes publisher, message."""

    def __init__(self, node: Any, publish: Callable[[Any, Any], None]) -> None:
        self._node = node
        self._publish = publish
        self._instance = ''
        self._publisher: Any = None  # kept from the first heartbeat on: farewells must arrive
        self._timer: Any = None

    def check(self) -> None:
        """Raise MissingPackageError where there is no message to keep a bond with."""
        _status_type()

    def open(self) -> None:
        """Begin the heartbeats."""
        self._instance = str(uuid.uuid4())
        if self._publisher is None:
            status = _status_type()
            self._publisher = self._node.create_publisher(status, TOPIC, qos.BOND)
            self._node.create_subscription(status, TOPIC, self._on_status, qos.BOND)
        # On the executor: a node that does nothing else any more gives no heartbeats. Steady:
        # they go on when simulated time stands still.
        self._timer = self._node.create_timer(
            HEARTBEAT_PERIOD_S, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def close(self) -> None:
        """End the bond, and tell the other side."""
        timer, self._timer = self._timer, None
        if timer is not None:
            self._node.destroy_timer(timer)
            self._tell(is_active=False)

    def _on_timer(self) -> None:
        if self._timer is not None:
            self._tell(is_active=True)

    def _on_status(self, message: Any) -> None:
        """Answer the end of the other side's bond; heartbeats go on, for its next one."""
        is_other = message.id == self._node.get_name() and message.instance_id != self._instance
        if is_other and not message.active and self._timer is not None:
            self._tell(is_active=False)

    def _tell(self, *, is_active: bool) -> None:
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
            'bond is true, and the package bond is missing: apt install ros-$ROS_DISTRO-bond, '
            'or set bond to false'
        ) from error
