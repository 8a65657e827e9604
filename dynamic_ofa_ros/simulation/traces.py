"""Traces: the contention of a device over time, generated from a seed or read from a CSV file.

- The slowdown is the ratio of the inference latency to the uncontended latency; that at the start
  of a frame applies to the whole frame.
- The overhead is the time between arrival and result other than waiting and inference.
- During a stall, the device runs another program, and inference pauses or has to wait. A stall
adds the same time at every level, but a long frame has more stalls.

Every kind of trace draws its times and slowdowns from the seed, so that a policy cannot be tuned
to a single trace.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.simulation.steps import ALWAYS_ONE, ALWAYS_ZERO, Steps

DEFAULT_DURATION_S = 60.0
MAX_DURATION_S = 86400.0
MIN_SLOWDOWN, MAX_SLOWDOWN = 0.01, 1000.0
MAX_OVERHEAD_MS = 10000.0
COLUMNS = ('time_ms', 'slowdown')
OVERHEAD_COLUMN = 'overhead_ms'

ONE_ROW_DURATION_MS = 10000.0
"""Duration of a CSV trace with a single row."""

GRID_MS = 10.0
"""Resolution of the kinds that change continuously."""

SLOT_MS = 20.0
"""Period of random values of bimodal contention; shorter than a frame, so that frames are
independent."""

GPU_CLOCKS_MHZ = (1109.25, 1007.25, 956.25, 905.25, 854.25, 803.25)
"""The upper clock rates of the Jetson Xavier NX's GPU (NVIDIA, Jetson Linux: nvpmodel)."""


Stalls = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Trace:
    """The contention of a device from 0 ms to `duration_ms`.

    overhead_ms: delay between inference and result. stalls_ms: (begin, end) of the stalls,
    ascending and not overlapping.
    """

    name: str
    slowdown: Steps
    duration_ms: float
    overhead_ms: Steps = ALWAYS_ZERO
    stalls_ms: Stalls = ()

    def __post_init__(self) -> None:
        _check_duration(self.name, self.duration_ms / 1e3)

    def at(self, time_ms: float) -> float:
        """Return the slowdown at a time."""
        return self.slowdown.at(time_ms)

    def duration_of_ms(self, start_ms: float, work_ms: float) -> float:
        """Return the duration of work that takes `work_ms` without stalls."""
        lasts_ms = work_ms
        index = bisect_right(self.stalls_ms, start_ms, key=lambda stall: stall[1])
        while index < len(self.stalls_ms) and self.stalls_ms[index][0] < start_ms + lasts_ms:
            begin_ms, end_ms = self.stalls_ms[index]
            lasts_ms += end_ms - max(begin_ms, start_ms)
            index += 1
        return lasts_ms


def trace_kinds() -> tuple[str, ...]:
    """Return the kinds of traces that `make_trace` can generate."""
    return tuple(_KINDS)


def make_trace(kind: str, seed: int = 1, duration_s: float = DEFAULT_DURATION_S) -> Trace:
    """Generate a trace; the same kind, seed and duration give the same trace.

    Raise SimulationError if the kind is unknown or the duration is invalid.
    """
    if kind not in _KINDS:
        raise SimulationError(
            f'there is no kind of trace {kind!r}; it must be one of: {", ".join(_KINDS)}'
        )
    _check_duration(kind, duration_s)
    random = np.random.default_rng([seed, *kind.encode()])
    drawn = _KINDS[kind](random, duration_s * 1e3)
    steps, stalls_ms = (drawn, ()) if isinstance(drawn, Steps) else (ALWAYS_ONE, drawn)
    return Trace(kind, steps, duration_s * 1e3, stalls_ms=stalls_ms)


def read_trace(path: str | Path) -> Trace:
    """Read a trace from a UTF-8 CSV file with the columns time_ms, slowdown and overhead_ms.

    overhead_ms is optional, and other columns are ignored. Times are relative to the first row.
    Each row is valid until the next one, the last row as long as the one before it; a single row
    lasts 10 s. Raise SimulationError, with the number of the line, if the file is invalid.
    """
    path = Path(path)
    try:
        with path.open(encoding='utf-8-sig', newline='') as file:
            rows = _read_rows(path, csv.DictReader(file))
    except OSError as error:
        raise SimulationError(f'{path} cannot be read: {error.strerror or error}') from None
    except UnicodeDecodeError as error:
        raise SimulationError(
            f'{path} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8'
        ) from None
    except csv.Error as error:
        raise SimulationError(f'{path} is not a CSV file: {error}') from None
    origin_ms, last_ms = rows[0][0], rows[-1][0]
    hold_ms = last_ms - rows[-2][0] if len(rows) > 1 else ONE_ROW_DURATION_MS
    duration_ms = last_ms - origin_ms + hold_ms
    _check_duration(str(path), duration_ms / 1e3)
    times_ms = tuple(time_ms - origin_ms for time_ms, _, _ in rows)
    return Trace(
        path.stem,
        Steps(times_ms, tuple(slowdown for _, slowdown, _ in rows)),
        duration_ms,
        overhead_ms=Steps(times_ms, tuple(overhead_ms for _, _, overhead_ms in rows)),
    )


def _check_duration(name: str, duration_s: float) -> None:
    if not 0.0 < duration_s <= MAX_DURATION_S:
        raise SimulationError(
            f'trace {name} lasts {duration_s:g} s; the duration must lie in '
            f'(0, {MAX_DURATION_S:g}] s'
        )


def _read_rows(path: Path, rows: csv.DictReader[str]) -> list[tuple[float, float, float]]:
    """Return (time, slowdown, overhead) of each row."""
    header = [name.strip() for name in rows.fieldnames or ()]
    if not header:
        raise SimulationError(f'{path} is empty; a trace requires the columns time_ms,slowdown')
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise SimulationError(
            f'{path}: the first line has no column {" and no column ".join(missing)}; '
            f'it has {", ".join(header)}, but a trace requires time_ms,slowdown'
        )
    rows.fieldnames = header
    found: list[tuple[float, float, float]] = []
    for row in rows:
        where = f'{path}, line {rows.line_num}'
        time_ms = _number(where, 'time_ms', row['time_ms'])
        slowdown = _number(
            where, 'slowdown', row['slowdown'], MIN_SLOWDOWN, MAX_SLOWDOWN, ' (1: no contention)'
        )
        overhead_ms = (
            _number(where, OVERHEAD_COLUMN, row[OVERHEAD_COLUMN], 0.0, MAX_OVERHEAD_MS)
            if OVERHEAD_COLUMN in header
            else 0.0
        )
        if found and time_ms <= found[-1][0]:
            raise SimulationError(
                f'{where}: time_ms is {time_ms:g} after {found[-1][0]:g}; times must ascend'
            )
        found.append((time_ms, slowdown, overhead_ms))
    if not found:
        raise SimulationError(f'{path} has no row below its header; a trace requires at least one')
    return found


def _number(
    where: str,
    name: str,
    text: str | None,
    low: float = -math.inf,
    high: float = math.inf,
    note: str = '',
) -> float:
    """Return a cell as a number; `text` is None if the row is too short."""
    try:
        value = float(text or '')
    except ValueError:
        raise SimulationError(
            f'{where}: {name} is {(text or "").strip()!r}; it must be a number'
        ) from None
    if not math.isfinite(value):
        raise SimulationError(f'{where}: {name} is {value:g}; it must be finite')
    if not low <= value <= high:
        raise SimulationError(
            f'{where}: {name} is {value:g}; it must lie in [{low:g}, {high:g}]{note}'
        )
    return value


def _none(random: np.random.Generator, duration_ms: float) -> Steps:
    return ALWAYS_ONE


def _step(random: np.random.Generator, duration_ms: float) -> Steps:
    """Return a single interval of contention."""
    begin, end = random.uniform(0.2, 0.4), random.uniform(0.6, 0.8)
    height = random.uniform(1.12, 1.4)
    return Steps.of([(0.0, 1.0), (begin * duration_ms, height), (end * duration_ms, 1.0)])


def _ramp(random: np.random.Generator, duration_ms: float) -> Steps:
    """Return contention that rises, stays constant and falls, each for a third of the time."""
    times_ms = np.arange(0.0, duration_ms, GRID_MS)
    height = random.uniform(1.15, 1.4)
    begin, top = random.uniform(0.05, 0.15), random.uniform(0.35, 0.45)
    leave, end = random.uniform(0.55, 0.65), random.uniform(0.85, 0.95)
    corners = np.asarray([0.0, begin, top, leave, end, 1.0]) * duration_ms
    return _sampled(times_ms, np.interp(times_ms, corners, [1.0, 1.0, height, height, 1.0, 1.0]))


def _burst(random: np.random.Generator, duration_ms: float) -> Steps:
    """Return short contention at random times, which is sometimes too high for every level."""
    pairs, time_ms = [(0.0, 1.0)], 0.0
    while True:
        time_ms += 500.0 + random.exponential(4000.0)
        length_ms = random.uniform(300.0, 2000.0)
        if time_ms + length_ms >= duration_ms:
            return Steps.of(pairs)
        pairs += [(time_ms, random.uniform(1.15, 1.6)), (time_ms + length_ms, 1.0)]
        time_ms += length_ms


def _periodic(random: np.random.Generator, duration_ms: float) -> Steps:
    """Return periodic contention."""
    period_ms, share = random.uniform(4000.0, 10000.0), random.uniform(0.4, 0.6)
    height = random.uniform(1.12, 1.4)
    starts_ms = np.arange(random.uniform(0.2, 0.8) * period_ms, duration_ms, period_ms)
    pairs = [(0.0, 1.0)]
    for start_ms in starts_ms:
        pairs += [(float(start_ms), height), (float(start_ms) + share * period_ms, 1.0)]
    return Steps.of(pairs)


def _random_walk(random: np.random.Generator, duration_ms: float) -> Steps:
    """Return a random walk of the log-slowdown, reflected at 0 and log 1.4."""
    times_ms = np.arange(0.0, duration_ms, GRID_MS)
    top = math.log(1.4)
    walk = np.cumsum(random.normal(0.0, 0.009, times_ms.size)) + random.uniform(0.0, top)
    folded = np.abs((walk + top) % (2.0 * top) - top)
    return _sampled(times_ms, np.exp(folded))


def _bimodal(random: np.random.Generator, duration_ms: float) -> Steps:
    """Return slowdowns of frames that do or do not collide with another process's time slice."""
    times_ms = np.arange(0.0, duration_ms, SLOT_MS)
    share, height = random.uniform(0.1, 0.4), random.uniform(1.12, 1.32)
    return _sampled(times_ms, np.where(random.random(times_ms.size) < share, height, 1.0))


def _second_model(random: np.random.Generator, duration_ms: float) -> Steps:
    """Return the slowdown by another classifier, which runs for part of the time.

    The slowdown is averaged over 50 ms, because a frame overlaps with several frames of the other
    classifier.
    """
    times_ms = np.arange(0.0, duration_ms, GRID_MS)
    period_ms, busy_ms = random.uniform(60.0, 110.0), random.uniform(35.0, 55.0)
    begin_ms = random.uniform(0.15, 0.3) * duration_ms
    end_ms = random.uniform(0.7, 0.85) * duration_ms
    is_there = (times_ms >= begin_ms) & (times_ms < end_ms)
    is_busy = is_there & ((times_ms - begin_ms) % period_ms < busy_ms)
    extra = random.uniform(0.3, 0.6) * is_busy
    summed = np.concatenate([[0.0], np.cumsum(extra)])
    window = round(50.0 / GRID_MS)
    ends = np.minimum(np.arange(times_ms.size) + window, times_ms.size)
    return _sampled(times_ms, 1.0 + (summed[ends] - summed[: times_ms.size]) / window)


def _frequency(random: np.random.Generator, duration_ms: float) -> Steps:
    """Return slowdowns from a clock rate that changes every few seconds."""
    pairs, time_ms = [(0.0, 1.0)], 0.0
    while True:
        time_ms += random.uniform(2000.0, 8000.0)
        if time_ms >= duration_ms:
            return Steps.of(pairs)
        clock_mhz = GPU_CLOCKS_MHZ[int(random.integers(len(GPU_CLOCKS_MHZ)))]
        pairs.append((time_ms, GPU_CLOCKS_MHZ[0] / clock_mhz))


def _stalls(random: np.random.Generator, duration_ms: float) -> Stalls:
    """Return stalls at random times during an interval of at least 30 % of the duration.

    There are 2 to 8 stalls per second, all of the same length between 4 and 15 ms.
    """
    time_ms, leave_ms = (random.uniform(*part) * duration_ms for part in ((0.2, 0.3), (0.6, 0.8)))
    length_ms, gap_ms = random.uniform(4.0, 15.0), 1000.0 / random.uniform(2.0, 8.0)
    stalls_ms = []
    while (time_ms := time_ms + random.exponential(gap_ms - length_ms)) < leave_ms:
        stalls_ms.append((time_ms, time_ms + length_ms))
        time_ms += length_ms
    return tuple(stalls_ms)


def _sampled(
    times_ms: np.ndarray[tuple[int], np.dtype[np.float64]],
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> Steps:
    return Steps(tuple(times_ms.tolist()), tuple(values.tolist()))


_KINDS: dict[str, Callable[[np.random.Generator, float], Steps | Stalls]] = {
    'none': _none,
    'step': _step,
    'ramp': _ramp,
    'burst': _burst,
    'periodic': _periodic,
    'random_walk': _random_walk,
    'bimodal': _bimodal,
    'second_model': _second_model,
    'frequency': _frequency,
    'stalls': _stalls,
}
