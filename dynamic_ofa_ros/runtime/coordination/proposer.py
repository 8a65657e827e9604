"""Propose the levels of all models on a device.

After an external change (of a model, a limit, an importance, or a frame rate), the combination
with the best prediction is used. If frames are late more often than allowed, the combination and
all heavier ones are excluded for a time, and a lighter one is used at once. If all models are on
time, a better combination is tried: soon after a change, if its slowdown may be low enough; later,
if the latencies measured at the present combination support it. If frames are late in a trial, the
combination before it is used again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from dynamic_ofa_ros.adaptation import is_late
from dynamic_ofa_ros.runtime.coordination.sharing import (
    NEVER_MS,
    FloatArray,
    IntArray,
    Levels,
    Sharing,
    members,
    of_levels,
)
from dynamic_ofa_ros.runtime.coordination.status import Agreement, Status

EARLY_NS, EARLY_HOLD_NS = 1_500_000_000, 300_000_000
HOLD_NS, FALL_HOLD_NS, PAUSE_NS = 6_000_000_000, 1_000_000_000, 1_000_000_000
"""Initial time after an external change, and hold time of a combination during it; later: hold
time; hold time after late frames outside a trial; time between two searches for a trial."""

TRUSTED_FRAMES = 15
"""A measured quantile below the prediction is trusted from this number of frames."""

EXCLUDED_NS, MAX_EXCLUDED_NS = 10_000_000_000, 80_000_000_000
"""Time for which a combination with late frames, and all heavier ones, are excluded; every further
failure doubles it up to a maximum."""

OPTIMISM, WORTHWHILE = 1.0, 0.001
"""Early trials assume a slowdown this many standard deviations lower than predicted. Minimum gain
of weighted accuracy (a fraction) for a trial."""

RELIEF = 0.05
"""If frames are late other than in a trial, latencies must be predicted to decrease by this much
(log) more than needed."""

OUTLIER = 1.5
"""A frame is an outlier if it takes more than this many times longer than the second longest."""

ENOUGH_FRAMES, SLACK, UNAVOIDABLE_NS = 20, 0.04, 60_000_000_000
"""Number of frames for measuring the share of late frames at the lowest levels, the additional
share that is then allowed at other levels, and for how long."""

STUBBORN_AFTER_NS, STUBBORN_NS = 800_000_000, 30_000_000_000
"""A model that does not run its agreed level after the first time is assumed to stay at its level
for the second time."""

LIMIT_CHANGE, INTERVAL_CHANGE = 1.1, 1.5
"""Changes of a limit or of a frame interval by larger factors are external changes."""


def ladder(status: Status) -> list[int]:
    """Return the Pareto-optimal levels, in ascending order: a slower level is more accurate.

    If accuracy has priority, return only the levels that meet the accuracy floor; if there are
    none, the most accurate level.
    """
    found: list[int] = []
    order = zip(status.latencies_ms, (-accuracy for accuracy in status.accuracies), strict=True)
    for level, _ in sorted(enumerate(order, start=1), key=lambda entry: entry[1]):
        if not found or status.accuracies[level - 1] > status.accuracies[found[-1] - 1]:
            found.append(level)
    if status.priority == 'accuracy':
        found = [n for n in found if status.accuracies[n - 1] >= status.floor] or found[-1:]
    return found


def search(
    sharing: Sharing,
    everyone: Sequence[Status],
    ladders: Sequence[Sequence[int]],
    excluded: Sequence[Levels] = (),
    margin: FloatArray | float = 0.0,
    optimism: float = 0.0,
) -> Levels:
    """Return the most accurate levels that meet the limits, or else the least late ones.

    Starting from the lowest levels, the best levels of each pair of models are searched while the
    others keep theirs. excluded: these combinations and heavier ones are used only if there is no
    other. margin, optimism: see `Sharing.excess`.
    """
    levels = tuple(choices[0] for choices in ladders)
    bounds = np.array(excluded, dtype=int).reshape(-1, len(levels))
    bounds_ms = of_levels([s.latencies_ms for s in everyone], bounds)
    pairs = list(itertools.combinations(range(len(levels)), min(2, len(levels))))
    for _ in levels:
        before = levels
        for pair in pairs:
            free = [c if i in pair else [levels[i]] for i, c in enumerate(ladders)]
            every = np.array(list(itertools.product(*free)))
            late = np.maximum(sharing.excess(everyone, every, optimism) + margin, 0.0).sum(axis=1)
            own_ms = of_levels([s.latencies_ms for s in everyone], every)
            heavier = np.any(np.all(own_ms[:, None] >= bounds_ms, axis=2), axis=1)
            accuracy = weighted_accuracy(everyone, every)
            best = np.lexsort((-accuracy, np.round(late, 9), heavier))[0]
            levels = tuple(int(n) for n in every[best])
        if levels == before:
            break
    return levels


class Proposer:
    """Finds the levels for all models; used by the manager with the first name."""

    def __init__(self) -> None:
        self._sharing = Sharing()
        self._known: Sequence[Status] = ()  # statuses at the last change
        self._target: Levels = ()
        self._before: Levels = ()
        self._hold_ns = HOLD_NS
        self._stubborn: dict[str, tuple[int, int]] = {}  # level and end of the time, by name
        self._is_trial = False
        self._round = self._moved_ns = self._off_since_ns = 0
        self._reset(0)

    def _reset(self, time_ns: int) -> None:
        self._changed_ns = self._learnt_ns = self._searched_ns = time_ns
        self._excluded: dict[Levels, tuple[int, int]] = {}  # end and duration of the exclusion
        self._unavoidable: dict[str, float] = {}

    def propose(self, everyone: Sequence[Status], time_ns: int, last_round: int) -> Agreement:
        """Return the agreement for all models. last_round: the highest known round."""
        self._round = max(self._round, last_round)
        is_changed = self._detect_change(everyone, time_ns)
        self._sharing.take(everyone)
        is_changed |= self._detect_stubborn(everyone, time_ns)
        best = self._choose(everyone, time_ns, is_changed)
        if best != self._target:
            self._target, self._round, self._moved_ns = best, self._round + 1, time_ns
        return Agreement(self._round, tuple(zip((s.name for s in everyone), best, strict=True)))

    def _detect_change(self, everyone: Sequence[Status], time_ns: int) -> bool:
        """Detect external changes; return whether a new choice is required."""
        if members(everyone) != self._sharing.members:
            self._sharing = Sharing(everyone, self._sharing)
            self._target, self._is_trial = (), False
        pairs = list(zip(everyone, self._known, strict=False))
        is_other_limit = len(everyone) != len(self._known) or any(
            _is_other(s.limit_ms, known.limit_ms, LIMIT_CHANGE) for s, known in pairs
        )
        is_changed = is_other_limit or any(s.wishes != known.wishes for s, known in pairs)
        if is_changed or any(
            _is_other(s.interval_ms, known.interval_ms, INTERVAL_CHANGE) for s, known in pairs
        ):
            self._known, before = everyone, (self._changed_ns, self._excluded)
            self._reset(time_ns)
            if not is_other_limit:
                self._excluded = before[1]
            if not is_changed:
                self._changed_ns = before[0]
        return is_changed

    def _detect_stubborn(self, everyone: Sequence[Status], time_ns: int) -> bool:
        """Detect models that do not switch to their agreed level; return whether one was found."""
        if not self._target:
            return False
        at = {s.name: s.level for s in everyone}
        self._stubborn = {
            name: (level, until_ns)
            for name, (level, until_ns) in self._stubborn.items()
            if at.get(name) == level and time_ns < until_ns
        }
        off = {name for name, n in zip(at, self._target, strict=True) if at[name] != n}
        self._off_since_ns = min(self._off_since_ns, time_ns) if off else time_ns
        is_stuck = time_ns - max(self._off_since_ns, self._moved_ns) > STUBBORN_AFTER_NS
        if is_stuck:
            self._stubborn |= {name: (at[name], time_ns + STUBBORN_NS) for name in off}
        return is_stuck

    def _choose(self, everyone: Sequence[Status], time_ns: int, is_changed: bool) -> Levels:
        """Return the levels to run: the same, lighter ones if frames are late, or a trial."""
        ladders = [
            [self._stubborn[s.name][0]] if s.name in self._stubborn else ladder(s)
            for s in everyone
        ]
        now = self._target
        if not now:
            self._is_trial = False
            return search(self._sharing, everyone, ladders)
        if time_ns - self._learnt_ns > UNAVOIDABLE_NS:
            self._unavoidable = {}
        frames_ms = self._frames_ms(everyone)
        measured = self._excess(everyone, frames_ms)
        error = measured - self._sharing.excess(everyone, np.array(now))
        is_known = np.array([len(ms) >= TRUSTED_FRAMES for ms in frames_ms])
        surplus = np.where(is_known & np.isfinite(error), np.minimum(error, 0.0), 0.0)
        excluded = [n for n, (end_ns, _) in self._excluded.items() if time_ns < end_ns]
        is_early = time_ns - self._changed_ns < EARLY_NS
        if is_changed:
            self._is_trial = False
            return search(self._sharing, everyone, ladders, excluded, surplus)
        if (measured > 0.0).any():
            if now == tuple(choices[0] for choices in ladders):
                self._learn_unavoidable(everyone, frames_ms, time_ns)
                return now
            _, last_ns = self._excluded.get(now, (0, EXCLUDED_NS // 2))
            excluded_ns = min(2 * last_ns, MAX_EXCLUDED_NS)
            self._excluded[now] = time_ns + excluded_ns, excluded_ns
            was_trial, self._is_trial = self._is_trial, False
            self._hold_ns = HOLD_NS if was_trial else FALL_HOLD_NS
            if was_trial and self._before:
                return self._before
            if not is_early:
                ladders = _below(everyone, ladders, now)
            margin = max(float(error[measured > 0.0].max()), 0.0) + RELIEF
            return search(self._sharing, everyone, ladders, [*excluded, now], margin)
        hold_ns, pause_ns = (EARLY_HOLD_NS,) * 2 if is_early else (self._hold_ns, PAUSE_NS)
        since_ns = max(self._moved_ns + hold_ns, self._searched_ns + pause_ns)
        if time_ns < since_ns or not all(frames_ms):
            return now
        self._searched_ns = time_ns
        optimism = OPTIMISM if is_early else 0.0
        best = search(self._sharing, everyone, ladders, excluded, surplus, optimism)
        accuracy, before = weighted_accuracy(everyone, np.array([best, now]))
        if accuracy <= before + WORTHWHILE:
            return now
        self._is_trial, self._hold_ns = True, HOLD_NS
        self._before = now if is_known.all() else ()
        return best

    def _frames_ms(self, everyone: Sequence[Status]) -> list[list[float]]:
        """Return the latencies of each model's frames since all models run the target levels."""
        if any(s.level != n for s, n in zip(everyone, self._target, strict=True)):
            return [[] for _ in everyone]
        frames = [
            [f for f in kept if f.start_ns > self._moved_ns and f.level == n]
            for kept, n in zip(self._sharing.frames, self._target, strict=True)
        ]
        since_ns = max((found[0].start_ns for found in frames if found), default=0)
        return [[f.latency_ms for f in found if f.start_ns >= since_ns] for found in frames]

    def _allowed(self, status: Status, frames_ms: Sequence[float]) -> int:
        """Return how many frames may be late: the allowed share, or one as an outlier."""
        count = len(frames_ms)
        last = sorted(frames_ms)[-2:]
        outliers = int(count > 1 and last[-1] > OUTLIER * last[0])
        if status.name in self._unavoidable:
            outliers = 1 + int(self._unavoidable[status.name] * count)
        return max(int((1.0 - status.quantile) * count), outliers)

    def _excess(
        self, everyone: Sequence[Status], frames_ms: Sequence[Sequence[float]]
    ) -> FloatArray:
        """Return the log of the ratio of the measured quantile to the limit, (models,).

        Without enough frames, it is -inf.
        """
        found = np.full(len(everyone), -np.inf)
        for i, (s, ms) in enumerate(zip(everyone, frames_ms, strict=True)):
            allowed = self._allowed(s, ms)
            if len(ms) > allowed:
                found[i] = math.log(sorted(ms)[-1 - allowed] / min(s.limit_ms, NEVER_MS))
        return found

    def _learn_unavoidable(
        self, everyone: Sequence[Status], frames_ms: Sequence[Sequence[float]], time_ns: int
    ) -> None:
        """Measure how often frames are late at the lowest levels, which no choice can avoid.

        Combinations that were left because of such frames can be tried again.
        """
        if min(map(len, frames_ms)) >= ENOUGH_FRAMES:
            self._learnt_ns = self._searched_ns = time_ns
            self._excluded = {}
            for s, found in zip(everyone, frames_ms, strict=True):
                share = sum(is_late(ms, s.limit_ms) for ms in found) / len(found)
                self._unavoidable[s.name] = share + SLACK


def _below(
    everyone: Sequence[Status], ladders: Sequence[Sequence[int]], levels: Levels
) -> list[list[int]]:
    """Return the ladders without the levels that are slower than `levels`."""
    return [
        [n for n in choices if s.latencies_ms[n - 1] <= s.latencies_ms[level - 1]] or [choices[0]]
        for s, choices, level in zip(everyone, ladders, levels, strict=True)
    ]


def weighted_accuracy(everyone: Sequence[Status], levels: IntArray) -> FloatArray:
    """Return the sum of the accuracies of combinations, weighted by importance, (...)."""
    weight = np.array([s.importance for s in everyone])
    found: FloatArray = of_levels([s.accuracies for s in everyone], levels) @ weight / weight.sum()
    return found


def _is_other(one: float, other: float, factor: float) -> bool:
    return max(one, other) > factor * min(one, other)
