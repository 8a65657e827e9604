"""The live view: what a snapshot looks like on a terminal of 80 x 24 characters or more."""

from __future__ import annotations

import math

from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dynamic_ofa_ros.demo.chart import VIOLATION_STYLE, latency_chart
from dynamic_ofa_ros.demo.palette import Glyphs, glyphs_for, level_colour
from dynamic_ofa_ros.demo.recording import FrameRecord
from dynamic_ofa_ros.demo.snapshot import Preparation, Snapshot
from dynamic_ofa_ros.demo.summary import percentile

CHART_SPAN_S = 12.0
ANSWER_WIDTH = 34
SMALLEST = (60, 16)
"""Below this many columns and rows there is nothing to see; the demo then prints lines."""

SWITCHES_MIN_ROWS = 3
COMMAND_MAX_ROWS = 3

GOOD, BAD, QUIET, TITLE = 'green', VIOLATION_STYLE, 'dim', 'bold'


def fits(console: Console) -> bool:
    """Tell whether the view can be drawn: a real terminal, and a large enough one."""
    columns, rows = console.size
    return (
        console.is_terminal
        and not console.is_dumb_terminal
        and columns >= SMALLEST[0]
        and rows >= SMALLEST[1]
    )


def render(snapshot: Snapshot, console: Console) -> RenderableType:
    """Draw a snapshot for the console's present size."""
    width, height = console.size
    glyphs = glyphs_for(console.encoding)
    layout = Layout()
    command = _command(snapshot)
    command_rows = min(COMMAND_MAX_ROWS, len(command.wrap(console, width - 4)))
    scenario_rows = len(snapshot.phases) + 2 + command_rows
    rest = height - 1 - scenario_rows
    # The chart gains most from a tall terminal; the reasons for switches come next.
    middle = max(10, min(20, rest * 3 // 5))
    if rest - middle < SWITCHES_MIN_ROWS:
        middle = rest
    parts = [
        Layout(_header(snapshot, width, glyphs), size=1),
        Layout(_scenario(snapshot, command, glyphs), size=scenario_rows),
    ]
    if snapshot.preparation is not None:
        parts.append(Layout(_preparation(snapshot.preparation, rest - 2, glyphs), size=rest))
    else:
        row = Layout(size=middle)
        row.split_row(
            Layout(_answer(snapshot, glyphs), size=ANSWER_WIDTH),
            Layout(_latency(snapshot, width - ANSWER_WIDTH - 4, middle - 2, glyphs)),
        )
        parts.append(row)
        if middle < rest:
            parts.append(Layout(_switches(snapshot, rest - middle - 2, width - 4, glyphs)))
    layout.split_column(*parts)
    return layout


def _header(snapshot: Snapshot, width: int, glyphs: Glyphs) -> RenderableType:
    left = Text(' Dynamic-OFA demo', style=TITLE)
    if snapshot.family:
        levels = f'{len(snapshot.levels)} levels'
        about = f'  {snapshot.family} {glyphs.dot} {levels} {glyphs.dot} {snapshot.platform}'
        left.append(about, style='not bold dim')
    total_s = sum(phase.duration_s for phase in snapshot.phases)
    right = Text(f'{max(0.0, snapshot.now_s):.1f} / {total_s:.0f} s ', style=TITLE)
    left.truncate(max(0, width - len(right.plain) - 1), overflow='ellipsis')
    table = Table.grid(expand=True)
    table.add_column()
    table.add_column(justify='right')
    table.add_row(left, right)
    return table


def _scenario(snapshot: Snapshot, command: Text, glyphs: Glyphs) -> RenderableType:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=1)
    table.add_column(width=13)
    table.add_column(width=12, justify='right')
    table.add_column(width=12)
    table.add_column(ratio=1, no_wrap=True, overflow='ellipsis')
    is_playing = snapshot.preparation is None
    for index, phase in enumerate(snapshot.phases):
        if not is_playing or index > snapshot.progress.index:
            mark, style, share = glyphs.later, QUIET, 0.0
            clock = f'{phase.duration_s:.1f} s'
        elif index < snapshot.progress.index:
            mark, style, share = glyphs.done, QUIET, 1.0
            clock = f'{phase.duration_s:.1f} s'
        else:
            mark, style = glyphs.now, TITLE
            share = min(1.0, snapshot.progress.phase_elapsed_s / phase.duration_s)
            clock = f'{snapshot.progress.phase_elapsed_s:.1f} / {phase.duration_s:.1f} s'
        filled = round(share * 12)
        bar = glyphs.full * filled + glyphs.empty * (12 - filled)
        table.add_row(mark, phase.name, clock, bar, phase.watch, style=style)
    return Panel(Group(table, command), title='scenario', title_align='left', border_style=QUIET)


def _command(snapshot: Snapshot) -> Text:
    """Return what the demo just did as a command line: whole, so that it can be typed."""
    if not snapshot.command:
        return Text(snapshot.hint, style=QUIET)
    return Text().append('$ ', style=QUIET).append(snapshot.command, style='cyan')


def _preparation(preparation: Preparation, rows: int, glyphs: Glyphs) -> RenderableType:
    head = Text(f'Waiting for {preparation.waiting_for} ', style=TITLE)
    head.append(
        f'{preparation.elapsed_s:.0f} s of at most {preparation.timeout_s:.0f} s', style=QUIET
    )
    note = Text(
        'The first start on a machine builds the engines and measures every level; later starts '
        'take a few seconds.',
        style=QUIET,
    )
    lines = preparation.log_lines[-max(1, rows - 4) :]
    log = [Text(line, style=QUIET, no_wrap=True, overflow='ellipsis') for line in lines]
    return Panel(
        Group(head, note, Text(), *log), title='preparing', title_align='left', border_style='cyan'
    )


def _answer(snapshot: Snapshot, glyphs: Glyphs) -> RenderableType:
    table = Table.grid()
    table.add_column(style=QUIET, min_width=9, no_wrap=True)
    table.add_column(no_wrap=True, overflow='ellipsis')
    frame = snapshot.latest
    if frame is None:
        table.add_row('label', 'no frame yet')
        return Panel(table, title='answer', title_align='left', border_style=QUIET)
    tally = snapshot.tally
    accuracy = _share(tally.correct, tally.known)
    recent = _share(tally.recent_correct, tally.recent_known)
    table.add_row('truth', frame.truth or '(unknown)')
    table.add_row('label', _verdict(frame, glyphs))
    table.add_row('accuracy', Text(accuracy, style=TITLE).append(f' of {tally.known}', QUIET))
    table.add_row('', Text(f'{recent} of the last {tally.recent_known}', style=QUIET))
    table.add_row('level', _level_bar(frame, glyphs))
    pixels = [f', {lv.resolution} px' for lv in snapshot.levels if lv.index == frame.level]
    detail = f'{_percent(frame.level_accuracy)} top-1{"".join(pixels)}'
    table.add_row('', Text(detail, style=QUIET))
    table.add_row('slowdown', _slowdown(frame))
    table.add_row('frames', f'{frame.throughput_hz:.1f} Hz, {frame.dropped_frames} dropped')
    return Panel(table, title='answer', title_align='left', border_style=QUIET)


def _verdict(frame: FrameRecord, glyphs: Glyphs) -> Text:
    correct = frame.is_correct
    if correct is None:
        mark, style = glyphs.unknown, QUIET
    else:
        mark, style = (glyphs.check, GOOD) if correct else (glyphs.cross, BAD)
    return Text(f'{mark} ', style=style).append(frame.label or '(none)')


def _level_bar(frame: FrameRecord, glyphs: Glyphs) -> Text:
    """Draw one cell per level, filled up to the active one; grouped where there are many."""
    count = max(1, frame.level_count)
    cell = 2 if count * 3 <= 15 else 1
    bar = Text()
    if count > 14:
        filled = round(frame.level / count * 14)
        bar.append(glyphs.full * filled, level_colour(frame.level, count))
        bar.append(glyphs.empty * (14 - filled), QUIET)
    else:
        for level in range(1, count + 1):
            is_filled = level <= frame.level
            sign = glyphs.full if is_filled else glyphs.empty
            bar.append(sign * cell, level_colour(level, count) if is_filled else QUIET)
            if cell > 1 and level < count:
                bar.append(' ')
    return bar.append(f' {frame.level}/{count}', style=TITLE)


def _slowdown(frame: FrameRecord) -> Text:
    if math.isnan(frame.slowdown):
        return Text('not known yet', style=QUIET)
    text = Text(f'{frame.slowdown:.2f}x ', 'yellow' if frame.is_contended else GOOD)
    return text.append('contended' if frame.is_contended else 'alone', QUIET)


def _latency(snapshot: Snapshot, width: int, rows: int, glyphs: Glyphs) -> RenderableType:
    frame = snapshot.latest
    if frame is None:
        return Panel('', title='inference latency', title_align='left', border_style=QUIET)
    head = Text(f'{frame.inference_ms:.2f} ms', style=TITLE, no_wrap=True, overflow='ellipsis')
    if math.isnan(frame.max_latency_ms):
        head.append('  no limit', QUIET)
    else:
        head.append(f'  limit {frame.max_latency_ms:.2f} ms ')
        if frame.is_violation:
            verdict = 'over' if frame.is_feasible else 'no level can'
            head.append(f'{glyphs.cross} {verdict}', BAD)
        else:
            head.append(f'{glyphs.check} met', GOOD)
    recent = [f.inference_ms for f in snapshot.frames if f.time_s > snapshot.now_s - 2.0]
    chart = latency_chart(
        snapshot.frames,
        now_s=snapshot.now_s,
        span_s=CHART_SPAN_S,
        width=width,
        height=max(1, rows - 1),
        glyphs=glyphs,
    )
    title = f'inference latency, last {CHART_SPAN_S:.0f} s'
    p50_ms, p95_ms = percentile(recent, 0.5), percentile(recent, 0.95)
    return Panel(
        Group(head, *chart),
        title=title,
        title_align='left',
        subtitle=f'last 2 s: p50 {p50_ms:.2f}, p95 {p95_ms:.2f} ms',
        subtitle_align='right',
        border_style=QUIET,
    )


def _switches(snapshot: Snapshot, rows: int, width: int, glyphs: Glyphs) -> RenderableType:
    shown = list(reversed(snapshot.switches[-rows:]))
    lines = []
    for position, switch in enumerate(shown):
        # Only the newest may take a second row: the others must stay in sight.
        line = Text(no_wrap=position > 0, overflow='ellipsis')
        line.append(f'{switch.time_s:5.1f} s  ', QUIET)
        line.append(f'{switch.from_level} {glyphs.arrow} {switch.to_level}  ', TITLE)
        line.append(switch.reason, '' if position == 0 else QUIET)
        line.truncate(2 * width - 8 if position == 0 else width, overflow='ellipsis')
        lines.append(line)
    if not lines:
        lines = [Text('none yet: the level in force is the best one', style=QUIET)]
    title = f'switches ({len(snapshot.switches)})'
    return Panel(Group(*lines), title=title, title_align='left', border_style=QUIET)


def _percent(fraction: float) -> str:
    return '-' if math.isnan(fraction) else f'{100.0 * fraction:.1f} %'


def _share(part: int, whole: int) -> str:
    return _percent(part / whole if whole else math.nan)
