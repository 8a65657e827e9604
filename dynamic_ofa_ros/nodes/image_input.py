"""The image subscription, which adopts the publishers' reliability and counts lost images."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.qos import ReliabilityPolicy, qos_policy_name_from_kind
from sensor_msgs.msg import CompressedImage, Image

from dynamic_ofa_ros.nodes import conversions, qos
from dynamic_ofa_ros.nodes.diagnostics import InputMonitor
from dynamic_ofa_ros.nodes.parameter_table import ParameterSpec, declare
from dynamic_ofa_ros.nodes.runner import Throttle
from dynamic_ofa_ros.runtime.mailbox import Frame

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

MAX_WAIT_NS = 10_000_000_000
"""Longer times between arrival and callback are attributed to a jump of the system clock."""

MAX_GAP = 10_000
"""Larger gaps in the sequence numbers are attributed to a change of the publisher."""

MATCHED = 'best_available'

LOST_REMEDY = 'publish with reliable QoS, or use config/fastdds.xml (docs/nodes.md)'


class ImageInput:
    """Subscribes to `image_raw`, or to its compressed transport, while open.

    The subscription is reliable if all publishers are, and best effort otherwise; the parameter
    `qos_overrides.<topic>.subscription.reliability` overrides this. `update` adapts the
    reliability; it is called when publishers appear and should also be called once a second.
    on_frame: called with each frame. on_missing: called with the number of frames lost in
    transport and the number of frames overwritten by a newer one before the executor took them,
    both since the start.
    """

    def __init__(
        self,
        node: Any,
        transport: str,
        on_frame: Callable[[Frame], None],
        on_missing: Callable[[int, int], None],
    ) -> None:
        self._node = node
        self._is_compressed = transport == 'compressed'
        self._on_frame = on_frame
        self._on_missing = on_missing
        self._name = 'image_raw'
        if self._is_compressed:  # as image_transport does: remapping image_raw is enough
            self._name = f'{node.resolve_topic_name(self._name)}/compressed'
        self.topic: str = node.resolve_topic_name(self._name)
        self._fixed_reliability = self._declare_reliability()
        self.monitor = InputMonitor()
        self.lost_frames = 0
        self._gaps = 0
        self._last_sequence: int | None = None
        self.qos_problem = ''
        self._throttle = Throttle()
        self._subscription: Any = None
        self._reliability = ReliabilityPolicy.RELIABLE
        # `open` and `close` run on the transitions' thread, `update` on the executor's.
        self._lock = threading.Lock()
        self._rematch = node.create_guard_condition(self.update)

    def reset_counts(self) -> None:
        """Count all images from zero, as the worker of a newly configured node does."""
        self.monitor = InputMonitor()
        self.lost_frames = self._gaps = 0

    def open(self) -> None:
        """Subscribe."""
        with self._lock:
            self._subscribe(self._wanted_reliability())
            self.monitor.open(time.perf_counter_ns())

    def close(self) -> None:
        """Unsubscribe."""
        with self._lock:
            if self._subscription is not None:
                self._node.destroy_subscription(self._subscription)
                self._subscription = None
            self.monitor.close()

    @property
    def overwritten_frames(self) -> int:
        """Number of frames that a newer one replaced before the executor took them.

        The middleware does not report them. They are the gaps in the sequence numbers minus the
        lost frames, and can be counted only for a single publisher and if the middleware numbers
        messages (not on Humble).
        """
        return max(0, self._gaps - self.lost_frames)

    @property
    def publishers(self) -> int:
        """Number of publishers on the topic."""
        return int(self._node.count_publishers(self.topic))

    def update(self) -> None:
        """Subscribe again if the publishers' reliability has changed."""
        with self._lock:
            wanted = self._wanted_reliability()
            if self._subscription is not None and wanted != self._reliability:
                self._node.destroy_subscription(self._subscription)
                self._subscribe(wanted)

    def _declare_reliability(self) -> Any:
        """Return the reliability set by the user; None to adopt that of the publishers."""
        spec = ParameterSpec(
            f'qos_overrides.{self.topic}.subscription.reliability',
            MATCHED,
            'Reliability of the image subscription; `best_available` = that of the publishers.',
            choices=(MATCHED, *qos.RELIABILITIES),
            is_live=False,
        )
        value = declare(self._node, spec)
        return None if value == MATCHED else ReliabilityPolicy[value.upper()]

    def _wanted_reliability(self) -> Any:
        if self._fixed_reliability is not None:
            return self._fixed_reliability
        offers = [
            info.qos_profile.reliability
            for info in self._node.get_publishers_info_by_topic(self.topic)
        ]
        if all(offer == ReliabilityPolicy.RELIABLE for offer in offers):
            return ReliabilityPolicy.RELIABLE
        return ReliabilityPolicy.BEST_EFFORT

    def _subscribe(self, reliability: Any) -> None:
        self._reliability = reliability
        self._last_sequence = None
        self.qos_problem = ''
        profile = qos.image(reliability)
        try:
            self._subscription = self._create(profile, self._events(with_lost=True))
        except UnsupportedEventTypeError:  # the middleware does not report lost messages
            self._subscription = self._create(profile, self._events(with_lost=False))

    def _create(self, profile: Any, events: Any) -> Any:
        return self._node.create_subscription(
            CompressedImage if self._is_compressed else Image,
            self._name,
            self._on_image,
            profile,
            event_callbacks=events,
        )

    def _events(self, *, with_lost: bool) -> Any:
        callbacks = {'incompatible_qos': self._on_incompatible_qos}
        if with_lost:
            callbacks['message_lost'] = self._on_message_lost
        try:
            return SubscriptionEventCallbacks(**callbacks, matched=self._on_matched)
        except TypeError:  # Humble does not report matches; `update` detects them
            return SubscriptionEventCallbacks(**callbacks)

    def _on_matched(self, event: Any) -> None:
        self._rematch.trigger()

    def _on_message_lost(self, event: Any) -> None:
        self.lost_frames += event.total_count_change
        self._on_missing(self.lost_frames, self.overwritten_frames)
        if self._throttle.passes('lost'):
            self._node.get_logger().warning(
                f'{self.lost_frames} images were lost in transport: {LOST_REMEDY}'
            )

    def _on_incompatible_qos(self, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        if policy == 'RELIABILITY' and self._reliability != self._wanted_reliability():
            self._rematch.trigger()  # not set by the user, so `update` can fix it
            return
        self.qos_problem = f'a publisher on {self.topic} offers an incompatible {policy}'
        self._node.get_logger().warning(f'{self.qos_problem}: its images are not received')

    def _on_image(self, message: Any, info: Any) -> None:
        received_ns, wall_ns = time.perf_counter_ns(), time.time_ns()
        self._count_gap(info.get('publication_sequence_number'))
        arrived_ns = arrival_ns(received_ns, wall_ns, info['received_timestamp'])
        age_ms = self._age_ms(message.header.stamp, received_ns, arrived_ns)
        convert = conversions.compressed_image if self._is_compressed else conversions.raw_image
        self._on_frame(Frame(convert(message), message.header, received_ns, age_ms, arrived_ns))

    def _count_gap(self, sequence: int | None) -> None:
        """Count the messages missing between the last one and this one."""
        last, self._last_sequence = self._last_sequence, sequence
        if last is None or sequence is None or not last + 1 < sequence < last + MAX_GAP:
            return
        if self.publishers == 1:
            self._gaps += sequence - last - 1
            self._on_missing(self.lost_frames, self.overwritten_frames)

    def _age_ms(self, stamp: Any, received_ns: int, arrived_ns: int | None) -> float:
        """Return the age of an image at its arrival; log a warning if its stamp is invalid."""
        clock = self._node.get_clock()
        now_ns = clock.now().nanoseconds
        if arrived_ns is not None and not clock.ros_time_is_active:
            now_ns -= received_ns - arrived_ns
        stamp_ns = stamp.sec * 10**9 + stamp.nanosec
        age_ms = self.monitor.add(received_ns, stamp_ns, now_ns)
        if not stamp_ns and self._throttle.passes('zero stamp'):
            self._node.get_logger().warning('images have no stamp, so their age is unknown')
        if age_ms < 0.0 and self._throttle.passes('future stamp'):
            self._node.get_logger().warning(
                f'the stamp of an image is {-age_ms:.1f} ms in the future; it is not changed'
            )
        return age_ms


def arrival_ns(received_ns: int, wall_ns: int, arrived_wall_ns: int) -> int | None:
    """Return the time when a message arrived in this process, of `time.perf_counter_ns`.

    received_ns, wall_ns: the current time of `time.perf_counter_ns` and of the system clock.
    arrived_wall_ns: the middleware's receive time, of the system clock. Return None if it is
    unknown or implausible.
    """
    wait_ns = wall_ns - arrived_wall_ns
    if arrived_wall_ns <= 0 or not 0 <= wait_ns <= MAX_WAIT_NS:
        return None
    return received_ns - wait_ns
