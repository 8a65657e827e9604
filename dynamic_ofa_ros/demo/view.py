"""Output of the demo while it runs: charts on a terminal, otherwise one line per second."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dynamic_ofa_ros.recordings.measures import Run, measure, percent

SMALLEST = (80, 20)
"""Columns and rows that charts need; on a smaller terminal the demo prints lines."""

SECONDS_BETWEEN_LINES = 1.0
LEVEL_ROWS = 7
TICKS_MS = tuple(m * 10.0**e for e in range(-1, 4) for m in (1.0, 2.0, 5.0))


@dataclass(frozen=True)
class Scene:
    """The content of the screen: all runs so far, and the runs drawn as charts."""

    heading: str
    stage: str
    runs: Sequence[Run]
    charts: Sequence[Run]


class View:
    """Shows scenes as charts if the terminal can display them, otherwise as lines.

    A context manager that restores the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = -math.inf
        self._stage = ''
        can_show = (
            console.is_terminal
            and not console.is_dumb_terminal
            and console.encoding.startswith('utf')
            and all(size >= least for size, least in zip(console.size, SMALLEST, strict=True))
            and importlib.util.find_spec('plotext') is not None
        )
        # Only `show` redraws; a refresh thread would take CPU time from inference.
        self._live = Live(console=console, screen=True, auto_refresh=False) if can_show else None

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, scene: Scene) -> None:
        """Redraw the charts; or print each new stage, and a status line once per second."""
        if self._live:
            self._live.update(render(scene, *self._console.size), refresh=True)
        elif scene.stage != self._stage:
            self._stage = scene.stage
            self._print(scene.stage)
        elif scene.charts and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + SECONDS_BETWEEN_LINES
            for run in scene.charts:
                self._print(status_line(run))

    def _print(self, line: str) -> None:
        # Lines are not wrapped, so that grep finds them.
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def status_line(run: Run) -> str:
    """Return one line with the newest image of a run and its measures so far."""
    answered = [frame for frame in run.frames if frame.is_answered]
    if not answered:
        return f'  {run.title}: no label yet'
    frame, measures = answered[-1], measure(run)
    limit = 'none' if math.isnan(frame.limit_ms) else f'{frame.limit_ms:.2f} ms'
    return (
        f'  {frame.time_s:5.1f} s  level {frame.level}/{run.level_count}  '
        f'{frame.latency_ms:6.2f} ms (limit {limit})  {percent(measures.late)} late, '
        f'{percent(measures.right_on_time)} right and on time  {frame.label}'
    )


def results_table(runs: Sequence[Run]) -> Table:
    """Return a table with the measures of each run; it needs 80 columns."""
    table = Table(box=None, padding=(0, 1), header_style='bold')
    table.add_column('', no_wrap=True)
    for heading in ('late', 'right', 'right, on time', 'p50 ms', 'p95 ms', 'switches'):
        table.add_column(heading, justify='right', no_wrap=True)
    for run in runs:
        measures = measure(run)
        table.add_row(
            run.title,
            percent(measures.late),
            percent(measures.right),
            percent(measures.right_on_time),
            '-' if math.isnan(measures.p50_ms) else f'{measures.p50_ms:.1f}',
            '-' if math.isnan(measures.p95_ms) else f'{measures.p95_ms:.1f}',
            str(measures.switches),
        )
    return table


def render(scene: Scene, width: int, height: int) -> RenderableType:
    """Draw a scene with a width and height in characters."""
    parts: list[RenderableType] = [
        Text(scene.heading, style='bold', no_wrap=True, overflow='ellipsis'),
        Text(scene.stage, style='cyan', no_wrap=True, overflow='ellipsis'),
        results_table(scene.runs),
    ]
    reasons = [run.switches[-1].reason for run in scene.charts if run.switches]
    room = height - 4 - len(scene.runs) - len(reasons)
    for run in scene.charts:
        rows = room // len(scene.charts)
        parts.append(_latency_chart(run, width, rows - LEVEL_ROWS))
        parts.append(_level_chart(run, width, LEVEL_ROWS))
    parts += [
        Text(f'last switch: {reason}', style='dim', no_wrap=True, overflow='ellipsis')
        for reason in reasons
    ]
    return Group(*parts)


def _latency_chart(run: Run, width: int, rows: int) -> Text:
    """Draw latency on a logarithmic axis, red above the limit."""
    plot = _new_plot(run, width, rows)
    answered = [frame for frame in run.frames if frame.is_answered]
    limits_ms = [frame.limit_ms for frame in answered if not math.isnan(frame.limit_ms)]
    shown_ms = [frame.latency_ms for frame in answered] + limits_ms or [1.0, 10.0]
    low, high = math.log10(0.8 * min(shown_ms)), math.log10(1.2 * max(shown_ms))
    for colour, is_late in (('green+', False), ('red+', True)):
        frames = [frame for frame in answered if frame.is_late == is_late]
        plot.scatter(
            [frame.time_s for frame in frames],
            [math.log10(frame.latency_ms) for frame in frames],
            color=colour,
            marker='dot',
        )
    if limits_ms:
        plot.hline(math.log10(limits_ms[-1]), 'red')
    # The logarithmic axis of plotext puts ticks at unusual numbers.
    ticks = [value for value in TICKS_MS if low <= math.log10(value) <= high]
    plot.yticks([math.log10(value) for value in ticks], [f'{value:g}' for value in ticks])
    plot.ylim(low, high)
    plot.title(f'{run.title}: ms from arrival to label; line: the limit; |: load')
    return Text.from_ansi(plot.build().rstrip())


def _level_chart(run: Run, width: int, rows: int) -> Text:
    plot = _new_plot(run, width, rows)
    answered = [frame for frame in run.frames if frame.is_answered]
    plot.scatter(
        [frame.time_s for frame in answered],
        [frame.level for frame in answered],
        color='cyan',
        marker='hd',
    )
    plot.ylim(1, max(2, run.level_count))
    plot.yticks([1, run.level_count], ['1', str(run.level_count)])
    plot.title('level')
    return Text.from_ansi(plot.build().rstrip())


def _new_plot(run: Run, width: int, rows: int) -> Any:
    """Return plotext, a module with one global figure, with an empty plot over the run's time."""
    import plotext

    plotext.clear_figure()
    plotext.theme('clear')
    plotext.limit_size(False, False)
    plotext.plotsize(width, max(5, rows))
    plotext.xlim(0.0, run.seconds)
    for begin_s, end_s in run.loads:
        for time_s in (begin_s, end_s):
            if math.isfinite(time_s):
                plotext.vline(time_s, 'gray')
    return plotext
