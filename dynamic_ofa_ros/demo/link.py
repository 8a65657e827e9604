"""The demo's ROS node: subscribes to camera and classifier, and sets parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from dynamic_ofa_ros.demo.processes import PartError
from dynamic_ofa_ros.demo.recording import Recorder

ANSWER_TIMEOUT_S = 10.0
READER_DEPTH = 300
"""Queue size of the subscriptions: on a busy machine this process may not run for seconds."""


class Link:
    """Subscriptions and a parameter client on one node, spun by `spin_for`.

    namespace: namespace of the classifier, '' or beginning with a slash; the camera has none.
    """

    def __init__(self, recorder: Recorder, namespace: str = '') -> None:
        # Imported here so that this module can be imported without ROS 2.
        import rclpy
        from rcl_interfaces.srv import SetParameters
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSProfile
        from rclpy.signals import SignalHandlerOptions
        from vision_msgs.msg import Classification

        from dynamic_ofa_ros.msg import ActiveLevel, LevelArray, Telemetry
        from dynamic_ofa_ros.nodes import qos

        self._context = Context()
        rclpy.init(
            args=[],
            context=self._context,
            # The demo handles signals itself, because it must end its processes.
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self._node = rclpy.create_node('demo', context=self._context, namespace=namespace or None)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        reliable = QoSProfile(depth=READER_DEPTH)
        subscribe: Callable[..., Any] = self._node.create_subscription
        subscribe(Classification, '/ground_truth', recorder.add_truth, reliable)
        subscribe(Telemetry, 'classifier/telemetry', recorder.add_telemetry, reliable)
        subscribe(LevelArray, 'classifier/levels', recorder.set_table, qos.LATCHED)
        subscribe(ActiveLevel, 'classifier/active_level', recorder.add_switch, reliable)
        self._client = self._node.create_client(SetParameters, 'classifier/set_parameters')

    def spin_for(self, seconds: float) -> None:
        """Handle messages for some time."""
        deadline_s = time.monotonic() + seconds
        while (left_s := deadline_s - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left_s)

    @property
    def is_ready(self) -> bool:
        """Whether the parameter service of the classifier is available."""
        return bool(self._client.service_is_ready())

    def set_parameters(self, values: Mapping[str, float | str]) -> None:
        """Set parameters of the classifier; raise PartError if it rejects one."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(
            parameters=[
                Parameter(name, value=value).to_parameter_msg() for name, value in values.items()
            ]
        )
        future = self._client.call_async(request)
        self._executor.spin_until_future_complete(future, timeout_sec=ANSWER_TIMEOUT_S)
        if not future.done():
            raise PartError(
                f'the classifier did not answer within {ANSWER_TIMEOUT_S:g} s to a change of '
                f'{", ".join(values)}'
            )
        for name, result in zip(values, future.result().results, strict=True):
            if not result.successful:
                raise PartError(
                    f'the classifier rejected {name} = {values[name]}: {result.reason}'
                )

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()
