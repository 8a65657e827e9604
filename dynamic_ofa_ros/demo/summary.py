"""What a run amounts to: accuracy, latency, violations and reaction time, per phase and in all."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.demo.recording import FrameRecord, Recording, SwitchRecord
from dynamic_ofa_ros.files import write_text_atomically

NAN = math.nan
FORMAT = 'dynamic_ofa_demo_summary'
VERSION = 1

Z_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Reaction:
    """The longest run of violating frames: from its first frame to the first that met the limit.

    frames: violating frames in the run; ms: time between those two frames (to the phase's last
    frame when the limit was not met again: then `is_over` is False).
    """

    frames: int
    ms: float
    is_over: bool


@dataclass(frozen=True)
class PhaseSummary:
    """One phase (or the whole run). Latencies are of inference; NaN where nothing was measured.

    correct of known: frames labelled as the truth, of those whose truth arrived.
    limit_ms: the limit in force at the phase's end, NaN = none. levels: frames per active level.
    dropped: frames the classifier replaced by newer ones; switches: changes of the level.
    """

    name: str
    start_s: float
    end_s: float
    frames: int
    known: int
    correct: int
    expected_accuracy: float
    levels: dict[int, int]
    p50_ms: float
    p95_ms: float
    limit_ms: float
    violations: int
    dropped: int
    switches: int
    slowdown: float
    reaction: Reaction | None

    @property
    def accuracy(self) -> float:
        """Return the share of correct labels; NaN without a known truth."""
        return self.correct / self.known if self.known else NAN


@dataclass(frozen=True)
class Summary:
    """A run: its phases and all of it."""

    phases: tuple[PhaseSummary, ...]
    whole: PhaseSummary
    recording: Recording


def summarise(recording: Recording) -> Summary:
    """Compute the summary; frames before the scenario began are left out."""
    frames = tuple(frame for frame in recording.frames if frame.time_s >= 0.0)
    ends_s = [start for _, start in recording.phase_starts_s[1:]] + [recording.end_s]
    phases = []
    previous: FrameRecord | None = None
    for (name, start_s), end_s in zip(recording.phase_starts_s, ends_s, strict=True):
        # By name, not by time: frames carry the phase in force when their message was handled.
        own = tuple(frame for frame in frames if frame.phase == name)
        switches = [s for s in recording.switches if start_s <= s.time_s < end_s]
        phases.append(_summarise(name, start_s, end_s, own, switches, previous))
        previous = own[-1] if own else previous
    switches = [s for s in recording.switches if s.time_s >= 0.0]
    start_s = recording.phase_starts_s[0][1] if recording.phase_starts_s else NAN
    whole = _summarise('whole run', start_s, recording.end_s, frames, switches, None)
    return Summary(tuple(phases), whole, recording)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` (in [0, 1]) of the values do not exceed; NaN for none.

    Linear interpolation between order statistics, as numpy's default.
    """
    ordered = sorted(value for value in values if not math.isnan(value))
    if not ordered:
        return NAN
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def wilson_interval(correct: float, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, as two fractions; (0, 1) for no sample (Wilson)."""
    if total == 0:
        return 0.0, 1.0
    share = correct / total
    scale = 1.0 + Z_95**2 / total
    centre = (share + Z_95**2 / (2 * total)) / scale
    spread = share * (1.0 - share) / total + (Z_95 / (2 * total)) ** 2
    half = Z_95 * math.sqrt(spread) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def longest_reaction(frames: Sequence[FrameRecord]) -> Reaction | None:
    """Return the longest run of violations in frames ordered by time; None without a violation."""
    runs: list[Reaction] = []
    onset: FrameRecord | None = None
    count = 0
    for frame in frames:
        if frame.is_violation:
            onset = onset or frame
            count += 1
        elif onset is not None:
            runs.append(Reaction(count, (frame.time_s - onset.time_s) * 1e3, True))
            onset, count = None, 0
    if onset is not None:
        runs.append(Reaction(count, (frames[-1].time_s - onset.time_s) * 1e3, False))
    return max(runs, key=lambda run: (run.frames, run.ms), default=None)


def write_summary(summary: Summary, path: Path) -> None:
    """Write the summary as JSON; not measured is null."""
    recording = summary.recording
    document = {
        'format': FORMAT,
        'version': VERSION,
        'family': recording.family,
        'platform': recording.platform,
        'conditions': recording.conditions,
        'published_frames': recording.published_frames,
        'levels': [asdict(level) for level in recording.levels],
        'phases': [_to_document(phase) for phase in summary.phases],
        'whole_run': _to_document(summary.whole),
        'switches': [asdict(switch) for switch in recording.switches],
    }
    text = json.dumps(_without_nan(document), indent=2, ensure_ascii=False, allow_nan=False)
    write_text_atomically(path, text + '\n')


def _summarise(
    name: str,
    start_s: float,
    end_s: float,
    frames: Sequence[FrameRecord],
    switches: Sequence[SwitchRecord],
    previous: FrameRecord | None,
) -> PhaseSummary:
    known = [frame for frame in frames if frame.is_correct is not None]
    accuracies = [f.level_accuracy for f in frames if not math.isnan(f.level_accuracy)]
    slowdowns = [f.slowdown for f in frames if not math.isnan(f.slowdown)]
    # Drops are cumulative: what this phase added to what was dropped before its first frame.
    before = previous or (frames[0] if frames else None)
    dropped = frames[-1].dropped_frames - before.dropped_frames if frames and before else 0
    return PhaseSummary(
        name=name,
        start_s=start_s,
        end_s=end_s,
        frames=len(frames),
        known=len(known),
        correct=sum(frame.is_correct is True for frame in known),
        expected_accuracy=statistics.fmean(accuracies) if accuracies else NAN,
        levels=dict(sorted(Counter(frame.level for frame in frames).items())),
        p50_ms=percentile([frame.inference_ms for frame in frames], 0.5),
        p95_ms=percentile([frame.inference_ms for frame in frames], 0.95),
        limit_ms=frames[-1].max_latency_ms if frames else NAN,
        violations=sum(frame.is_violation for frame in frames),
        dropped=dropped,
        switches=len(switches),
        slowdown=statistics.median(slowdowns) if slowdowns else NAN,
        reaction=longest_reaction(frames),
    )


def _to_document(phase: PhaseSummary) -> dict[str, Any]:
    document = asdict(phase)
    document['accuracy'] = phase.accuracy
    document['levels'] = {str(level): count for level, count in phase.levels.items()}
    return document


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
