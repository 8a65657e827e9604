"""Latency over the last seconds as a small chart of block characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from dynamic_ofa_ros.demo.palette import Glyphs, level_colour
from dynamic_ofa_ros.demo.recording import FrameRecord
from dynamic_ofa_ros.demo.summary import percentile

VIOLATION_STYLE = 'bold red'
LIMIT_STYLE = 'bold'
HEADROOM, LIMIT_HEADROOM = 1.25, 1.6
"""The top of the chart over the usual latency and over the limit; outliers are cut."""

USUAL_SHARE = 0.75


@dataclass(frozen=True)
class _Column:
    """The slowest frame of one column's time; NaN without a frame or without a limit."""

    latency_ms: float
    limit_ms: float
    level: int
    level_count: int


def latency_chart(
    frames: Sequence[FrameRecord],
    *,
    now_s: float,
    span_s: float,
    width: int,
    height: int,
    glyphs: Glyphs,
) -> list[Text]:
    """Draw the slowest frame of each column's time; return `height` lines of `width` cells.

    A bar has its level's colour, the part over the limit is red; the limit is a dashed line, in
    front of nothing. The axis (ms) is part of the width.
    """
    axis_width = 5
    columns = _columns(frames, now_s, span_s, max(1, width - axis_width))
    top_ms = _top(columns)
    lines = []
    for row in range(height):
        low_ms = top_ms * (height - row - 1) / height
        high_ms = top_ms * (height - row) / height
        line = Text().append(_axis_label(row, height, high_ms, low_ms), 'dim')
        for column in columns:
            line.append(*_cell(column, low_ms, high_ms, row == 0, glyphs))
        lines.append(line)
    return lines


def _columns(
    frames: Sequence[FrameRecord], now_s: float, span_s: float, count: int
) -> list[_Column]:
    # Bins are fixed in absolute time: sliding ones would make the bars flicker.
    bin_s = span_s / count
    last = math.floor(now_s / bin_s)
    slowest: dict[int, FrameRecord] = {}
    for frame in frames:
        position = math.floor(frame.time_s / bin_s)
        known = slowest.get(position)
        if known is None or frame.inference_ms > known.inference_ms:
            slowest[position] = frame
    columns = []
    limit_ms = math.nan
    for position in range(last - count + 1, last + 1):
        frame_or_none = slowest.get(position)
        if frame_or_none is None:
            columns.append(_Column(math.nan, limit_ms, 1, 1))
            continue
        frame = frame_or_none
        limit_ms = frame.max_latency_ms
        columns.append(_Column(frame.inference_ms, limit_ms, frame.level, frame.level_count))
    return columns


def _top(columns: Sequence[_Column]) -> float:
    usual_ms = percentile([column.latency_ms for column in columns], USUAL_SHARE)
    candidates = [HEADROOM * usual_ms, *(LIMIT_HEADROOM * column.limit_ms for column in columns)]
    wanted_ms = max((value for value in candidates if not math.isnan(value)), default=1.0)
    # A round number, so that the scale stays while latencies jitter.
    step = 10.0 ** math.floor(math.log10(max(wanted_ms, 1e-6)))
    return next(
        m * step for m in (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0) if m * step >= wanted_ms
    )


def _axis_label(row: int, height: int, high_ms: float, low_ms: float) -> str:
    if row == 0:
        return f'{high_ms:4.3g} '
    return '   0 ' if row == height - 1 and height > 1 else '     '


def _cell(
    column: _Column, low_ms: float, high_ms: float, is_top: bool, glyphs: Glyphs
) -> tuple[str, str]:
    bars = glyphs.bars
    colour = level_colour(column.level, column.level_count)
    share = (column.latency_ms - low_ms) / (high_ms - low_ms)
    is_limit_here = low_ms < column.limit_ms <= high_ms
    is_over = column.latency_ms > column.limit_ms and (is_limit_here or low_ms >= column.limit_ms)
    if math.isnan(share) or share <= 0.0:
        return (glyphs.limit, LIMIT_STYLE) if is_limit_here else (' ', '')
    style = VIOLATION_STYLE if is_over else colour
    if is_top and share > 1.0:
        return glyphs.over, style
    if is_limit_here and not is_over:
        # The bar ends just below the limit, in the same cell: the limit matters more.
        return glyphs.limit, LIMIT_STYLE
    return bars[max(1, min(len(bars) - 1, round(share * (len(bars) - 1))))], style
