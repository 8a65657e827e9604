"""`dynamic-ofa demo --two`: two classifiers on one CPU choose their levels together, for real.

Both see the same camera and share one CPU. They run free, get limits, then one matters more than
the other, then the other dies without a word.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dynamic_ofa_ros.demo.link import Link
from dynamic_ofa_ros.demo.parts import Parts
from dynamic_ofa_ros.demo.processes import PartError, Supervisor, indented_tail
from dynamic_ofa_ros.demo.recorder import Recorder
from dynamic_ofa_ros.demo.recording import FrameRecord, write_frames
from dynamic_ofa_ros.demo.running import (
    TICK_S,
    DemoOptions,
    DemoResult,
    Interrupted,
    conditions,
    run_session,
)
from dynamic_ofa_ros.demo.summary import Summary, summarise, write_summary

MODELS = ('model_a', 'model_b')
SHARES = {'free run': 0.2, 'limits': 0.3, 'a matters more': 0.25, 'b has died': 0.25}
LIMIT_SHARES = (0.85, 0.65)
"""Limits of the two, as shares of what the top level takes while both run at theirs."""

IMPORTANCE = 10.0
PLOT_FILE = 'two_models.png'
LINE_PERIOD_S = 2.0
LIVE_COLUMNS = ('model', 'level', 'top-1', 'inference', 'limit', 'slowdown', 'last switch')


@dataclass
class _Model:
    """One classifier as the demo sees it."""

    name: str
    recorder: Recorder
    link: Link

    @property
    def last(self) -> FrameRecord | None:
        """Return its newest frame."""
        return self.recorder.frames[-1] if self.recorder.frames else None


def run_two(options: DemoOptions, output: Path, console: Console) -> DemoResult:
    """Run the demo of two models; `output` is an empty folder. Leaves no process behind."""
    return run_session(lambda *args: _TwoModels(options, output, console, *args))


class _TwoModels:
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
        self._models: dict[str, _Model] = {}
        self._phase = 'preparing'
        self._end_ns = 0
        self._last_line_s = 0.0
        self._live = (
            Live(console=console, auto_refresh=False, transient=True)
            if console.is_terminal
            else None
        )

    def play(self) -> None:
        """Start the parts, go through the phases, end the parts."""
        own_cpus = os.sched_getaffinity(0)
        if self._live:
            self._live.start()
        try:
            with Supervisor(self._output) as supervisor:
                parts = Parts(supervisor, self._options, self._domain_id)
                os.sched_setaffinity(0, parts.other_cpus)
                try:
                    self._prepare(parts, supervisor)
                    self._play_phases(parts, supervisor)
                finally:
                    self._end_ns = time.time_ns()
                    os.sched_setaffinity(0, own_cpus)
                    for model in self._models.values():
                        model.link.close()
        finally:
            if self._live:
                self._live.stop()

    def finish(self, status: int, message: str) -> DemoResult:
        """Write telemetry and a summary of each model, print them, and draw both."""
        files: list[Path] = []
        frames: dict[str, tuple[FrameRecord, ...]] = {}
        for name, model in self._models.items():
            recording = model.recorder.recording(
                self._end_ns or time.time_ns(), conditions(message)
            )
            if not recording.frames or not recording.phase_starts_s:
                continue
            summary = summarise(recording)
            frames[name] = recording.frames
            csv_path = self._output / f'{name}.csv'
            json_path = self._output / f'{name}.json'
            write_frames(recording.frames, csv_path)
            write_summary(summary, json_path)
            files += [csv_path, json_path]
            self._console.print(_summary_table(name, summary))
        if frames and self._options.has_plots and not status:
            from dynamic_ofa_ros.plots import plot_models, save_figure

            files.append(save_figure(plot_models(frames), self._output / PLOT_FILE))
        return DemoResult(status, message, tuple(files), None)

    def _prepare(self, parts: Parts, supervisor: Supervisor) -> None:
        """Start everything, one classifier after the other: each may measure this machine."""
        deadline_s = time.monotonic() + self._options.prepare_timeout_s
        for name in MODELS:
            parts.start_model(name)
            recorder = Recorder(self._options.truth_labels)
            link = Link(recorder, parts.namespace_of(name))
            self._models[name] = _Model(name, recorder, link)
            node = f'{parts.namespace_of(name)}/classifier'
            self._wait(
                supervisor,
                name,
                lambda recorder=recorder, link=link, node=node: (
                    bool(recorder.levels) and link.can_steer(node)
                ),
                deadline_s,
            )
        parts.start_camera()
        self._wait(
            supervisor,
            'camera',
            lambda: all(
                m.recorder.has_telemetry and (m.recorder.has_truth or not self._options.has_truth)
                for m in self._models.values()
            ),
            deadline_s,
        )

    def _wait(
        self, supervisor: Supervisor, part: str, is_ready: object, deadline_s: float
    ) -> None:
        assert callable(is_ready)
        while not is_ready():
            self._tick(supervisor)
            self._show(f'waiting for {part}')
            if time.monotonic() > deadline_s:
                path = supervisor.log_path(part)
                raise PartError(
                    f'{part} was not ready within {self._options.prepare_timeout_s:g} s; its log '
                    f'({path}) ends:\n{indented_tail(path)}'
                )

    def _play_phases(self, parts: Parts, supervisor: Supervisor) -> None:
        for model in self._models.values():
            model.recorder.start(time.time_ns())
        for phase, share in SHARES.items():
            now_ns = time.time_ns()
            self._phase = phase
            for model in self._models.values():
                model.recorder.begin_phase(phase, now_ns)
            command = self._begin(phase, parts, supervisor)
            end_s = time.monotonic() + share * self._options.seconds
            while time.monotonic() < end_s:
                self._tick(supervisor)
                self._show(command)

    def _begin(self, phase: str, parts: Parts, supervisor: Supervisor) -> str:
        """Do what begins a phase; return what a user would have typed."""
        first, second = self._models[MODELS[0]], self._models[MODELS[1]]
        nodes = [f'{parts.namespace_of(name)}/classifier' for name in MODELS]
        if phase == 'limits':
            for model, node, share in zip((first, second), nodes, LIMIT_SHARES, strict=True):
                shared_ms = (
                    model.recorder.levels[-1].latency_ms * model.recorder.free_run_slowdown()
                )
                limit_ms = round(share * shared_ms, 2)
                model.link.set_parameter(node, 'constraints.max_latency_ms', limit_ms)
            return parts.set_command(nodes[1], 'constraints.max_latency_ms', limit_ms)
        if phase == 'a matters more':
            first.link.set_parameter(nodes[0], 'manager.importance', IMPORTANCE)
            return parts.set_command(nodes[0], 'manager.importance', IMPORTANCE)
        if phase == 'b has died':
            pid = supervisor.pids()[MODELS[1]]
            os.kill(pid, signal.SIGKILL)
            supervisor.request_stop(MODELS[1])  # so that its end is none to complain of
            return f'kill -9 {pid}'
        return ''

    def _tick(self, supervisor: Supervisor) -> None:
        """Let a moment pass; raise when a signal came or a part died."""
        if not self._models:
            time.sleep(TICK_S / 4)
        for model in self._models.values():
            model.link.spin_for(TICK_S / len(self._models))
        if self._received:
            raise Interrupted(self._received[0])
        supervisor.poll()

    def _show(self, command: str) -> None:
        if self._live:
            self._live.update(self._table(command), refresh=True)
            return
        now_s = time.monotonic()
        if now_s - self._last_line_s < LINE_PERIOD_S:
            return
        self._last_line_s = now_s
        states = '; '.join(f'{name}: {_state(m.last)}' for name, m in self._models.items())
        self._console.print(f'{self._phase}: {states or command}', highlight=False)

    def _table(self, command: str) -> Table:
        table = Table(title=f'two models on one CPU: {self._phase}', caption=command)
        for heading in LIVE_COLUMNS:
            table.add_column(heading)
        for name, model in self._models.items():
            last, switches = model.last, model.recorder.switches
            if last is None:
                table.add_row(name, 'starting')
                continue
            limit = '-' if last.max_latency_ms != last.max_latency_ms else (
                f'{last.max_latency_ms:.2f} ms'
            )  # fmt: skip
            table.add_row(
                name,
                f'{last.level}/{last.level_count}',
                f'{100 * last.level_accuracy:.1f} %',
                f'{last.inference_ms:.2f} ms',
                limit,
                f'{last.slowdown:.2f}x',
                switches[-1].reason if switches else '',
            )
        return table


def _state(frame: FrameRecord | None) -> str:
    if frame is None:
        return 'starting'
    return f'level {frame.level}/{frame.level_count}, {frame.inference_ms:.2f} ms'


def _summary_table(name: str, summary: Summary) -> Table:
    table = Table(title=name)
    for heading in ('phase', 'frames', 'levels', 'limit ms', 'p50 ms', 'p95 ms', 'above', 'top-1'):
        table.add_column(heading, justify='left' if heading == 'phase' else 'right')
    for phase in summary.phases:
        levels = ' '.join(f'{level}:{count}' for level, count in phase.levels.items())
        limit = '-' if phase.limit_ms != phase.limit_ms else f'{phase.limit_ms:.2f}'
        table.add_row(
            phase.name,
            str(phase.frames),
            levels,
            limit,
            f'{phase.p50_ms:.2f}',
            f'{phase.p95_ms:.2f}',
            str(phase.violations),
            f'{100 * phase.accuracy:.1f} %' if phase.known else '-',
        )
    return table
