"""One run of the demo: start the parts, play the scenario, record, end everything, write."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from dynamic_ofa_ros.demo.display import Display, open_display
from dynamic_ofa_ros.demo.link import Link
from dynamic_ofa_ros.demo.parts import Parts
from dynamic_ofa_ros.demo.processes import PartError, Supervisor, indented_tail, tail
from dynamic_ofa_ros.demo.recorder import Recorder
from dynamic_ofa_ros.demo.recording import write_frames
from dynamic_ofa_ros.demo.running import (
    TICK_S,
    DemoOptions,
    DemoResult,
    Interrupted,
    conditions,
    run_session,
)
from dynamic_ofa_ros.demo.scenario import (
    Action,
    Phase,
    Scenario,
    ScenarioPlayer,
    choose_limit,
    default_scenario,
)
from dynamic_ofa_ros.demo.snapshot import Preparation, Snapshot
from dynamic_ofa_ros.demo.summary import summarise, write_summary

SILENCE_MAX_S = 15.0
"""Without a label for so long, with all parts alive, something is stuck."""

LOG_LINES = 12

FRAMES_FILE = 'telemetry.csv'
SUMMARY_FILE = 'summary.json'
LATENCY_FILE = 'latency.png'
ACCURACY_FILE = 'accuracy.png'


def run_demo(options: DemoOptions, output: Path, console: Console) -> DemoResult:
    """Run the demo; `output` is an empty folder. Returns when no process of it is left."""
    return run_session(lambda *args: _Session(options, output, console, *args))


class _Session:
    def __init__(
        self,
        options: DemoOptions,
        output: Path,
        console: Console,
        received: list[int],
        domain_id: int,
    ) -> None:
        self._options = options
        self._output = output
        self._console = console
        self._received = received
        self._domain_id = domain_id
        self._scenario: Scenario = default_scenario(options.seconds)
        self._player = ScenarioPlayer(self._scenario, time.monotonic)
        self._recorder = Recorder(options.truth_labels)
        self._display: Display | None = None
        self._preparation: Preparation | None = None
        self._command = ''
        self._last_frame_s = 0.0
        self._frame_count = 0
        self._end_ns = 0

    def play(self) -> None:
        """Start the parts, play the scenario, end the parts."""
        self._display = open_display(self._console)
        try:
            with Supervisor(self._output) as supervisor:
                parts = Parts(supervisor, self._options, self._domain_id)
                own_cpus = os.sched_getaffinity(0)
                os.sched_setaffinity(0, parts.other_cpus)
                link: Link | None = None
                try:
                    link = self._prepare(parts, supervisor)
                    self._play_scenario(parts, supervisor, link)
                finally:
                    self._end_ns = time.time_ns()
                    os.sched_setaffinity(0, own_cpus)
                    if link is not None:
                        link.close()
        finally:
            self._display.close()

    def finish(self, status: int, message: str) -> DemoResult:
        """Write what was recorded; plots only after a run that went to its end."""
        recording = self._recorder.recording(self._end_ns or time.time_ns(), conditions(message))
        if not recording.frames or not recording.phase_starts_s:
            return DemoResult(status, message, (), None)
        summary = summarise(recording)
        frames_path, summary_path = self._output / FRAMES_FILE, self._output / SUMMARY_FILE
        write_frames(recording.frames, frames_path)
        write_summary(summary, summary_path)
        files = [frames_path, summary_path]
        if self._options.has_plots and not status:
            from dynamic_ofa_ros.plots import plot_accuracy, plot_latency, save_figure

            latency = plot_latency(recording.frames, recording.switches)
            files.append(save_figure(latency, self._output / LATENCY_FILE))
            if any(frame.is_correct is not None for frame in recording.frames):
                accuracy = plot_accuracy(recording.frames)
                files.append(save_figure(accuracy, self._output / ACCURACY_FILE))
        return DemoResult(status, message, tuple(files), summary)

    def _prepare(self, parts: Parts, supervisor: Supervisor) -> Link:
        """Start everything; return once labels and their truth arrive."""
        began_s = time.monotonic()
        wait = partial(self._wait, supervisor, began_s)
        parts.start_classifier()
        link = Link(self._recorder)
        try:
            # Alone until it is ready: it may be measuring how fast this machine is.
            wait(
                link,
                'classifier',
                'the classifier',
                lambda: bool(self._recorder.levels) and link.can_steer(parts.classifier),
            )
            parts.start_competitor()
            parts.start_camera()
            wait(
                link,
                'competitor',
                'the competing process',
                lambda: link.can_steer(parts.competitor),
            )
            if self._options.has_truth:
                wait(link, 'camera', 'the camera', lambda: self._recorder.has_truth)
            wait(link, 'classifier', 'the first label', lambda: self._recorder.has_telemetry)
        except BaseException:
            link.close()
            raise
        self._preparation = None
        return link

    def _wait(
        self,
        supervisor: Supervisor,
        began_s: float,
        link: Link | None,
        part: str,
        waiting_for: str,
        is_ready: Callable[[], bool],
    ) -> None:
        """Wait until a part is ready, showing what its log says; raise PartError after a time."""
        timeout_s = self._options.prepare_timeout_s
        while not is_ready():
            self._tick(supervisor, link)
            elapsed_s = time.monotonic() - began_s
            if elapsed_s > timeout_s:
                raise PartError(self._timeout_message(supervisor, part, waiting_for))
            lines = tuple(tail(supervisor.log_path(part), LOG_LINES))
            self._preparation = Preparation(waiting_for, elapsed_s, timeout_s, lines)
            self._show()

    def _timeout_message(self, supervisor: Supervisor, part: str, waiting_for: str) -> str:
        path = supervisor.log_path(part)
        return (
            f'{waiting_for} was not ready within {self._options.prepare_timeout_s:g} s. A first '
            'start builds engines and measures every level, which takes longer on a slow or busy '
            'machine: wait longer with --prepare-timeout-s, or see what it is doing. Its log '
            f'({path}) ends:\n{indented_tail(path)}'
        )

    def _play_scenario(self, parts: Parts, supervisor: Supervisor, link: Link) -> None:
        self._recorder.start(time.time_ns())
        self._player.start()
        self._last_frame_s = time.monotonic()
        while True:
            for phase in self._player.begun():
                self._begin(phase, parts, link)
            if self._player.progress().is_over:
                return
            self._show()
            self._tick(supervisor, link)
            self._check_silence()

    def _begin(self, phase: Phase, parts: Parts, link: Link) -> None:
        now_ns = time.time_ns()
        self._recorder.begin_phase(phase.name, now_ns)
        if phase.action is Action.SET_LIMIT:
            latencies_ms = [level.latency_ms for level in self._recorder.levels]
            choice = choose_limit(latencies_ms, self._recorder.free_run_slowdown())
            link.set_parameter(parts.classifier, 'constraints.max_latency_ms', choice.limit_ms)
            self._command = parts.set_limit_command(choice.limit_ms)
        elif phase.action is Action.START_COMPETITOR:
            link.set_parameter(parts.competitor, 'workload', parts.workload)
            self._recorder.mark_competitor(True, now_ns)
            self._command = parts.competitor_command(parts.workload)
        elif phase.action is Action.STOP_COMPETITOR:
            link.set_parameter(parts.competitor, 'workload', 'none')
            self._recorder.mark_competitor(False, now_ns)
            self._command = parts.competitor_command('none')
        elif phase.action is Action.LIFT_LIMIT:
            link.publish_constraints(-1.0)
            self._command = parts.lift_limit_command()

    def _tick(self, supervisor: Supervisor, link: Link | None) -> None:
        """Let a moment pass; raise when a signal came or a part died."""
        if link is None:
            time.sleep(TICK_S / 4)
        else:
            link.spin_for(TICK_S)
        if self._received:
            raise Interrupted(self._received[0])
        supervisor.poll()

    def _check_silence(self) -> None:
        now_s = time.monotonic()
        if len(self._recorder.frames) != self._frame_count:
            self._frame_count = len(self._recorder.frames)
            self._last_frame_s = now_s
        elif now_s - self._last_frame_s > SILENCE_MAX_S:
            raise PartError(
                f'no label has arrived for {SILENCE_MAX_S:.0f} s though every part is running; '
                f'their logs are in {self._output}'
            )

    def _show(self) -> None:
        assert self._display is not None
        now_s = self._recorder.time_s(time.time_ns())
        self._display.show(
            Snapshot(
                now_s=now_s,
                phases=self._scenario.phases,
                progress=self._player.progress(),
                preparation=self._preparation,
                command=self._command,
                frames=self._recorder.history(now_s),
                tally=self._recorder.tally,
                switches=tuple(self._recorder.switches),
                levels=self._recorder.levels,
                family=self._recorder.family,
                platform=self._recorder.platform,
                output=str(self._output),
                hint='Ctrl-C ends it; results so far are kept.',
            )
        )
