"""The demo's parts: which process is started how, and how a user would steer it."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping

from dynamic_ofa_ros.demo.processes import Supervisor, tail
from dynamic_ofa_ros.errors import TransportError
from dynamic_ofa_ros.rclpy_zenoh import real_ros_is_available
from dynamic_ofa_ros.rclpy_zenoh.router import check_port_is_free, free_port
from dynamic_ofa_ros.rclpy_zenoh.session import DEFAULT_PORT, ROUTER_VARIABLE

WORKERS = 2
"""Competing processes on the classifier's CPU.

Measured on two virtual cores with the demo's family: one or two make inference about three times
as slow; from three on, images no longer reach the classifier at their rate.
"""

ROUTER_READY = 'Router ready at'
"""What `dynamic-ofa router` prints once it listens."""

SCENE_PERIOD_S = 0.3
"""A scene this long: enough of them in each phase to measure an accuracy."""


class Parts:
    """Router, classifier, camera and competitor, in a graph of this demo's own.

    With the stand-ins every demo has a router of its own (port 7447 when it is free, so that
    another terminal joins in without further ado, else any). With a real ROS 2 there is no router
    and the user's domain is used: there the nodes are kept apart by a namespace.
    Classifier and competitor share one CPU; everything else is kept off it, so that nothing but
    the competitor contends.
    """

    workload = 'busy'

    def __init__(self, supervisor: Supervisor, family: str, rate_hz: float) -> None:
        self._supervisor = supervisor
        self._family = family
        self._rate_hz = rate_hz
        self.needs_router = not real_ros_is_available()
        self.namespace = '' if self.needs_router else f'/demo_{os.getpid()}'
        self.classifier = f'{self.namespace}/classifier'
        self.competitor = f'{self.namespace}/contention'
        self._port = DEFAULT_PORT
        usable = os.sched_getaffinity(0)
        # Interrupts and the desktop tend to live on the first: take the last.
        self._cpus = {max(usable)} if len(usable) > 1 else usable
        self.other_cpus = usable - self._cpus or usable
        self._all_cpus = usable
        self._environment = {**os.environ, 'PYTHONUNBUFFERED': '1'}

    def start_router(self, *, on_any_port: bool = False) -> None:
        """Start a router on the usual port if that is free, else on any."""
        try:
            check_port_is_free('127.0.0.1', self._port)
        except TransportError:
            on_any_port = True
        if on_any_port:
            self._port = free_port()
        command = [sys.executable, '-m', 'dynamic_ofa_ros.cli.main', 'router']
        command += ['--port', str(self._port)]
        self._supervisor.start('router', command, self._environment, self.other_cpus)

    def router_is_ready(self) -> bool:
        """Tell whether our router says so.

        That something answers at the port proves nothing: another demo may just have taken it.
        """
        return any(ROUTER_READY in line for line in tail(self._supervisor.log_path('router')))

    def join(self) -> None:
        """Lead this process and the parts still to be started to the router."""
        if self.needs_router:
            os.environ[ROUTER_VARIABLE] = self._endpoint
            self._environment[ROUTER_VARIABLE] = self._endpoint

    def start_classifier(self) -> None:
        """Start the node that is shown, on one CPU: the one that will be contended for."""
        self._start_node('classifier', 'classifier_node', {'family': self._family}, self._cpus)

    def start_model(self, name: str) -> None:
        """Start one of several classifiers that see the same camera and choose together."""
        self._start_node(
            name,
            'classifier_node',
            {'family': self._family, 'manager.coordination': 'collective'},
            self._cpus,
            namespace=self.namespace_of(name),
            remappings={'image_raw': f'{self.namespace}/image_raw'},
        )

    def namespace_of(self, name: str) -> str:
        """Return the namespace of one of several classifiers."""
        return f'{self.namespace}/{name}'

    def start_camera(self) -> None:
        """Start the camera: rendered signs at 640x480."""
        parameters: dict[str, str | float] = {
            'source': 'signs',
            'rate_hz': self._rate_hz,
            'scene_period_s': SCENE_PERIOD_S,
        }
        self._start_node('camera', 'camera_node', parameters, self.other_cpus)

    def start_competitor(self) -> None:
        """Start the competitor without a workload; a parameter gives it one."""
        parameters: dict[str, str | float] = {
            'workload': 'none',
            'workers': WORKERS,
            # Quoted: a lone number would be an integer, and the parameter is a string.
            'cpus': f'"{",".join(map(str, sorted(self._cpus)))}"',
        }
        # The node may use all: it is its workers that are kept on one.
        self._start_node('competitor', 'contention_node', parameters, self._all_cpus)

    def set_command(self, node: str, parameter: str, value: float) -> str:
        """Return the command line that sets a parameter."""
        return f'{self._ros} param set {node} {parameter} {value}'

    def set_limit_command(self, limit_ms: float) -> str:
        """Return the command line that sets the latency limit."""
        return self.set_command(self.classifier, 'constraints.max_latency_ms', limit_ms)

    def competitor_command(self, workload: str) -> str:
        """Return the command line that gives the competitor a workload."""
        return f'{self._ros} param set {self.competitor} workload {workload}'

    def lift_limit_command(self) -> str:
        """Return the command line that removes the limit by topic."""
        return (
            f'{self._ros} topic pub --once {self.classifier}/constraints '
            "dynamic_ofa_ros/msg/Constraints '{max_latency_ms: 0.0, min_accuracy: .nan}'"
        )

    @property
    def _endpoint(self) -> str:
        return f'tcp/127.0.0.1:{self._port}'

    @property
    def _ros(self) -> str:
        if not self.needs_router:
            return 'ros2'
        if self._port == DEFAULT_PORT:
            return 'dynamic-ofa ros'
        return f'{ROUTER_VARIABLE}=127.0.0.1:{self._port} dynamic-ofa ros'

    def _start_node(
        self,
        part: str,
        module: str,
        parameters: Mapping[str, str | float],
        cpus: Collection[int],
        namespace: str | None = None,
        remappings: Mapping[str, str] | None = None,
    ) -> None:
        command = [sys.executable, '-m', f'dynamic_ofa_ros.nodes.{module}', '--ros-args']
        if namespace or self.namespace:
            command += ['-r', f'__ns:={namespace or self.namespace}']
        for name, target in (remappings or {}).items():
            command += ['-r', f'{name}:={target}']
        for name, value in parameters.items():
            command += ['-p', f'{name}:={value}']
        self._supervisor.start(part, command, self._environment, cpus)
