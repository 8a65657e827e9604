"""The demo in words: a line a second where there is no terminal, and the table at the end."""

from __future__ import annotations

import math

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dynamic_ofa_ros.demo.palette import level_colour
from dynamic_ofa_ros.demo.snapshot import Snapshot
from dynamic_ofa_ros.demo.summary import PhaseSummary, Reaction, Summary

# Latencies are of inference, in ms; `over`: frames over the limit; `reaction`: their longest run.
_COLUMNS = (
    'frames', 'top-1', 'level', 'limit', 'p50', 'p95', 'over', 'drop', 'switch', 'reaction'
)  # fmt: skip


def status_line(snapshot: Snapshot) -> str:
    """Return one line about this moment."""
    preparation = snapshot.preparation
    if preparation is not None:
        head = f'preparing {preparation.elapsed_s:5.1f} s  waiting for {preparation.waiting_for}'
        return f'{head}: {preparation.log_lines[-1]}' if preparation.log_lines else head
    index = min(snapshot.progress.index, len(snapshot.phases) - 1)
    head = f'{snapshot.now_s:5.1f} s  {snapshot.phases[index].name:<12}'
    frame = snapshot.latest
    if frame is None:
        return f'{head}  no frame yet'
    limit = 'none' if math.isnan(frame.max_latency_ms) else f'{frame.max_latency_ms:.2f} ms'
    verdict = {True: 'right', False: 'wrong', None: 'unknown'}[frame.is_correct]
    tally = snapshot.tally
    accuracy = f'{tally.correct / tally.known:.1%}' if tally.known else '-'
    return (
        f'{head}  level {frame.level}/{frame.level_count}  {frame.inference_ms:6.2f} ms '
        f'(limit {limit})  slowdown {frame.slowdown:.2f}  {frame.throughput_hz:4.1f} Hz  '
        f'dropped {frame.dropped_frames}  switches {len(snapshot.switches)}  '
        f'accuracy {accuracy} of {tally.known}  {frame.label} ({verdict})'
    )


def summary_table(summary: Summary, width: int) -> RenderableType:
    """Return the table of phases that ends the demo; it needs 80 columns."""
    gap = 1 if width >= 92 else 0
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0), pad_edge=False, header_style='bold')
    table.add_column('phase', no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify='right', no_wrap=True)
    count = max((level.index for level in summary.recording.levels), default=1)
    for phase in summary.phases:
        table.add_row(*_row(phase, count))
    table.add_section()
    table.add_row(*_row(summary.whole, count), style='bold')
    return table


def _row(phase: PhaseSummary, level_count: int) -> list[Text | str]:
    return [
        phase.name,
        str(phase.frames),
        '-' if math.isnan(phase.accuracy) else f'{100 * phase.accuracy:.1f} %',
        _levels_text(phase.levels, level_count),
        _ms(phase.limit_ms),
        _ms(phase.p50_ms),
        _ms(phase.p95_ms),
        str(phase.violations),
        str(phase.dropped),
        str(phase.switches),
        reaction_text(phase.reaction),
    ]


def reaction_text(reaction: Reaction | None) -> str:
    """Return a reaction time in words: frames and milliseconds."""
    if reaction is None:
        return '-'
    more = '' if reaction.is_over else '+'
    return f'{reaction.frames}/{reaction.ms:.0f}{more} ms'


def _levels_text(levels: dict[int, int], level_count: int) -> Text:
    """Return the active levels, the ones with a tenth of the frames or more, in their colours."""
    total = sum(levels.values())
    text = Text()
    for level, frames in levels.items():
        if frames >= 0.1 * total:
            text.append(',' if text else '').append(str(level), level_colour(level, level_count))
    return text or Text('-')


def _ms(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.2f}'
