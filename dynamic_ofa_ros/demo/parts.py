"""The demo's parts: which process is started how, and how a user would steer it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Mapping

from dynamic_ofa_ros.demo.processes import Supervisor
from dynamic_ofa_ros.demo.running import DemoOptions

WORKERS = 2
"""Competing processes on the classifier's CPU.

Measured on two virtual cores with the demo's family: one or two make inference about three times
as slow; from three on, images no longer reach the classifier at their rate.
"""

SCOPE = 'inference'
"""What the limits of the demo are about: the levels' own latencies are what it compares."""

CAMERA_WIDTH = 640

SCENE_PERIOD_S = 0.3
"""A scene this long: enough of them in each phase to measure an accuracy."""


class Parts:
    """Classifier, camera and competitor, in a domain of this demo's own.

    Classifier and competitor share one CPU; everything else is kept off it, so that nothing but
    the competitor contends.
    """

    workload = 'busy'

    def __init__(self, supervisor: Supervisor, options: DemoOptions, domain_id: int) -> None:
        self._supervisor = supervisor
        self._options = options
        self._domain_id = domain_id
        self.classifier = '/classifier'
        self.competitor = '/contention'
        usable = os.sched_getaffinity(0)
        # Interrupts and the desktop tend to live on the first: take the last.
        self._cpus = {max(usable)} if len(usable) > 1 else usable
        self.other_cpus = usable - self._cpus or usable
        self._all_cpus = usable
        self._environment = {**os.environ, 'PYTHONUNBUFFERED': '1'}

    def start_classifier(self) -> None:
        """Start the node that is shown, on one CPU: the one that will be contended for."""
        parameters = {'family': self._options.family, 'constraints.latency_scope': SCOPE}
        self._start_node('classifier', 'classifier_node', parameters, self._cpus)

    def start_model(self, name: str) -> None:
        """Start one of several classifiers that see the same camera and choose together."""
        self._start_node(
            name,
            'classifier_node',
            {
                'family': self._options.family,
                'constraints.latency_scope': SCOPE,
                'manager.coordination': 'collective',
            },
            self._cpus,
            namespace=self.namespace_of(name),
            remappings={'image_raw': '/image_raw'},
        )

    def namespace_of(self, name: str) -> str:
        """Return the namespace of one of several classifiers."""
        return f'/{name}'

    def start_camera(self) -> None:
        """Start the camera: rendered signs at 640x480, or images of a folder as wide."""
        parameters: dict[str, str | float] = {
            'source': 'signs',
            'rate_hz': self._options.rate_hz,
            'scene_period_s': SCENE_PERIOD_S,
        }
        if self._options.source:
            path = f'"{self._options.source}"'  # quoted: a name may look like a number
            parameters |= {'source': 'folder', 'path': path, 'width': CAMERA_WIDTH}
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
            "dynamic_ofa_ros/msg/Constraints '{max_latency_ms: -1.0}'"
        )

    @property
    def _ros(self) -> str:
        command = 'ros2' if shutil.which('ros2') else 'dynamic-ofa ros'
        return f'ROS_DOMAIN_ID={self._domain_id} {command}'

    def _start_node(
        self,
        part: str,
        module: str,
        parameters: Mapping[str, str | float],
        cpus: Collection[int],
        namespace: str = '',
        remappings: Mapping[str, str] | None = None,
    ) -> None:
        command = [sys.executable, '-m', f'dynamic_ofa_ros.nodes.{module}', '--ros-args']
        if namespace:
            command += ['-r', f'__ns:={namespace}']
        for name, target in (remappings or {}).items():
            command += ['-r', f'{name}:={target}']
        for name, value in parameters.items():
            command += ['-p', f'{name}:={value}']
        self._supervisor.start(part, command, self._environment, cpus)
