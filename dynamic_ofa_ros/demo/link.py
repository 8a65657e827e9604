"""The demo's own ROS node: listens to camera and classifier, and steers as a user would."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dynamic_ofa_ros.demo.processes import PartError
from dynamic_ofa_ros.demo.recorder import Recorder

ANSWER_TIMEOUT_S = 10.0
READER_DEPTH = 300
"""Messages kept for us: under contention this process is starved too, for up to seconds."""


class Link:
    """Subscriptions, parameter clients and a publisher on one node, spun by `spin_for`.

    namespace: the classifier's, '' or beginning with a slash; the camera is at the root.
    """

    def __init__(self, recorder: Recorder, namespace: str = '') -> None:
        # Imported here: `dynamic-ofa` has verbs that need no ROS 2.
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSProfile
        from rclpy.signals import SignalHandlerOptions
        from vision_msgs.msg import Classification, LabelInfo

        from dynamic_ofa_ros.msg import ActiveLevel, Constraints, LevelArray, Telemetry
        from dynamic_ofa_ros.nodes import qos

        self._context = Context()
        rclpy.init(
            args=[],
            context=self._context,
            # Signals are the demo's own business: it has processes to end.
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self._node = rclpy.create_node('demo', context=self._context, namespace=namespace or None)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._pending: list[tuple[Any, str, float]] = []
        self._clients: dict[str, Any] = {}
        self._constraints_type = Constraints
        reliable = QoSProfile(depth=READER_DEPTH)
        subscribe: Callable[..., Any] = self._node.create_subscription
        truth = '/ground_truth'
        subscribe(Classification, truth, recorder.add_truth, reliable)
        subscribe(LabelInfo, f'{truth}/label_info', recorder.set_truth_names, qos.LATCHED)
        subscribe(Classification, 'classification', recorder.add_label, reliable)
        subscribe(LabelInfo, 'label_info', recorder.set_label_names, qos.LATCHED)
        subscribe(Telemetry, 'classifier/telemetry', recorder.add_telemetry, reliable)
        subscribe(LevelArray, 'classifier/levels', recorder.set_levels, qos.LATCHED)
        subscribe(
            ActiveLevel,
            'classifier/active_level',
            lambda message: recorder.add_switch(message, time.time_ns()),
            QoSProfile(depth=READER_DEPTH, durability=qos.LATCHED.durability),
        )
        self._constraints_pub = self._node.create_publisher(
            Constraints, 'classifier/constraints', qos.CONSTRAINTS
        )

    def spin_for(self, seconds: float) -> None:
        """Handle messages for a while; raise PartError if a request was refused or ignored."""
        deadline_s = time.monotonic() + seconds
        while (left_s := deadline_s - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left_s)
        self._check_answers()

    def can_steer(self, node: str) -> bool:
        """Tell whether a node's parameter service is there."""
        return bool(self._client(node).service_is_ready())

    def set_parameter(self, node: str, name: str, value: float | str) -> None:
        """Set a parameter of another node through its service, as `ros2 param set` does.

        Does not wait: `spin_for` raises PartError should the node refuse.
        """
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        future = self._client(node).call_async(request)
        self._pending.append((future, f'{node} {name}', time.monotonic() + ANSWER_TIMEOUT_S))

    def publish_constraints(self, max_latency_ms: float) -> None:
        """Change the latency limit by topic; a negative one removes it. The floor stays."""
        message = self._constraints_type(max_latency_ms=max_latency_ms, source='demo')
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._constraints_pub.publish(message)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _client(self, node: str) -> Any:
        if node not in self._clients:
            from rcl_interfaces.srv import SetParameters

            self._clients[node] = self._node.create_client(SetParameters, f'{node}/set_parameters')
        return self._clients[node]

    def _check_answers(self) -> None:
        waiting = []
        for future, what, deadline_s in self._pending:
            if not future.done():
                if time.monotonic() > deadline_s:
                    raise PartError(
                        f'setting {what} was not answered within {ANSWER_TIMEOUT_S:g} s'
                    )
                waiting.append((future, what, deadline_s))
                continue
            result = future.result().results[0]
            if not result.successful:
                raise PartError(f'setting {what} was refused: {result.reason}')
        self._pending = waiting
