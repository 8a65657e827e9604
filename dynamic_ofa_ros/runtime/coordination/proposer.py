"""Propose the levels of all models on a device.

After an external change (of a model, a limit, an importance, or a frame rate), the combination
with the best prediction is used; new frames improve the prediction and thus the combination. If
frames are late more often than allowed, a lighter combination is used at once. Later, a better
combination is tried after a hold time, which doubles with every failed trial. Measurements
outweigh predictions: as long as all frames are on time, combinations with higher predicted
latencies are tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dynamic_ofa_ros.adaptation import is_late
from dynamic_ofa_ros.runtime.coordination.choice import Device, Levels, ladder
from dynamic_ofa_ros.runtime.coordination.sharing import FloatArray, Sharing
from dynamic_ofa_ros.runtime.coordination.status import Agreement, Status

EARLY_NS, EARLY_HOLD_NS = 1_000_000_000, 300_000_000
"""Initial time after an external change, and the minimum hold time of combinations during it."""

HOLD_NS, MAX_HOLD_NS = 5_000_000_000, 60_000_000_000
"""Hold time of a combination after the initial time; a failed trial doubles it up to a maximum."""

FAILED_NS = 3_000_000_000
"""A trial fails if frames are late within this time."""

STEP, MAX_MARGIN, DARE_AFTER_NS, DARE_NS = 0.05, 0.5, 6_000_000_000, 200_000_000
"""If all models are on time for DARE_AFTER_NS, the tolerated predicted excess over the limits
grows by STEP (log) every DARE_NS, up to MAX_MARGIN."""

LIGHTER = 0.8
"""Factor on the sum of latencies for the next combination if no better one is predicted."""

ENOUGH_FRAMES, SLACK = 20, 0.04
"""Number of frames for measuring the share of late frames at the lowest levels, and the additional
share that is allowed at other levels."""

WORTHWHILE = 0.001
"""Minimum gain of weighted accuracy (a fraction) for a trial."""

STUBBORN_AFTER_NS, STUBBORN_NS = 800_000_000, 30_000_000_000
"""A model that does not run its agreed level after the first time is assumed to stay at its level
for the second time."""

LIMIT_CHANGE, INTERVAL_CHANGE = 1.1, 1.5
"""Changes of a limit or of a frame interval by larger factors are external changes."""


class Proposer:
    """Finds the levels for all models; used by the manager with the first name."""

    def __init__(self) -> None:
        self._sharing = Sharing([])
        self._known: Sequence[Status] = ()  # statuses at the last change
        self._target: Levels = []
        self._stubborn: dict[str, tuple[int, int]] = {}  # level and end of the time, by name
        self._round = self._moved_ns = self._off_since_ns = 0
        self._reset(0)

    def propose(self, everyone: Sequence[Status], time_ns: int, last_round: int) -> Agreement:
        """Return the agreement for all models. last_round: the highest known round."""
        self._round = max(self._round, last_round)
        is_changed = self._detect_change(everyone, time_ns)
        self._sharing.take(everyone)
        is_changed |= self._detect_stubborn(everyone, time_ns)
        best, is_trial = self._choose(everyone, time_ns, is_changed)
        if best != self._target:
            self._target, self._is_trial, self._round = best, is_trial, self._round + 1
            self._moved_ns = time_ns
        names = (s.name for s in everyone)
        return Agreement(self._round, tuple(zip(names, self._target, strict=True)))

    def _reset(self, time_ns: int) -> None:
        self._changed_ns, self._dared_ns = time_ns, 0
        self._hold_ns, self._margin = HOLD_NS, 0.0
        self._is_trial = False
        self._unavoidable: dict[str, float] = {}
        self._learnt_ns = 0

    def _detect_change(self, everyone: Sequence[Status], time_ns: int) -> bool:
        """Detect external changes; return whether a new choice is required."""
        members = [(s.name, s.accuracies) for s in everyone]
        if members != self._sharing.members:
            self._sharing = Sharing(members, self._sharing)
            self._target = []
        is_changed = [s.wishes for s in everyone] != [s.wishes for s in self._known] or any(
            _is_other(s.limit_ms, known.limit_ms, LIMIT_CHANGE)
            for s, known in zip(everyone, self._known, strict=True)
        )
        if is_changed or any(
            _is_other(s.interval_ms, known.interval_ms, INTERVAL_CHANGE)
            for s, known in zip(everyone, self._known, strict=True)
        ):
            self._known = everyone
            self._reset(time_ns)
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

    def _at_target_ms(self, everyone: Sequence[Status]) -> list[list[float]]:
        """Return the latencies of each model's frames since all models run the target levels."""
        if any(s.level != n for s, n in zip(everyone, self._target, strict=True)):
            return [[] for _ in everyone]
        frames = [
            [f for f in kept if f.start_ns > self._moved_ns and f.level == n]
            for kept, n in zip(self._sharing.frames, self._target, strict=True)
        ]
        since_ns = max((found[0].start_ns for found in frames if found), default=0)
        return [[f.latency_ms for f in found if f.start_ns >= since_ns] for found in frames]

    def _choose(
        self, everyone: Sequence[Status], time_ns: int, is_changed: bool
    ) -> tuple[Levels, bool]:
        """Return the levels to run (the same, lighter or better ones), and if this is a trial."""
        device = Device(everyone, self._sharing)
        ladders = [
            [self._stubborn[s.name][0]] if s.name in self._stubborn else ladder(s)
            for s in everyone
        ]
        now, held_ns = self._target, time_ns - self._moved_ns
        is_early = time_ns - self._changed_ns < EARLY_NS
        if not now or is_changed:
            return device.choose(ladders, 0.0), False
        if time_ns - self._learnt_ns > MAX_HOLD_NS:
            self._unavoidable = {}
        at_target_ms = self._at_target_ms(everyone)
        measured = self._measured_excess(everyone, at_target_ms)
        exceeds = measured > 0.0
        if exceeds.any() and now == [choices[0] for choices in ladders]:
            self._learn_unavoidable(everyone, at_target_ms, time_ns)
            return now, False
        if exceeds.any():
            if self._is_trial and held_ns < FAILED_NS:
                self._is_trial, self._hold_ns = False, min(2 * self._hold_ns, MAX_HOLD_NS)
            self._margin = 0.0
            predicted = device.excess(device.latencies_ms(now))
            error = float((measured[exceeds] - predicted[exceeds]).max())
            lower = device.ladders_below(ladders, now)
            best = device.choose(ladders if is_early else lower, -max(error, 0.0))
            if best == now:  # no better combination is predicted
                best = device.lighter(now, lower, LIGHTER)
            return best, False
        if self._is_trial and held_ns > FAILED_NS:
            self._is_trial, self._hold_ns = False, FAILED_NS
        if held_ns < (EARLY_HOLD_NS if is_early else self._hold_ns) or not any(at_target_ms):
            return now, False
        best = device.choose(ladders, self._margin)
        gain = device.accuracy(best) - device.accuracy(now)
        if gain > WORTHWHILE and not device.late(device.latencies_ms(best), self._margin):
            return best, not is_early
        since_ns = max(self._changed_ns, self._moved_ns) + DARE_AFTER_NS
        if time_ns > max(since_ns, self._dared_ns + DARE_NS):
            self._dared_ns, self._margin = time_ns, min(self._margin + STEP, MAX_MARGIN)
        return now, False

    def _measured_excess(
        self, everyone: Sequence[Status], at_target_ms: Sequence[Sequence[float]]
    ) -> FloatArray:
        """Return the log of the ratio of the latency quantile to the limit, (models,).

        The longest latency is ignored as an outlier. The result is -inf if there are too few
        frames.
        """
        found = np.full(len(everyone), -np.inf)
        for i, (s, ms) in enumerate(zip(everyone, at_target_ms, strict=True)):
            unavoidable = int(self._unavoidable.get(s.name, 0.0) * len(ms))
            allowed = max(int((1.0 - s.quantile) * len(ms)), 1 + unavoidable)
            if len(ms) > allowed:
                found[i] = math.log(sorted(ms)[-1 - allowed]) - math.log(s.limit_ms)
        return found

    def _learn_unavoidable(
        self, everyone: Sequence[Status], at_target_ms: Sequence[Sequence[float]], time_ns: int
    ) -> None:
        """Measure how often frames are late at the lowest levels, which no choice can avoid.

        Combinations that were left because of such frames can be tried again.
        """
        if min(map(len, at_target_ms)) < ENOUGH_FRAMES:
            return
        for s, found in zip(everyone, at_target_ms, strict=True):
            share = sum(is_late(ms, s.limit_ms) for ms in found) / len(found)
            self._unavoidable[s.name] = share + SLACK
        self._changed_ns = self._learnt_ns = time_ns


def _is_other(one: float, other: float, factor: float) -> bool:
    return max(one, other) > factor * min(one, other)
