"""The demo: start the processes, calibrate, run the same load three times, compare."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import signal
import sys
import time
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console

from dynamic_ofa_ros import __version__
from dynamic_ofa_ros.demo.calibration import (
    GOOD_MARGIN,
    WORKERS,
    Calibration,
    Trial,
    choose,
    margin,
    middle_levels,
    processes,
)
from dynamic_ofa_ros.demo.comparison import (
    HIGHEST,
    LOWEST,
    SWITCHING,
    note_without_gain,
    sentence,
    write_summary,
)
from dynamic_ofa_ros.demo.domain import own_domain
from dynamic_ofa_ros.demo.link import Link
from dynamic_ofa_ros.demo.processes import PartError, Supervisor, indented_tail
from dynamic_ofa_ros.demo.recording import ANSWER_WITHIN_S, Recorder
from dynamic_ofa_ros.demo.view import Scene, View
from dynamic_ofa_ros.recordings.frames import write_frames
from dynamic_ofa_ros.recordings.measures import Run, measure

POLICIES: Mapping[str, Mapping[str, float | str]] = {
    HIGHEST: {'manager.policy': 'fixed', 'manager.fixed_level': 0},
    LOWEST: {'manager.policy': 'fixed', 'manager.fixed_level': 1},
    SWITCHING: {'manager.policy': 'predictive'},
}
"""Titles of the three runs, and the parameters of the classifier in each."""

LOAD_SHARE = (0.3, 0.7)
"""Begin and end of the load, as shares of a run."""

OVERHEAD_S = 12.0
"""Time for the calibration and for settling before the runs."""

SETTLE_S = 2.0
"""Time before each run, to switch the level and receive the last answers of the previous run."""

TRIAL_FRAMES, TRIAL_S = 24, 2.0
"""Number of images of a calibration measurement, and its maximum duration."""

TICK_S = 0.25
"""Time between two redraws; more frequent ones would compete with the classifier."""

CAMERA_WIDTH = 640
PAGE_URL = re.compile(r'http://\S+')
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FRAMES_FILE, SUMMARY_FILE, PICTURE_FILE = 'frames.csv', 'summary.json', 'comparison.png'


@dataclass(frozen=True)
class DemoOptions:
    """Options of the demo.

    source: folder of photographs in class folders; empty for rendered signs. labels: the family's
    label of each class of the camera.
    """

    family: str
    seconds: float
    rate_hz: float
    has_plots: bool
    has_monitor: bool
    prepare_timeout_s: float
    labels: Sequence[str]
    source: str = ''


@dataclass(frozen=True)
class DemoResult:
    """Exit status, reason of an early end (or empty), files, runs, and sentences to print."""

    exit_status: int
    message: str
    files: Sequence[Path] = ()
    runs: Sequence[Run] = ()
    words: Sequence[str] = ()


class Session:
    """Base class of the demos: assigns processes to CPUs, waits for them, draws and ends them.

    The classifier and its competitors share one CPU; everything else uses the other CPUs.
    """

    def __init__(self, options: DemoOptions, output: Path, console: Console) -> None:
        self.options = options
        self.output = output
        self.busy_before = psutil.cpu_percent(interval=0.5) / 100.0
        self.links: list[Link] = []
        self.recorders: list[Recorder] = []
        self.stage = ''
        self.monitor_url = ''
        self._received: list[int] = []
        self._view = View(console)
        usable = os.sched_getaffinity(0)
        # Interrupts and the desktop often use the first CPU, so take the last one.
        self.cpus = {max(usable)}
        self._other_cpus = usable - self.cpus or usable

    def play(self) -> None:
        """Start the processes and run the demo."""
        raise NotImplementedError

    def finish(self, status: int, message: str) -> DemoResult:
        """Write the results; `message` is the reason of an early end, or empty."""
        raise NotImplementedError

    def scene(self) -> Scene:
        """Return what to draw now."""
        raise NotImplementedError

    def run(self) -> DemoResult:
        """Run the demo and end all its processes.

        SIGINT, SIGTERM and SIGHUP end the demo. Their handlers only record the signal, so that
        nothing interrupts the clean-up. After a signal or the death of a process, the results
        recorded so far are still written.
        """
        status, message = 0, ''
        with contextlib.ExitStack() as self._stack:
            for number in ENDING_SIGNALS:
                before = signal.signal(number, lambda number, _: self._received.append(number))
                self._stack.callback(signal.signal, number, before)
            self.domain_id = self._stack.enter_context(own_domain())
            self._stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
            os.sched_setaffinity(0, self._other_cpus)
            try:
                with self._view, Supervisor(self.output) as self.supervisor:
                    self.start_monitor()
                    self.play()
            except PartError as error:
                status, message = error.status, str(error)
            return self.finish(status, message)

    def start_monitor(self) -> None:
        """Start the web page on the other CPUs; open it in a browser if there is a display."""
        if not self.options.has_monitor or self._other_cpus & self.cpus:
            return
        self._start_node('monitor', 'monitor_node', {'port': 0}, self._other_cpus)
        log = self.supervisor.log_path('monitor')
        self._wait('monitor', 'monitor', lambda: bool(PAGE_URL.search(log.read_text())))
        found = PAGE_URL.search(log.read_text())
        assert found is not None
        self.monitor_url = found[0]
        self.stage = f'web page: {self.monitor_url}'
        self._view.show(self.scene())
        if any(os.environ.get(name) for name in ('DISPLAY', 'WAYLAND_DISPLAY')):
            webbrowser.open(self.monitor_url)

    def start_classifier(
        self, name: str, parameters: Mapping[str, object], namespace: str = ''
    ) -> None:
        """Start a classifier and wait until it is ready, because it may be measuring latencies."""
        others = ['-r', f'__ns:={namespace}', '-r', 'image_raw:=/image_raw'] if namespace else []
        given = {'family': self.options.family, **parameters}
        self._start_node(name, 'classifier_node', given, self.cpus, others)
        recorder = Recorder(self.options.labels)
        link = Link(recorder, namespace)
        self.recorders.append(recorder)
        self.links.append(link)
        self._stack.callback(link.close)
        self._wait(name, name, lambda: recorder.level_count > 0 and link.is_ready)

    def start_camera(self) -> None:
        """Start the camera, with a new scene in every image; wait until all classifiers answer."""
        parameters = {'source': 'signs', 'rate_hz': self.options.rate_hz, 'scene_period_s': 0.0}
        if self.options.source:
            path = f'"{self.options.source}"'  # quoted, as YAML could read a number
            parameters |= {'source': 'folder', 'path': path, 'width': CAMERA_WIDTH}
        self._start_node('camera', 'camera_node', parameters, self._other_cpus, is_apart=True)
        self._wait('camera', 'camera', lambda: all(r.is_receiving for r in self.recorders))

    def spin_for(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Receive messages and redraw for some time, or until a condition holds.

        Raises PartError after a signal or the death of a process.
        """
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0.0 and not until():
            for link in self.links:
                link.spin_for(min(left_s, TICK_S) / len(self.links))
            if self._received:
                number = self._received[0]
                raise PartError(f'ended early by {signal.Signals(number).name}', 128 + number)
            self.supervisor.check()
            self._view.show(self.scene())

    @property
    def address(self) -> str:
        """ROS domain and web page, for the heading."""
        return f'ROS_DOMAIN_ID={self.domain_id}   {self.monitor_url}'.rstrip()

    def conditions(self, message: str) -> dict[str, object]:
        """Return the conditions of the demo for its summary."""
        return {
            'machine': platform.platform(),
            'cpus': os.cpu_count(),
            'busy_before': self.busy_before,
            'package': __version__,
            'ended': message or 'as planned',
        }

    def _wait(self, what: str, part: str, is_ready: Callable[[], bool]) -> None:
        """Wait until a process is ready; raise PartError with the end of its log if it is not."""
        timeout_s = self.options.prepare_timeout_s
        self.spin_for(timeout_s, is_ready)
        if not is_ready():
            path = self.supervisor.log_path(part)
            raise PartError(
                f'{what} was not ready within {timeout_s:g} s. The first start builds engines and '
                'measures every level, which takes longer on a slow or busy machine; increase '
                f'--prepare-timeout-s. The end of its log ({path}):\n{indented_tail(path)}'
            )

    def _start_node(
        self,
        name: str,
        module: str,
        parameters: Mapping[str, object],
        cpus: set[int],
        others: Sequence[str] = (),
        is_apart: bool = False,
    ) -> None:
        given = [word for item in parameters.items() for word in ('-p', '{}:={}'.format(*item))]
        command = [sys.executable, '-m', f'dynamic_ofa_ros.nodes.{module}', '--ros-args']
        command += [*others, *given]
        self.stage = f'waiting for {name}'
        if module == 'classifier_node':
            self.stage += '; the first start on a machine measures every level'
        self.supervisor.start(name, command, cpus, is_apart)


class Comparison(Session):
    """The demo: three runs under the same load."""

    def __init__(self, options: DemoOptions, output: Path, console: Console) -> None:
        super().__init__(options, output, console)
        self._runs: list[Run] = []
        self._title = ''
        self._begin_ns = 0
        self._seconds = (options.seconds - OVERHEAD_S) / len(POLICIES)
        self._loads: list[tuple[float, float]] = []
        self._calibration: Calibration | None = None

    def play(self) -> None:
        """Start the processes, calibrate, and run the load once for each policy."""
        scope = {'constraints.latency_scope': 'node'}
        self.start_classifier('classifier', {**scope, **POLICIES[HIGHEST]})
        self.start_camera()
        self.supervisor.start_competitors(max(WORKERS), self.cpus)
        calibration = self._calibration = self._calibrate()
        self.supervisor.set_busy(0)
        self.links[0].set_parameters({'constraints.max_latency_ms': calibration.limit_ms})
        for title, parameters in POLICIES.items():
            self.stage = f'{title}: settling'
            self.links[0].set_parameters(parameters)
            self.spin_for(SETTLE_S)
            self._keep_run()
            self._play_once(title, calibration.workers)
        self.stage = 'waiting for the last answers'
        self.spin_for(ANSWER_WITHIN_S)
        self._keep_run()

    def finish(self, status: int, message: str) -> DemoResult:
        """Write frames, summary and, after a complete demo, the picture."""
        runs = [run for run in [*self._runs, *self._playing()] if run.frames]
        calibration = self._calibration
        if calibration is None or not runs:
            return DemoResult(status, message)
        words: list[str] = []
        files = [self.output / FRAMES_FILE, self.output / SUMMARY_FILE]
        write_frames([frame for run in runs for frame in run.frames], files[0])
        if not status and len(runs) == len(POLICIES):
            measures = {run.title: measure(run) for run in runs}
            notes = [note_without_gain(measures, self.busy_before), calibration.problem]
            words = [*filter(None, notes), sentence(measures)]
            if self.options.has_plots:
                from dynamic_ofa_ros.plotting.style import save_figure
                from dynamic_ofa_ros.recordings.picture import plot_runs

                figure = plot_runs(runs, self._caption(calibration))
                files.append(save_figure(figure, self.output / PICTURE_FILE))
        table = self.recorders[0].table
        document = {
            'family': table.family,
            'platform': table.platform,
            'conditions': self.conditions(message),
            'calibration': asdict(calibration),
            'levels': [
                {name: getattr(level, name) for name in ('name', 'accuracy', 'latency_ms')}
                for level in table.levels
            ],
            'result': words,
        }
        write_summary(document, runs, files[1])
        return DemoResult(status, message, files, runs, words)

    def scene(self) -> Scene:
        """Return the finished runs and the current run."""
        playing = self._playing()
        family = Path(self.options.family).name
        heading = f'Dynamic-OFA demo   family {family}   {self.address}'
        return Scene(heading, self.stage, [*self._runs, *playing], playing)

    def _playing(self) -> list[Run]:
        return [self._run()] if self._title else []

    def _calibrate(self) -> Calibration:
        latencies_ms = [level.latency_ms for level in self.recorders[0].table.levels]
        top = len(latencies_ms)
        free_ms = self._measured_ms(top, 0)
        trials: list[Trial] = []
        for workers in WORKERS:
            highest_ms = self._measured_ms(top, workers)
            for middle in middle_levels(latencies_ms):
                middle_ms = self._measured_ms(middle, workers)
                trials.append(Trial(workers, middle, highest_ms, middle_ms))
                if margin(free_ms, trials[-1]) >= GOOD_MARGIN:
                    return choose(free_ms, trials)
        return choose(free_ms, trials)

    def _measured_ms(self, level: int, workers: int) -> list[float]:
        """Return the latencies of some images at a level, with a number of busy processes."""
        self.stage = f'calibrating: level {level} with {processes(workers)}'
        self.supervisor.set_busy(workers)
        self.links[0].set_parameters({'manager.policy': 'fixed', 'manager.fixed_level': level})
        self.spin_for(TICK_S)
        begin_ns = time.time_ns()

        def measured() -> list[float]:
            answers = self.recorders[0].answers(begin_ns)
            return [answer.node_ms for answer in answers if answer.level == level]

        self.spin_for(TRIAL_S, lambda: len(measured()) >= TRIAL_FRAMES)
        self._wait(f'a label of level {level}', 'classifier', lambda: bool(measured()))
        return measured()

    def _play_once(self, title: str, workers: int) -> None:
        self._title, self._begin_ns, self._loads = title, time.time_ns(), []
        onset_s, relief_s = (share * self._seconds for share in LOAD_SHARE)
        self.stage = f'{title}: no load'
        self.spin_for(onset_s)
        self.stage = f'{title}: with {processes(workers)}'
        self.supervisor.set_busy(workers)
        self._loads = [(self._now_s, math.inf)]
        self.spin_for(relief_s - self._now_s)
        self.stage = f'{title}: the load has ended'
        self.supervisor.set_busy(0)
        self._loads = [(self._loads[0][0], self._now_s)]
        self.spin_for(self._seconds - self._now_s)

    def _keep_run(self) -> None:
        self._runs += self._playing()
        self._title = ''

    @property
    def _now_s(self) -> float:
        return (time.time_ns() - self._begin_ns) / 1e9

    def _run(self) -> Run:
        """Return the current run so far."""
        span_ns = (self._begin_ns, self._begin_ns + round(1e9 * self._seconds), self._begin_ns)
        recorder = self.recorders[0]
        frames = recorder.frames(self._title, *span_ns, self._loads)
        switches, count = recorder.switches(*span_ns), recorder.level_count
        return Run(self._title, self._seconds, frames, switches, self._loads, level_count=count)

    def _caption(self, calibration: Calibration) -> str:
        table = self.recorders[0].table
        return (
            'Three runs of the same nodes with the same load. Grey: '
            f'{processes(calibration.workers)} on the CPU of the classifier. A dot is the time '
            'from the arrival of an image to its label. Shares are of all images, with a 95 % '
            f'confidence interval in brackets. Family {table.family} on {table.platform}.'
        )
