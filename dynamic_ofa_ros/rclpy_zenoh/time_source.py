"""`rclpy.time_source`: lets a node's clock follow `/clock` while `use_sim_time` is true."""

from __future__ import annotations

from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.clock import ROSClock
from dynamic_ofa_ros.rclpy_zenoh.messages import message_class
from dynamic_ofa_ros.rclpy_zenoh.parameter import Parameter, ParameterType
from dynamic_ofa_ros.rclpy_zenoh.qos import QoSProfile, ReliabilityPolicy

USE_SIM_TIME = 'use_sim_time'


class TimeSource:
    """Subscribes to `/clock` when simulated time is wanted."""

    def __init__(self, node: Any, clock: ROSClock) -> None:
        self._node = node
        self._clock = clock
        self._subscription: Any = None
        if not node.has_parameter(USE_SIM_TIME):
            node.declare_parameter(USE_SIM_TIME, False)
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._apply)
        self._enable(bool(node.get_parameter(USE_SIM_TIME).value))

    def _check(self, parameters: list[Parameter]) -> Any:
        kind = message_class('rcl_interfaces/msg/SetParametersResult')
        for parameter in parameters:
            if parameter.name == USE_SIM_TIME and parameter.type_ is not ParameterType.BOOL:
                return kind(successful=False, reason=f'{USE_SIM_TIME} parameter must be a bool')
        return kind(successful=True)

    def _apply(self, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name == USE_SIM_TIME:
                self._enable(bool(parameter.value))

    def _enable(self, is_wanted: bool) -> None:
        if is_wanted == (self._subscription is not None):
            return
        if is_wanted:
            # Simulated time is zero until the first message, as in ROS.
            self._clock.set_sim_time(0)
            self._subscription = self._node.create_subscription(
                message_class('rosgraph_msgs/msg/Clock'),
                '/clock',
                self._on_clock,
                QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
            )
        else:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self._clock.set_sim_time(None)

    def _on_clock(self, message: Any) -> None:
        self._clock.set_sim_time(message.clock.sec * 10**9 + message.clock.nanosec)
