"""What a run leaves behind: one record per classified frame, one per switch; as CSV and back."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.errors import DynamicOfaError
from dynamic_ofa_ros.files import replacing

NAN = math.nan


class RecordingError(DynamicOfaError):
    """A recording that cannot be read."""


@dataclass(frozen=True)
class FrameRecord:
    """One classified frame; a row of telemetry.csv. Not measured = NaN, no label = ''.

    time_s: when its label was published, since the scenario began (negative: while preparing).
    stamp_ns: the image header's stamp, which all messages about a frame carry.
    phase: the scenario's phase at that time; has_competitor: the competing process was running.
    max_latency_ms, min_accuracy: constraints in force for this frame.
    Cumulative since the classifier's start: dropped_frames, rejected_frames, switch_count.
    """

    time_s: float
    stamp_ns: int
    sequence: int
    phase: str
    has_competitor: bool
    truth: str
    label: str
    score: float
    level: int
    level_count: int
    level_accuracy: float
    level_latency_ms: float
    inference_ms: float
    preprocess_ms: float
    postprocess_ms: float
    processing_ms: float
    queue_wait_ms: float
    end_to_end_ms: float
    input_age_ms: float
    predicted_latency_ms: float
    max_latency_ms: float
    min_accuracy: float
    slowdown: float
    is_contended: bool
    is_feasible: bool
    dropped_frames: int
    rejected_frames: int
    switch_count: int
    throughput_hz: float
    device_load: float
    device_temperature_celsius: float
    device_power_w: float

    @property
    def is_correct(self) -> bool | None:
        """Whether the label is the truth; None when the truth is unknown."""
        return self.label == self.truth if self.truth else None

    @property
    def is_violation(self) -> bool:
        """Whether inference took longer than the limit in force; False without a limit."""
        return self.inference_ms > self.max_latency_ms


@dataclass(frozen=True)
class SwitchRecord:
    """A change of the active level, as the classifier explained it on ~/active_level."""

    time_s: float
    from_level: int
    to_level: int
    reason: str
    switch_ms: float = NAN
    is_feasible: bool = True


@dataclass(frozen=True)
class LevelRecord:
    """One line of the look-up table that the classifier published on ~/levels."""

    index: int
    name: str
    resolution: int
    accuracy: float
    latency_ms: float
    latency_p95_ms: float


@dataclass(frozen=True)
class Recording:
    """Everything a run measured, in the order of time.

    phase_starts_s: name and start of each phase that was played; end_s: when the run ended.
    published_frames: labelled frames that the camera announced during the run.
    """

    frames: tuple[FrameRecord, ...]
    switches: tuple[SwitchRecord, ...] = ()
    levels: tuple[LevelRecord, ...] = ()
    phase_starts_s: tuple[tuple[str, float], ...] = ()
    end_s: float = NAN
    family: str = ''
    platform: str = ''
    published_frames: int = 0
    conditions: dict[str, str] = field(default_factory=dict)


def write_frames(frames: Iterable[FrameRecord], path: Path) -> None:
    """Write one row per frame; `is_correct` and `is_violation` are added for spreadsheets."""
    names = [f.name for f in fields(FrameRecord)]
    with replacing(path) as temporary, temporary.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow([*names, 'is_correct', 'is_violation'])
        for frame in frames:
            correct = frame.is_correct
            row = [_to_text(getattr(frame, name)) for name in names]
            row += ['' if correct is None else _to_text(correct), _to_text(frame.is_violation)]
            writer.writerow(row)


def read_frames(path: str | Path) -> tuple[FrameRecord, ...]:
    """Read what `write_frames` wrote; raise RecordingError naming file, line and column."""
    path = Path(path)
    try:
        with path.open(newline='', encoding='utf-8') as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise RecordingError(f'{path} does not exist') from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordingError(f'{path} cannot be read as CSV: {error}') from None
    return tuple(_frame_of(row, path, line) for line, row in enumerate(rows, start=2))


def phases_of(frames: Sequence[FrameRecord]) -> tuple[tuple[str, float, float], ...]:
    """Return (name, first time, last time) in seconds of each run of frames of one phase."""
    spans: list[tuple[str, float, float]] = []
    for frame in frames:
        if spans and spans[-1][0] == frame.phase:
            spans[-1] = (frame.phase, spans[-1][1], frame.time_s)
        else:
            spans.append((frame.phase, frame.time_s, frame.time_s))
    return tuple(spans)


def competitor_spans(frames: Sequence[FrameRecord]) -> tuple[tuple[float, float], ...]:
    """Return (first, last) time in seconds of each stretch with the competing process."""
    spans: list[tuple[float, float]] = []
    was_running = False
    for frame in frames:
        if frame.has_competitor:
            spans = (
                [*spans[:-1], (spans[-1][0], frame.time_s)]
                if was_running
                else [*spans, (frame.time_s, frame.time_s)]
            )
        was_running = frame.has_competitor
    return tuple(spans)


def _to_text(value: object) -> str:
    if isinstance(value, bool):
        return '1' if value else '0'
    if isinstance(value, float):
        return '' if math.isnan(value) else f'{value:.6g}'
    return str(value)


def _frame_of(row: dict[str, Any], path: Path, line: int) -> FrameRecord:
    values: dict[str, Any] = {}
    for item in fields(FrameRecord):
        text = row.get(item.name)
        if text is None:
            raise RecordingError(f'{path}:{line}: there is no value for column {item.name}')
        try:
            values[item.name] = _PARSERS[str(item.type)](text)
        except (ValueError, KeyError):
            raise RecordingError(
                f'{path}:{line}: {item.name} is {text!r}, expected a value of type {item.type}'
            ) from None
    return FrameRecord(**values)


# Keyed by annotation, which `from __future__ import annotations` keeps as text.
_PARSERS: dict[str, Any] = {
    'int': int,
    'str': str,
    'float': lambda text: float(text) if text else NAN,
    'bool': lambda text: {'1': True, '0': False}[text],
}
