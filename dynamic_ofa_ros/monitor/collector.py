"""Finds the classifiers of the ROS graph and keeps their records up to date."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import ParameterEvent
from rclpy.clock import Clock, ClockType
from rclpy.qos import qos_profile_parameter_events

from dynamic_ofa_ros.monitor.parameter_client import KINDS, Answer, value_of
from dynamic_ofa_ros.monitor.pictures import IMAGE_TYPES, Camera
from dynamic_ofa_ros.monitor.records import Records
from dynamic_ofa_ros.monitor.watch import Watch

TELEMETRY_TYPE = 'dynamic_ofa_ros/msg/Telemetry'
DISCOVERY_PERIOD_S = 1.0
IDLE_DISCOVERY_PERIOD_S = 5.0
"""While no page is open."""

READING_PERIOD_S = 0.2
"""Time between readings of telemetry and images; pages are also updated at this period."""

UNKNOWN_NODE_NAME = '_NODE_NAME_UNKNOWN_'
"""The name that rmw gives to nodes that it has not discovered yet."""

MAX_LABEL_WAIT_S = 0.5
"""Longest time that an image waits for its labels before it is shown."""

MAX_CLASSIFIERS = 32
FORGET_AFTER_S = 300.0
"""Time after which a classifier that has stopped is removed from the page."""


class Collector:
    """Watches every node that publishes telemetry. Use it on the executor's thread.

    picture_width: in px. picture_rate_hz: of all cameras together, which take turns; 0 = none.
    `set_watching` and `set_parameter` may be called on any thread.
    """

    def __init__(
        self, node: Any, records: Records, picture_width: int, picture_rate_hz: float
    ) -> None:
        self._node = node
        self._records = records
        self._picture_width = picture_width
        self._picture_period_s = 1.0 / picture_rate_hz if picture_rate_hz > 0.0 else 0.0
        self._next_picture_s = 0.0
        self._watches: dict[str, Watch] = {}
        self._cameras: dict[str, Camera] = {}
        self._is_watching = False
        self._left_out: set[str] = set()
        self._events: Any = None
        self._readings: Any = None
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = node.create_guard_condition(self._on_wake)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._discoveries = node.create_timer(
            IDLE_DISCOVERY_PERIOD_S, self.discover, clock=self._steady
        )

    def set_watching(self, is_watching: bool) -> None:
        """Set whether a page is open; otherwise telemetry, images and parameters are not read."""
        self._command(lambda: self._watch(is_watching))

    def set_parameter(self, name: str, parameter: str, value: Any, answer: Answer) -> None:
        """Set a parameter of a classifier; `answer` is called once, on the executor's thread."""
        self._command(lambda: self._set(name, parameter, value, answer))

    def close(self) -> None:
        """End all subscriptions."""
        self._watch(False)
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()

    def discover(self) -> None:
        """Find new and stopped classifiers, and the topics of the running ones."""
        now_s = time.monotonic()
        found = self._publishers()
        left_out = set()
        for name, (node_name, namespace, topic, publishers) in found.items():
            watch = self._watches.get(name) or self._add(name)
            if watch is None:
                left_out.add(name)
                continue
            watch.seen_s = now_s
            self._mark_alive(watch, publishers)
            self._connect(watch, node_name, namespace, topic)
            watch.take_latched()
        self._leave_out(left_out)
        for name, watch in list(self._watches.items()):
            if name not in found:
                with self._records.lock:
                    watch.record.is_alive = False
            if now_s - watch.seen_s > FORGET_AFTER_S:
                self._remove(name)
            elif self._is_watching and watch.parameters is not None:
                watch.parameters.update()
        self._open_cameras()

    def _publishers(self) -> dict[str, tuple[str, str, str, set[bytes]]]:
        """Return node name, namespace, topic and publishers of all telemetry, by full name.

        A publisher is given by its identity in the middleware, which differs after a restart.
        """
        found: dict[str, tuple[str, str, str, set[bytes]]] = {}
        for topic, types in self._node.get_topic_names_and_types():
            if TELEMETRY_TYPE in types:
                for info in self._node.get_publishers_info_by_topic(topic):
                    if info.node_name == UNKNOWN_NODE_NAME:
                        continue  # the middleware may discover a publisher before its node
                    full_name = f'{info.node_namespace.rstrip("/")}/{info.node_name}'
                    _, _, _, publishers = found.setdefault(
                        full_name, (info.node_name, info.node_namespace, topic, set())
                    )
                    publishers.add(bytes(info.endpoint_gid))
        return found

    def _add(self, name: str) -> Watch | None:
        if len(self._watches) >= MAX_CLASSIFIERS:
            gone = [n for n, watch in self._watches.items() if not watch.record.is_alive]
            if not gone:
                return None
            self._remove(min(gone, key=lambda n: self._watches[n].seen_s))
        watch = self._watches[name] = Watch(self._node, self._records, self._records.create(name))
        self._node.get_logger().info(f'found classifier {name}')
        return watch

    def _leave_out(self, names: set[str]) -> None:
        for name in sorted(names - self._left_out):
            self._node.get_logger().warning(
                f'classifier {name} is not shown: the page shows at most {MAX_CLASSIFIERS}'
            )
        self._left_out = names
        self._records.left_out = len(names)

    def _remove(self, name: str) -> None:
        self._watches.pop(name).close()
        self._records.remove(name)

    def _mark_alive(self, watch: Watch, publishers: set[bytes]) -> None:
        with self._records.lock:
            was_alive, watch.record.is_alive = watch.record.is_alive, True
        is_same = was_alive and publishers == watch.publishers
        watch.publishers = publishers
        if not is_same and watch.parameters is not None:
            watch.parameters.ask_again()

    def _connect(self, watch: Watch, node_name: str, namespace: str, topic: str) -> None:
        try:
            published = self._node.get_publisher_names_and_types_by_node(node_name, namespace)
            watch.find_latched({kind: name for name, types in published for kind in types})
            if not self._is_watching:
                return
            watch.open(topic)
            subscribed = self._node.get_subscriber_names_and_types_by_node(node_name, namespace)
        except RuntimeError:  # NodeNameNonExistentError: the node has just stopped
            return
        watch.find_images(
            [(name, kind) for name, types in subscribed for kind in types if kind in IMAGE_TYPES]
        )

    def _open_cameras(self) -> None:
        """Subscribe to the image topics of the running classifiers while a page is open."""
        watches = self._watches.values() if self._is_watching and self._picture_period_s else ()
        wanted = {watch.images for watch in watches if watch.record.is_alive and watch.images}
        for topic in set(self._cameras) - {topic for topic, _ in wanted}:
            self._cameras.pop(topic).close()
            self._records.remove_picture(topic)
        for topic, kind in sorted(wanted):
            if topic not in self._cameras:
                self._cameras[topic] = Camera(self._node, topic, kind, self._picture_width)

    def _read(self) -> None:
        for watch in self._watches.values():
            watch.take_latched()
            watch.take_telemetry()
        for topic, camera in self._cameras.items():
            stamp = camera.stamp
            if stamp is None or not (
                self._records.is_answered(topic, stamp) or camera.waited_s > MAX_LABEL_WAIT_S
            ):
                continue
            picture = camera.picture()
            if picture is not None:
                self._records.set_picture(topic, picture, stamp)
        now_s = time.monotonic()
        if now_s < self._next_picture_s - READING_PERIOD_S / 2.0:
            return
        for topic, camera in list(self._cameras.items()):
            if camera.stamp is None and self._records.is_topic_shown(topic) and camera.take():
                self._cameras[topic] = self._cameras.pop(topic)  # the last in turn
                late_s = min(now_s - self._next_picture_s, READING_PERIOD_S)
                self._next_picture_s = now_s - late_s + self._picture_period_s
                return

    def _watch(self, is_watching: bool) -> None:
        if is_watching == self._is_watching:
            return
        self._is_watching = is_watching
        period_s = DISCOVERY_PERIOD_S if is_watching else IDLE_DISCOVERY_PERIOD_S
        self._discoveries.timer_period_ns = round(1e9 * period_s)
        self._discoveries.reset()
        if is_watching:
            self._events = self._node.create_subscription(
                ParameterEvent, '/parameter_events', self._on_event, qos_profile_parameter_events
            )
            self._readings = self._node.create_timer(
                READING_PERIOD_S, self._read, clock=self._steady
            )
            self.discover()
            return
        for watch in self._watches.values():
            watch.pause()
        self._open_cameras()
        self._node.destroy_subscription(self._events)
        self._node.destroy_timer(self._readings)

    def _on_event(self, event: Any) -> None:
        watch = self._watches.get(event.node)
        if watch is not None:
            changed = [*event.new_parameters, *event.changed_parameters]
            values = [
                (item.name, value_of(item.name, item.value))
                for item in changed
                if item.value.type in KINDS
            ]
            with self._records.lock:
                watch.record.set_values(values)

    def _set(self, name: str, parameter: str, value: Any, answer: Answer) -> None:
        watch = self._watches.get(name)
        known = self._records.parameter(name, parameter)
        if watch is None or watch.parameters is None or known is None:
            answer(False, f'{name[:80]} has no parameter {parameter[:80]} that can be set')
        else:
            watch.parameters.set(known, value, answer)

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._wake.trigger()

    def _on_wake(self) -> None:
        while self._commands:
            self._commands.popleft()()
