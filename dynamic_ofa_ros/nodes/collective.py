"""The node's part in collective choices: tells the peers the own status, sets what is agreed.

All classifiers, in whatever namespace, meet on one topic; only those on the same device count.
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
"""Absolute: peers are found whatever their namespace."""

MAX_NAME, MAX_SUSPECTS = 80, 100
"""What of a peer's name is logged, and for how many peers."""


class Collective:
    """Publishes, listens and sets the manager's allowance, while open and switched on.

    Its callbacks are a BackgroundGroup's: they delay no image; wake: called when there are new
    ones. Its methods may be called from any thread.
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
        """Speak for a manager; `configure` switches on."""
        with self._lock:
            self._assembly = assembly

    def close(self) -> None:
        """Fall silent: the peers forget this classifier."""
        with self._lock:
            self.configure(False, self._importance)
            self._assembly = None

    def configure(self, is_on: bool, importance: float) -> None:
        """Take part or not, with this weight of the own accuracy."""
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
            # Steady: peers must not be forgotten because simulated time stands still.
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
        elif self._coordinator.has_news(now_ns):
            self._on_timer()

    def _warn_once(self, name: str) -> None:
        """Warn of a peer whose status is ignored."""
        if name in self._suspects or len(self._suspects) >= MAX_SUSPECTS:
            return
        self._suspects.add(name)
        self._node.get_logger().warning(
            f'the status of {name!r} is ignored: a value is out of range, or peers are too many'
        )

    def _on_timer(self) -> None:
        with self._lock:
            if self._assembly is not None and self._timer is not None:
                self._tell(self._assembly)

    def _tell(self, assembly: Assembly) -> None:
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
