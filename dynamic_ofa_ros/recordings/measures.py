"""Measures of a run of one classifier: late and right images, switches, delays."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dynamic_ofa_ros import adaptation
from dynamic_ofa_ros.adaptation import Delay
from dynamic_ofa_ros.recordings.frames import FrameRecord, SwitchRecord

NAN = math.nan
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Run:
    """One run of a classifier. Times are seconds since its begin.

    loads: begin and end of each load; marks: begin and name of each phase.
    """

    title: str
    seconds: float
    frames: Sequence[FrameRecord]
    switches: Sequence[SwitchRecord] = ()
    loads: Sequence[tuple[float, float]] = ()
    marks: Sequence[tuple[float, str]] = ()
    level_count: int = 1


@dataclass(frozen=True)
class Measures:
    """Measures of a run. Shares are of all images; NaN if nothing was measured.

    late: share of images answered after the limit or never. right: share of right answers, late or
    not, among the answered images whose truth is known. right_on_time: share of images answered
    rightly within the limit, among those whose truth is known and those without an answer.
    quiet_switches: switches before the first load. back_at_top: whether the highest level ran at
    the end. reaction and recovery: see `adaptation`.
    """

    images: int
    answered: int
    late: float
    late_loaded: float
    right: float
    right_on_time: float
    p50_ms: float
    p95_ms: float
    levels: dict[int, int]
    switches: int
    quiet_switches: int
    back_at_top: bool
    reaction: Delay | None
    recovery: Delay | None


def measure(run: Run) -> Measures:
    """Return the measures of a run, which may have no frames."""
    frames = run.frames
    timed = [frame.timed for frame in frames]
    answered = [frame for frame in frames if frame.is_answered]
    has_truth = any(frame.truth for frame in frames)
    judged = [f.timed for f in frames if has_truth and (f.truth or not f.is_answered)]
    levels = [frame.level for frame in answered]
    p50_ms, p95_ms = (
        np.quantile([frame.latency_ms for frame in answered], (0.5, 0.95))
        if answered
        else (NAN, NAN)
    )
    onset_s, relief_s = run.loads[0] if run.loads else (math.inf, math.inf)
    return Measures(
        images=len(frames),
        answered=len(answered),
        late=_or_nan(adaptation.late_share(timed)),
        late_loaded=_or_nan(adaptation.late_share([f.timed for f in frames if f.is_loaded])),
        right=_or_nan(adaptation.mean_accuracy(judged)),
        right_on_time=_or_nan(adaptation.on_time_accuracy(judged)),
        p50_ms=float(p50_ms),
        p95_ms=float(p95_ms),
        levels=dict(sorted(Counter(levels).items())),
        switches=adaptation.switch_count(levels),
        quiet_switches=sum(
            before.level != after.level
            for before, after in pairwise(answered)
            if after.time_s < onset_s
        ),
        back_at_top=bool(levels) and levels[-1] == run.level_count,
        reaction=adaptation.reaction(
            [f for f in timed if f.time_ms < 1e3 * relief_s], 1e3 * onset_s
        ),
        recovery=_recovery(answered, onset_s, relief_s),
    )


def interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share of `count` images; (0, 1) if there are none."""
    if not count:
        return 0.0, 1.0
    from scipy.stats import binomtest

    result = binomtest(round(share * count), count).proportion_ci(CONFIDENCE, method='wilson')
    return float(result.low), float(result.high)


def percent(share: float) -> str:
    """Return a share as text; a dash if it is unknown."""
    return '-' if math.isnan(share) else f'{100.0 * share:.1f} %'


def _recovery(answered: Sequence[FrameRecord], onset_s: float, relief_s: float) -> Delay | None:
    before = [frame.level_accuracy for frame in answered if frame.time_s < onset_s]
    if not before:
        return None
    frames = [frame.by_level for frame in answered]
    return adaptation.recovery(frames, 1e3 * relief_s, before[-1])


def _or_nan(value: float | None) -> float:
    return NAN if value is None else value
