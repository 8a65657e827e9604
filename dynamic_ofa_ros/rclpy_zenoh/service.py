"""`rclpy.service`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rosbags.serde import SerdeError

from dynamic_ofa_ros.rclpy_zenoh import wire
from dynamic_ofa_ros.rclpy_zenoh.endpoint import Endpoint
from dynamic_ofa_ros.rclpy_zenoh.exceptions import MissingFeatureError
from dynamic_ofa_ros.rclpy_zenoh.logging import get_logger
from dynamic_ofa_ros.rclpy_zenoh.messages import deserialize, serialize
from dynamic_ofa_ros.rclpy_zenoh.qos import QoSProfile
from dynamic_ofa_ros.rclpy_zenoh.session import direct


class Service(Endpoint):
    """Answers requests in the executor's thread: `callback(request, response) -> response`."""

    KIND = wire.SERVICE

    def __init__(
        self,
        node: Any,
        srv_type: Any,
        name: str,
        callback: Callable[[Any, Any], Any],
        qos: QoSProfile,
        *,
        callback_group: Any = None,
    ) -> None:
        super().__init__(node, name, srv_type.TYPE_NAME, qos)
        self.srv_type = srv_type
        self.callback = callback
        self.callback_group = callback_group
        self._queue: deque[Any] = deque()
        self.keep(
            self.context.session.declare_queryable(self.key, direct(self._on_query), complete=True)
        )
        self.announce()

    @property
    def srv_name(self) -> str:
        """Return the fully qualified service."""
        return self._name

    @property
    def service_name(self) -> str:
        """Return the fully qualified service."""
        return self._name

    def _on_query(self, query: Any) -> None:
        self._queue.append(query)
        self.node.wake()

    def is_ready(self) -> bool:
        """Return whether a request waits."""
        return bool(self._queue)

    def execute(self) -> None:
        """Take one request, call back, and send the response."""
        try:
            query = self._queue.popleft()
        except IndexError:
            return
        with query:  # the requester's call ends with it, also if the callback raises
            try:
                sequence, _, gid = wire.unpack_attachment(query.attachment.to_bytes())
                request = deserialize(query.payload.to_bytes(), self.srv_type.Request)
            except (AttributeError, ValueError, SerdeError, IndexError) as error:
                get_logger(self.node.get_logger().name).error(
                    f"Dropped a malformed request to '{self._name}': {error}",
                    throttle_duration_sec=5.0,
                )
                return
            response = self.callback(request, self.srv_type.Response())
            if not isinstance(response, self.srv_type.Response):
                raise TypeError(
                    f"The callback of the service '{self._name}' must return "
                    f'{self.type_name}.Response, got {type(response).__name__}'
                )
            query.reply(
                self.key,
                serialize(response),
                attachment=wire.pack_attachment(sequence, time.time_ns(), gid),
            )

    def configure_introspection(self, *_: Any) -> None:
        """Not available."""
        raise MissingFeatureError('Service introspection')

    def destroy(self) -> None:
        """Stop answering."""
        self.undeclare()
        while self._queue:
            self._queue.popleft().drop()
