"""Collective choices: exchange status messages with other classifiers and apply the agreement.

All classifiers of all namespaces use one topic; messages from other devices are ignored.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType

from dynamic_ofa_ros.msg import ClassifierStatus
from dynamic_ofa_ros.nodes import conversions, qos
from dynamic_ofa_ros.nodes.executors import BackgroundGroup
from dynamic_ofa_ros.runtime.assembly import Assembly
from dynamic_ofa_ros.runtime.coordination import STATUS_PERIOD_NS, Coordinator, FrameInterval

TOPIC = '/dynamic_ofa/status'
"""An absolute name, so that peers of all namespaces are found."""

MAX_NAME, MAX_SUSPECTS = 80, 100
"""Maximum length of a peer's name in the log, and maximum number of peers in warnings."""


class Collective:
    """Exchanges statuses with peers and sets the manager's allowance accordingly.

    Its callbacks belong to a BackgroundGroup, so they do not delay images. wake: called after a
    callback was added. All methods can be called from any thread.
    """

    def __init__(self, node: Any, wake: Callable[[], None]) -> None:
        self._node = node
        self._wake = wake
        self._group = BackgroundGroup()
        self._lock = threading.RLock()
        self._assembly: Assembly | None = None
        self._importance = 1.0
        self._coordinator = Coordinator()
        self._interval = FrameInterval()
        self._suspects: set[str] = set()
        self._publisher: Any = None
        self._subscription: Any = None
        self._timer: Any = None

    def open(self, assembly: Assembly) -> None:
        """Use the manager of this assembly; `configure` starts the exchange."""
        with self._lock:
            self._assembly = assembly

    def close(self) -> None:
        """Stop the exchange; after a timeout, peers no longer consider this classifier."""
        with self._lock:
            self.configure(False, self._importance)
            self._assembly = None

    def configure(self, is_on: bool, importance: float) -> None:
        """Start or stop the exchange. importance: weight of this classifier's accuracy."""
        with self._lock:
            self._configure(is_on, importance)

    def _configure(self, is_on: bool, importance: float) -> None:
        self._importance = importance
        if self._assembly is None:
            return
        if is_on and self._timer is None:
            self._publisher = self._node.create_publisher(ClassifierStatus, TOPIC, qos.STATUS)
            self._subscription = self._node.create_subscription(
                ClassifierStatus,
                TOPIC,
                self._on_status,
                qos.STATUS,
                callback_group=self._group,
            )
            # A steady clock, so that peers do not time out when simulated time stops.
            self._timer = self._node.create_timer(
                STATUS_PERIOD_NS / 1e9,
                self._on_timer,
                callback_group=self._group,
                clock=Clock(clock_type=ClockType.STEADY_TIME),
            )
            self._wake()
        elif not is_on and self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._node.destroy_subscription(self._subscription)
            self._node.destroy_publisher(self._publisher)
            self._timer = None
            self._coordinator = Coordinator()
            self._interval = FrameInterval()
            self._assembly.manager.set_allowance(None)

    def _on_status(self, message: Any) -> None:
        if message.name == self._name:
            return
        now_ns = time.perf_counter_ns()
        status = conversions.peer_status(message)
        if status is None or not self._coordinator.receive(status, now_ns):
            self._warn_once(message.name[:MAX_NAME])

    def _warn_once(self, name: str) -> None:
        """Log one warning for each peer whose status is ignored."""
        if name in self._suspects or len(self._suspects) >= MAX_SUSPECTS:
            return
        self._suspects.add(name)
        self._node.get_logger().warning(
            f'the status of {name!r} is ignored: invalid value, or too many peers'
        )

    def _on_timer(self) -> None:
        with self._lock:
            if self._assembly is not None and self._timer is not None:
                self._exchange(self._assembly)

    def _exchange(self, assembly: Assembly) -> None:
        now_ns = time.perf_counter_ns()
        status = assembly.manager.status(
            self._name,
            assembly.devices,
            self._importance,
            self._interval.update(now_ns, assembly.worker.mailbox.received),
        )
        allowance = self._coordinator.decide(status, now_ns)
        status = self._coordinator.told(status, now_ns)
        header = conversions.stamped_header(self._node.get_clock())
        self._publisher.publish(conversions.classifier_status(header, status))
        assembly.manager.set_allowance(allowance)

    @property
    def _name(self) -> str:
        return str(self._node.get_fully_qualified_name())
