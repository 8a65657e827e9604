"""Nodes as processes, and a node of the test's own to talk to them, with deadlines."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
from programs import DEADLINE_S, Program, ignore_sigint
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from dynamic_ofa_ros.demo.domain import own_domain

ROOT = Path(__file__).resolve().parent.parent
RESEND_S = 3.0


@dataclass
class Topic:
    """What came on a topic so far."""

    messages: list[Any] = field(default_factory=list)

    @property
    def last(self) -> Any:
        return self.messages[-1] if self.messages else None


class Ros:
    """A private domain: starts node processes and talks to them through a node of its own."""

    def __init__(self, folder: Path, domain_id: int) -> None:
        self.folder = folder
        self.processes: list[Program] = []
        self.environment = {
            **os.environ,
            'PYTHONPATH': os.pathsep.join(
                filter(None, (str(ROOT), os.environ.get('PYTHONPATH', '')))
            ),
            'OMP_NUM_THREADS': '1',
        }
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain_id)
        self._nodes: list[Node] = []
        self.node = self.create_node('tester')
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)

    def create_node(self, name: str, **options: Any) -> Node:
        """Create a node that is destroyed at the end, so that it is gone from the graph."""
        self._nodes.append(rclpy.create_node(name, context=self.context, **options))
        return self._nodes[-1]

    def start(
        self,
        module: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        arguments: Sequence[str] = (),
        is_in_background: bool = False,
    ) -> Program:
        """Start a node of the package as a process; one in the background inherits no SIGINT."""
        command = [sys.executable, '-m', f'dynamic_ofa_ros.nodes.{module}', '--ros-args']
        for name, value in (parameters or {}).items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ['-p', f'{name}:={text}']
        return self._start(module, [*command, *arguments], is_in_background)

    def start_classifier(self, family: Path, namespace: str = '', **parameters: Any) -> Program:
        """Start a classifier on the CPU with ONNX Runtime, in a namespace without slashes."""
        return self.start(
            'classifier_node',
            {'family': family, 'engine': 'onnxruntime', 'device': 'cpu', **parameters},
            arguments=('-r', f'__ns:=/{namespace}'),
        )

    def record(self, folder: Path) -> Program:
        """Start to record all topics into a bag, by rosbag2 where there is one; stop it to end."""
        ours = [sys.executable, '-m', 'dynamic_ofa_ros.cli.main', 'ros']
        command = ['ros2'] if importlib.util.find_spec('ros2bag') else ours
        return self._start('recorder', [*command, 'bag', 'record', '-a', '-o', str(folder)])

    def start_module(self, module: str, *arguments: object) -> Program:
        """Start another module as a process."""
        command = [sys.executable, '-m', module, *map(str, arguments)]
        return self._start(module.rpartition('.')[2], command)

    def _start(self, name: str, command: Sequence[str], is_in_background: bool = False) -> Program:
        program = Program.start(
            command,
            self.folder / f'{name}_{len(self.processes)}.log',
            name,
            env=self.environment,
            cwd=self.folder,
            preexec_fn=ignore_sigint if is_in_background else None,
        )
        self.processes.append(program)
        return program

    def listen(self, kind: Any, name: str, qos: Any = 10) -> Topic:
        """Collect what comes on a topic from now on."""
        topic = Topic()
        self.node.create_subscription(kind, name, topic.messages.append, qos)
        return topic

    def spin_once(self, timeout_s: float = 0.01) -> None:
        """Take what has come."""
        self._executor.spin_once(timeout_sec=timeout_s)

    def wait_until(
        self,
        condition: Callable[[], Any],
        what: str,
        timeout_s: float = DEADLINE_S,
        meanwhile: Callable[[], Any] | None = None,
    ) -> Any:
        """Spin until the condition holds and return it; fail with `what` at the deadline."""
        deadline_s = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline_s:
                raise AssertionError(f'{what}: not within {timeout_s:g} s\n{self._outputs()}')
            if meanwhile is not None:
                meanwhile()
            self.spin_once()
        return value

    def call(self, kind: Any, name: str, request: Any, timeout_s: float = 20.0) -> Any:
        """Call a service that may be called twice, and return the response.

        A server that has not discovered the client yet cannot answer (the middleware warns of
        it): the request is then sent again.
        """
        client = self.node.create_client(kind, name)
        try:
            self.wait_until(client.service_is_ready, f'service {name}', timeout_s)
            futures = []

            def send() -> None:
                if not futures or time.monotonic() > sent_s + RESEND_S * len(futures):
                    futures.append(client.call_async(request))

            sent_s = time.monotonic()
            answered = self.wait_until(
                lambda: [future for future in futures if future.done()],
                f'response of {name}',
                timeout_s,
                meanwhile=send,
            )
            return answered[0].result()
        finally:
            self.node.destroy_client(client)

    def set_parameter(self, node: str, name: str, value: Any) -> Any:
        """Set a parameter as `ros2 param set` does; return the SetParametersResult."""
        message = ParameterMessage(
            name=name, value=Parameter(name, value=value).get_parameter_value()
        )
        request = SetParameters.Request(parameters=[message])
        return self.call(SetParameters, f'{node}/set_parameters', request).results[0]

    def get_parameter(self, node: str, name: str) -> Any:
        """Return the value of a parameter."""
        request = GetParameters.Request(names=[name])
        value = self.call(GetParameters, f'{node}/get_parameters', request).values[0]
        message = ParameterMessage(name=name, value=value)
        return Parameter.from_parameter_msg(message).value

    def _outputs(self) -> str:
        return '\n'.join(
            f'--- {node.name} ({"running" if node.is_running else node.process.returncode})\n'
            + '\n'.join(node.output().splitlines()[-20:])
            for node in self.processes
        )

    def close(self) -> None:
        """End all processes and the test's own node."""
        for node in self.processes:
            if node.is_running:
                node.process.send_signal(signal.SIGINT)
        for node in self.processes:
            with contextlib.suppress(AssertionError):
                node.wait(5.0)
        self._executor.shutdown()
        for node in self._nodes:
            node.destroy_node()
        self.context.try_shutdown()


@contextlib.contextmanager
def ros(folder: Path) -> Iterator[Ros]:
    """Yield a private domain."""
    with own_domain() as domain_id, contextlib.closing(Ros(folder, domain_id)) as session:
        yield session
