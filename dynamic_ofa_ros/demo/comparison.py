"""Three runs against each other: late, right, right and on time; a sentence and a document."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dynamic_ofa_ros import adaptation
from dynamic_ofa_ros.adaptation import Delay
from dynamic_ofa_ros.demo.recording import FrameRecord, SwitchRecord
from dynamic_ofa_ros.files import write_text_atomically

NAN = math.nan
CONFIDENCE = 0.95
FORMAT, VERSION = 'dynamic_ofa_demo', 2

HIGHEST, LOWEST, SWITCHING = 'highest level', 'lowest level', 'switching'


@dataclass(frozen=True)
class Run:
    """What was seen of one run. Times are seconds since it began.

    loads: when the competitor was busy; marks: times and names of phases that have one.
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
    """What a run amounts to. Shares are of all images; NaN where nothing was measured.

    late: answered after the limit or never. right_on_time: answered rightly within the limit;
    right: rightly, of the answered ones, late or not; both of the images whose truth is known and
    of those without an answer. reaction and recovery: as in `adaptation`.
    quiet_switches: before the first load, where nothing happens. back_at_top: whether the highest
    level ran at the end.
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
    """Return what a run amounts to; of no frames at all, too."""
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
    """Return the 95 % interval (Wilson) of a share of `count` images; (0, 1) for none."""
    if not count:
        return 0.0, 1.0
    from scipy.stats import binomtest

    result = binomtest(round(share * count), count).proportion_ci(CONFIDENCE, method='wilson')
    return float(result.low), float(result.high)


def sentence(measures: Mapping[str, Measures]) -> str:
    """Return the result in one sentence; `right` is right and on time there."""
    highest, lowest, switching = (measures[title] for title in (HIGHEST, LOWEST, SWITCHING))
    return (
        f'highest level: {percent(highest.late)} late; '
        f'lowest: {percent(lowest.right_on_time)} right; '
        f'switching: {percent(switching.late)} late, {percent(switching.right_on_time)} right'
    )


def defeat(measures: Mapping[str, Measures], busy_before: float) -> str:
    """Return, where switching did not win, that it did not and what may be the reason; else ''.

    busy_before: the share of the processors that others used before the demo.
    """
    best = max((HIGHEST, LOWEST), key=lambda title: measures[title].right_on_time)
    if measures[SWITCHING].right_on_time > measures[best].right_on_time:
        return ''
    return (
        f'Switching did not win here: {percent(measures[SWITCHING].right_on_time)} right and on '
        f'time, the {best} {percent(measures[best].right_on_time)}; the machine may be busy '
        f'(others used {busy_before:.0%} of it before the demo).'
    )


def write_summary(document: Mapping[str, Any], runs: Sequence[Run], path: Path) -> None:
    """Write what is known of a demo and of its runs as JSON; what was not measured is null."""
    described = []
    for run in runs:
        measures = measure(run)
        described.append(
            {
                'title': run.title,
                'seconds': run.seconds,
                'loads_s': run.loads,
                **asdict(measures),
                'late_interval': interval(measures.late, measures.images),
                'right_on_time_interval': interval(measures.right_on_time, measures.images),
                'switches_explained': [asdict(switch) for switch in run.switches],
            }
        )
    whole = {'format': FORMAT, 'version': VERSION, **document, 'runs': described}
    text = json.dumps(_without_nan(whole), indent=2, ensure_ascii=False, allow_nan=False)
    write_text_atomically(path, text + '\n')


def percent(share: float) -> str:
    """Return a share in words; a dash where it is not known."""
    return '-' if math.isnan(share) else f'{100.0 * share:.1f} %'


def _recovery(answered: Sequence[FrameRecord], onset_s: float, relief_s: float) -> Delay | None:
    before = [frame.level_accuracy for frame in answered if frame.time_s < onset_s]
    if not before:
        return None
    frames = [frame.by_level for frame in answered]
    return adaptation.recovery(frames, 1e3 * relief_s, before[-1])


def _or_nan(value: float | None) -> float:
    return NAN if value is None else value


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
