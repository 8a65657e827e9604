"""Run camera, classifier and competitors as processes for `benchmarks.contention`.

Classifier and competitors share one CPU, which camera and this process do not use.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.adapting import Load
from dynamic_ofa_ros.demo.domain import own_domain
from dynamic_ofa_ros.demo.link import Link
from dynamic_ofa_ros.demo.processes import (
    COMPETITOR,
    LOAD_SCRIPT,
    PartError,
    Supervisor,
    indented_tail,
)
from dynamic_ofa_ros.demo.recording import ANSWER_WITHIN_S, Recorder

START_TIMEOUT_S = 300.0
TRANSITIONS = ('deactivate', 'cleanup', 'configure', 'activate')
TICK_S = 0.25
SETTLE_S = 0.5
"""Time after a change of the policy before images are counted."""

IDLE_S, IDLE_PERCENT = 1.0, 20.0
"""A competitor has started when it uses at most this share of a CPU for this time."""

CAMERA_WIDTH = 640
HIGHEST_RATE_HZ, RATE_SHARE = 20.0, 0.35
"""Maximum rate of the camera, and maximum share of time for the highest level without load.

The rate is limited because the scenes are rendered on the processor of camera and benchmark.
"""

SECOND = '/second'


@dataclass(frozen=True)
class Source:
    """The images of the camera: photographs in class folders, or rendered signs if folder is ''.

    labels: the family's labels of the camera's classes. is_truth_known: whether the family has
    these classes.
    """

    labels: tuple[str, ...]
    folder: str = ''
    is_truth_known: bool = True


@dataclass(frozen=True)
class LoadKind:
    """A kind of load. device: the device of the classifier with this load."""

    words: str
    workload: str
    count: int = 1
    device: str = 'cpu'


LOADS: Mapping[str, LoadKind] = {
    'busy-2': LoadKind('2 busy processes', 'busy', 2),
    'training': LoadKind('a training job', 'training'),
    'busy-1': LoadKind('1 busy process', 'busy', 1),
    'memory': LoadKind('memory bandwidth', 'memory'),
    'classifier': LoadKind('a second classifier', 'classifier'),
    'busy-4': LoadKind('4 busy processes', 'busy', 4),
    'gpu': LoadKind('a training job on the GPU', 'gpu', device='cuda'),
}
"""In the order of measurement, the most informative first, because the time is limited."""


class Site:
    """A classifier and its camera, as a context manager; a recorder stores the results."""

    def __init__(self, family: str, source: Source, device: str, folder: Path) -> None:
        self._family, self._source, self._device = family, source, device
        self._folder = folder
        usable = os.sched_getaffinity(0)
        self._cpus = {max(usable)}  # the first CPU often handles interrupts
        self._other_cpus = usable - self._cpus or usable
        self._competitors: Supervisor | None = None
        self.recorder = Recorder(source.labels)

    def __enter__(self) -> Site:
        with contextlib.ExitStack() as stack:
            stack.enter_context(own_domain())
            stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
            os.sched_setaffinity(0, self._other_cpus)
            self._supervisor = stack.enter_context(Supervisor(self._folder))
            self._start_classifier(self._supervisor, 'classifier', 'benchmarks.policy_node', {})
            self._link = LifecycleLink(self.recorder)
            stack.callback(self._link.close)
            self._wait('classifier', lambda: bool(self.recorder.table) and self._link.is_ready)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def levels(self) -> list[dict[str, Any]]:
        """Return the levels as published by the node."""
        return [
            {
                'level': level.index,
                'accuracy': round(level.accuracy, 5),
                'latency_ms': round(level.latency_ms, 3),
            }
            for level in self.recorder.table.levels
        ]

    @property
    def platform(self) -> str:
        """Return the platform of the classifier."""
        return str(self.recorder.table.platform)

    @property
    def rate_hz(self) -> float:
        """Return a rate of images that is suitable for the highest level."""
        fitting_hz = 1e3 * RATE_SHARE / self.recorder.table.levels[-1].latency_ms
        return float(max(1, math.floor(min(HIGHEST_RATE_HZ, fitting_hz))))

    def start_camera(self, rate_hz: float) -> None:
        """Start the camera with a new scene in every image; wait for the first result."""
        parameters = {'source': 'signs', 'rate_hz': rate_hz, 'scene_period_s': 0.0}
        if self._source.folder:
            path = f'"{self._source.folder}"'  # quoted because a name may look like a number
            parameters |= {'source': 'folder', 'path': path, 'width': CAMERA_WIDTH}
        command = node_command('dynamic_ofa_ros.nodes.camera_node', parameters)
        self._supervisor.start('camera', command, self._other_cpus, is_apart=True)
        self._wait('camera', lambda: self.recorder.is_receiving)

    @contextlib.contextmanager
    def load(self, kind: LoadKind) -> Iterator[Load]:
        """Start idle competitors."""
        with Supervisor(self._folder) as competitors:
            self._competitors = competitors
            try:
                if kind.workload == 'classifier':
                    with self._second_classifier(competitors) as load:
                        yield load
                    return
                command = [sys.executable, str(LOAD_SCRIPT), kind.workload, '--duty-cycle=0']
                if kind.workload == 'gpu':
                    command = [sys.executable, '-m', 'benchmarks.gpu_load', 'training']
                for number in range(kind.count):
                    cpus = self._other_cpus if kind.workload == 'gpu' else self._cpus
                    competitors.start(f'{COMPETITOR}{number}', command, cpus)
                self._wait_until_idle(kind.count)
                yield Competitors(competitors, kind.count)
            finally:
                self._competitors = None

    def play(
        self, parameters: Mapping[str, float | str], load: Load, seconds: float
    ) -> dict[str, Any]:
        """Run a segment with the load in the second and third quarter; return the record.

        The classifier is configured again with these parameters, so the manager has no history.
        `frames`: time, latency in ms (null without a result), level, and whether it was correct.
        """
        self._link.set_parameters(parameters)
        self._link.renew()
        self.recorder.forget()
        self._wait('classifier', lambda: self.recorder.is_receiving)
        self._spin_for(SETTLE_S)
        self.recorder.forget()
        others = OthersShare()
        begin_ns = time.time_ns()
        self._spin_until(begin_ns, 0.25 * seconds)
        load.work(1.0)
        onset_ms = (time.time_ns() - begin_ns) / 1e6
        self._spin_until(begin_ns, 0.75 * seconds)
        load.work(0.0)
        relief_ms = (time.time_ns() - begin_ns) / 1e6
        self._spin_until(begin_ns, seconds)
        return {
            'onset_ms': round(onset_ms, 1),
            'relief_ms': round(relief_ms, 1),
            'end_ms': 1e3 * seconds,
            'others': round(others.share(), 3),
            'frames': self._frames(begin_ns, seconds),
        }

    def trial_ms(self, level: int, seconds: float) -> list[float]:
        """Return the latencies of a level under the current load; infinite without a result."""
        self._link.set_parameters({'manager.policy': 'fixed', 'manager.fixed_level': level})
        self._spin_for(SETTLE_S)
        self.recorder.forget()
        begin_ns = time.time_ns()
        self._spin_for(seconds)
        rows = self._frames(begin_ns, seconds)
        return [math.inf if row[1] is None else row[1] for row in rows] or [math.inf]

    def _frames(self, begin_ns: int, seconds: float) -> list[list[Any]]:
        end_ns = begin_ns + round(1e9 * seconds)
        self._spin_for(ANSWER_WITHIN_S)  # wait for the results of the last images
        return [
            [
                round(1e3 * frame.time_s, 1),
                round(frame.latency_ms, 3) if frame.is_answered else None,
                frame.level,
                int(frame.is_right),
            ]
            for frame in self.recorder.frames('', begin_ns, end_ns, begin_ns)
        ]

    @contextlib.contextmanager
    def _second_classifier(self, competitors: Supervisor) -> Iterator[Load]:
        """Start a second classifier for the same images at the highest level."""
        given = {'manager.policy': 'fixed', 'enabled': 'false'}
        others = ['-r', f'__ns:={SECOND}', '-r', 'image_raw:=/image_raw']
        module = 'dynamic_ofa_ros.nodes.classifier_node'
        self._start_classifier(competitors, 'second', module, given, others)
        recorder = Recorder(self._source.labels)
        with contextlib.closing(Link(recorder, SECOND)) as link:

            def is_ready() -> bool:
                link.spin_for(TICK_S)
                return bool(recorder.table) and link.is_ready

            self._wait('second', is_ready)
            yield SecondClassifier(link)

    def _start_classifier(
        self,
        supervisor: Supervisor,
        name: str,
        module: str,
        parameters: Mapping[str, Any],
        others: list[str] | None = None,
    ) -> None:
        given = {
            'family': self._family,
            'device': self._device,
            'constraints.latency_scope': 'node',
            **parameters,
        }
        supervisor.start(name, node_command(module, given, others or []), self._cpus)

    def _spin_until(self, begin_ns: int, seconds: float) -> None:
        self._spin_for(seconds - (time.time_ns() - begin_ns) / 1e9)

    def _spin_for(self, seconds: float) -> None:
        """Process messages; raise PartError if a process has died."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0.0:
            self._link.spin_for(min(left_s, TICK_S))
            self._supervisor.check()
            if self._competitors is not None:
                self._competitors.check()

    def _wait(self, name: str, is_ready: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not is_ready():
            self._spin_for(TICK_S)
            if time.monotonic() > deadline_s:
                log = self._supervisor.log_path(name)
                raise PartError(
                    f'{name} was not ready within {START_TIMEOUT_S:g} s; its log ({log}) ends:\n'
                    f'{indented_tail(log)}'
                )

    def _wait_until_idle(self, count: int) -> None:
        """Wait until the competitors have started and are idle."""
        parts = [
            child
            for child in psutil.Process().children()
            if any(word in ('--duty-cycle=0', 'benchmarks.gpu_load') for word in child.cmdline())
        ]
        assert len(parts) == count
        for part in parts:
            part.cpu_percent()

        def is_idle() -> bool:
            self._spin_for(IDLE_S)
            return all(part.cpu_percent() < IDLE_PERCENT for part in parts)

        self._wait(f'{COMPETITOR}0', is_idle)


class LifecycleLink(Link):
    """A link that can configure its classifier again."""

    def __init__(self, recorder: Recorder) -> None:
        from lifecycle_msgs.srv import ChangeState

        super().__init__(recorder)
        self._transitions = self._node.create_client(ChangeState, 'classifier/change_state')

    def renew(self) -> None:
        """Build engines and manager again, without any history."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        for label in TRANSITIONS:
            number = getattr(Transition, f'TRANSITION_{label.upper()}')
            request = ChangeState.Request(transition=Transition(id=number, label=label))
            future = self._transitions.call_async(request)
            self._executor.spin_until_future_complete(future, timeout_sec=START_TIMEOUT_S)
            if not future.done() or not future.result().success:
                raise PartError(f'the classifier cannot {label}; see its log')


class Competitors:
    """Load processes, such as those of nodes/load.py."""

    def __init__(self, supervisor: Supervisor, count: int) -> None:
        self._supervisor, self._count = supervisor, count

    def work(self, share: float) -> None:
        """Switch all competitors on or off."""
        self._supervisor.set_busy(self._count if share else 0)


class SecondClassifier:
    """A classifier that can be enabled and disabled."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def work(self, share: float) -> None:
        """Enable or disable the classifier."""
        self._link.set_parameters({'enabled': bool(share)})


class OthersShare:
    """The share of this machine used by processes other than the benchmark's."""

    def __init__(self) -> None:
        self._before_s, self._start_s = _others_s(), time.monotonic()

    def share(self) -> float:
        """Return the share since the start."""
        elapsed_s = (time.monotonic() - self._start_s) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, (_others_s() - self._before_s) / elapsed_s))


def _others_s() -> float:
    """Return the CPU seconds used by other processes since boot."""
    times = psutil.cpu_times()
    own = psutil.Process()
    own_s = 0.0
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            own_s += used.user + used.system
    return float(times.user + times.nice + times.system - own_s)


def node_command(
    module: str, parameters: Mapping[str, Any], others: list[str] | None = None
) -> list[str]:
    """Return the command line of a node."""
    given = [word for item in parameters.items() for word in ('-p', '{}:={}'.format(*item))]
    return [sys.executable, '-m', module, '--ros-args', *(others or []), *given]
