"""`rclpy.client`."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from typing import Any

from rosbags.serde import SerdeError

from dynamic_ofa_ros.rclpy_zenoh import wire
from dynamic_ofa_ros.rclpy_zenoh.endpoint import Endpoint
from dynamic_ofa_ros.rclpy_zenoh.exceptions import MissingFeatureError
from dynamic_ofa_ros.rclpy_zenoh.messages import deserialize, serialize
from dynamic_ofa_ros.rclpy_zenoh.qos import QoSProfile
from dynamic_ofa_ros.rclpy_zenoh.session import direct
from dynamic_ofa_ros.rclpy_zenoh.task import Future

# ROS knows no timeout of a request; Zenoh needs one, and a service may take long.
REQUEST_TIMEOUT_S = 600.0


class Client(Endpoint):
    """Sends requests; responses arrive through the executor."""

    KIND = wire.CLIENT

    def __init__(
        self, node: Any, srv_type: Any, name: str, qos: QoSProfile, *, callback_group: Any = None
    ) -> None:
        super().__init__(node, name, srv_type.TYPE_NAME, qos)
        self.srv_type = srv_type
        self.callback_group = callback_group
        self._sequence = itertools.count(1)
        self._pending: dict[int, Future] = {}
        self._responses: deque[tuple[int, Any]] = deque()
        self.announce()

    @property
    def srv_name(self) -> str:
        """Return the fully qualified service."""
        return self._name

    @property
    def service_name(self) -> str:
        """Return the fully qualified service."""
        return self._name

    def call_async(self, request: Any) -> Future:
        """Send a request; the future holds the response once an executor has taken it."""
        import zenoh

        if not isinstance(request, self.srv_type.Request):
            raise TypeError(f'Expected {self.srv_type.Request}, got {type(request)}')
        self.check_alive()
        sequence = next(self._sequence)
        future = Future(executor=self.node.executor)
        self._pending[sequence] = future

        def on_reply(reply: Any) -> None:
            sample = reply.ok
            # An error reply is a router's or a timeout: as in ROS the request stays unanswered.
            if sample is not None:
                self._responses.append((sequence, sample.payload))
                self.node.wake()

        self.context.session.get(
            self.key,
            direct(on_reply),
            payload=serialize(request),
            attachment=wire.pack_attachment(sequence, time.time_ns(), self.gid),
            target=zenoh.QueryTarget.ALL_COMPLETE,
            consolidation=zenoh.ConsolidationMode.NONE,
            timeout=REQUEST_TIMEOUT_S,
        )
        return future

    def call(self, request: Any, timeout_sec: float | None = None) -> Any:
        """Send a request and wait; an executor must spin the node in another thread.

        TimeoutError if there is no response in time.
        """
        done = threading.Event()
        future = self.call_async(request)
        future.add_done_callback(lambda _: done.set())
        if not done.wait(timeout_sec):
            self.remove_pending_request(future)
            raise TimeoutError(f"No response from '{self._name}' within {timeout_sec} s")
        return future.result()

    def is_ready(self) -> bool:
        """Return whether a response waits."""
        return bool(self._responses)

    def execute(self) -> None:
        """Take one response and finish its future."""
        try:
            sequence, payload = self._responses.popleft()
        except IndexError:
            return
        future = self._pending.pop(sequence, None)
        if future is None:  # given up, or a second server answered too
            return
        try:
            future.set_result(deserialize(payload.to_bytes(), self.srv_type.Response))
        except (SerdeError, IndexError) as error:
            future.set_exception(error)

    def remove_pending_request(self, future: Future) -> None:
        """Forget a request: its response will be ignored."""
        for sequence, pending in list(self._pending.items()):
            if pending is future:
                del self._pending[sequence]

    def service_is_ready(self) -> bool:
        """Return whether a server of this name and type exists."""
        servers = self.context.graph.tokens([wire.SERVICE], self._name)
        return any(server.type_name == self.type_name for server in servers)

    def wait_for_service(self, timeout_sec: float | None = None) -> bool:
        """Wait for a server; return whether there is one."""
        context = self.context
        context.graph.wait(lambda: self.service_is_ready() or not context.ok(), timeout_sec)
        return context.ok() and self.service_is_ready()

    def configure_introspection(self, *_: Any) -> None:
        """Not available."""
        raise MissingFeatureError('Service introspection')

    def destroy(self) -> None:
        """Leave; pending futures are cancelled."""
        self.undeclare()
        for future in list(self._pending.values()):
            future.cancel()
        self._pending.clear()
