"""contention_node produces load on a device; its parameters control the load.

Each worker is a separate process (load.py), so the node itself stays responsive. The workers end
with the node, even if it is killed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from dynamic_ofa_ros.nodes import conversions, parameters, qos
from dynamic_ofa_ros.nodes.diagnostics import Severity, Status
from dynamic_ofa_ros.nodes.parameter_table import NodeParameters, ParameterError
from dynamic_ofa_ros.nodes.runner import run

LOAD_SCRIPT = Path(__file__).with_name('load.py')
DIAGNOSTICS_PERIOD_S = 1.0
STOP_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class ContentionSettings:
    """The node's parameters, all live. cpus: CPU numbers; empty means all CPUs."""

    workload: str
    workers: int
    duty_cycle: float
    device: str
    cpus: tuple[int, ...]

    def needs_other_workers_than(self, other: ContentionSettings) -> bool:
        """Return whether workers must be restarted; a new duty cycle alone does not require it."""
        return (self.workload, self.workers, self.device, self.cpus) != (
            other.workload,
            other.workers,
            other.device,
            other.cpus,
        )


def parse_cpus(text: str) -> tuple[int, ...]:
    """Return the CPU numbers of a list such as '0,2-3'; raise ParameterError."""
    cpus: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(','))):
        match = re.fullmatch(r'(\d{1,5})(?:-(\d{1,5}))?', part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ParameterError(f'cpus is {text!r}; it must be a list such as 0,2-3')
        cpus.update(range(first, last + 1))
    allowed = _usable_cpus()
    if not cpus <= allowed:
        raise ParameterError(
            f'cpus is {text!r}; this process can only use {", ".join(map(str, sorted(allowed)))}'
        )
    return tuple(sorted(cpus))


def _usable_cpus() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else set()


def contention_settings(values: Mapping[str, Any]) -> ContentionSettings:
    """Create a snapshot of all values; raise ParameterError for unavailable CPUs."""
    return ContentionSettings(
        workload=values['workload'],
        workers=values['workers'],
        duty_cycle=values['duty_cycle'],
        device=values['device'],
        cpus=parse_cpus(values['cpus']),
    )


class Workers:
    """The running load processes."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Ids of the processes that are running."""
        return tuple(p.pid for p in self._processes if p.poll() is None)

    def apply(self, settings: ContentionSettings) -> None:
        """Stop all workers and start those of the settings."""
        self.stop()
        if settings.workload == 'none':
            return
        command = [
            sys.executable,
            str(LOAD_SCRIPT),
            settings.workload,
            f'--device={settings.device}',
            f'--duty-cycle={settings.duty_cycle}',
            f'--cpus={",".join(map(str, settings.cpus))}',
        ]
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}
        for _ in range(settings.workers):
            self._processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )

    def set_duty_cycle(self, duty_cycle: float) -> None:
        """Set the fraction of the time that all workers are busy."""
        for process in self._processes:
            with contextlib.suppress(OSError):  # ended: see `take_failures`
                stdin = _pipe(process.stdin)
                stdin.write(json.dumps({'duty_cycle': duty_cycle}) + '\n')
                stdin.flush()

    def take_failures(self) -> list[str]:
        """Return an error message for each worker that failed since the last call."""
        ended = [process for process in self._processes if process.poll() is not None]
        self._processes = [process for process in self._processes if process not in ended]
        reasons = []
        for process in ended:
            lines = _pipe(process.stderr).read().strip().splitlines()
            reasons.append(lines[-1] if lines else f'exit status {process.returncode}')
            _close_pipes(process)
        return reasons

    def stop(self) -> None:
        """End all workers and wait for them."""
        for process in self._processes:
            with contextlib.suppress(OSError):
                _pipe(process.stdin).close()
        for process in self._processes:
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:  # for example, while it imports torch
                process.kill()
                process.wait()
            _close_pipes(process)
        self._processes = []


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError('the process was started without this pipe')
    return stream


def _close_pipes(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stderr):
        with contextlib.suppress(OSError):
            _pipe(stream).close()


class ContentionNode(Node):  # type: ignore[misc]  # rclpy is untyped
    """Starts, controls and stops load processes."""

    def __init__(self, node_name: str = 'contention', **options: Any) -> None:
        super().__init__(node_name, **options)
        self._workers = Workers()
        self._failure = ''
        self._settings = NodeParameters(self, contention_settings, self._on_settings)
        self._settings.declare(parameters.CONTENTION)
        self._settings.activate()
        self._diagnostics_pub = self.create_publisher(
            DiagnosticArray, '/diagnostics', qos.DIAGNOSTICS
        )
        self.create_timer(
            DIAGNOSTICS_PERIOD_S,
            self._on_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    def start(self) -> None:
        """Start the workers."""
        settings = self._settings.snapshot
        self._workers.apply(settings)
        self._log(settings)

    def close(self) -> None:
        """End all workers."""
        self._workers.stop()

    def _on_settings(self, before: ContentionSettings, after: ContentionSettings) -> None:
        self._failure = ''
        if after.needs_other_workers_than(before):
            self._workers.apply(after)
        else:
            self._workers.set_duty_cycle(after.duty_cycle)
        self._log(after)

    def _log(self, settings: ContentionSettings) -> None:
        cpus = f' {",".join(map(str, settings.cpus))}' if settings.cpus else ''
        self.get_logger().info(
            'no load'
            if settings.workload == 'none'
            else f'{settings.workers} x {settings.workload} on {settings.device}{cpus}, '
            f'{settings.duty_cycle:.0%} of the time'
        )

    def _on_diagnostics(self) -> None:
        for reason in self._workers.take_failures():
            self._failure = reason
            self.get_logger().error(f'a load process has failed: {reason}')
        settings = self._settings.snapshot
        values = {
            'workers': len(self._workers.process_ids),
            'duty_cycle': settings.duty_cycle if settings.workload != 'none' else math.nan,
        }
        severity = Severity.ERROR if self._failure else Severity.OK
        status = Status('Load', severity, self._failure or settings.workload, values)
        self._diagnostics_pub.publish(
            conversions.diagnostic_array(
                conversions.stamped_header(self.get_clock()),
                self.get_fully_qualified_name().strip('/'),
                settings.device,
                [status],
            )
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node; return the exit status."""
    return run('contention', ContentionNode, args)


if __name__ == '__main__':
    sys.exit(main())
