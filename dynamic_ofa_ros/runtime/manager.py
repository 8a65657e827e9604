"""RuntimeManager: monitors latency, asks the policy, switches the level.

It reads no clock and knows no thread but the one that calls `observe`: the simulator drives the
very same object with simulated time. Constraints and policy may be set from any thread; they swap
one frozen snapshot, which the next frame reads.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.runtime.policies import (
    Choice,
    LevelTable,
    Policy,
    PolicySettings,
    Situation,
    create_policy,
)
from dynamic_ofa_ros.runtime.slowdown import (
    CONTENDED_ABOVE,
    SlowdownEstimator,
    TrimmedMeanEstimator,
    ratio_of,
)

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import LatencyProfile, Level

NAN = math.nan
OVERHEAD_GAIN = 0.1
"""Weight of the newest frame in the running mean of what lies outside inference."""

MINUTE_NS = 60_000_000_000


@dataclass(frozen=True)
class Measurement:
    """The latencies of one frame, and when it was finished."""

    time_ns: int
    level: int
    inference_ms: float
    processing_ms: float = NAN
    end_to_end_ms: float = NAN


@dataclass(frozen=True)
class Decision:
    """A switch and its reasons. `from_level` is 0 for the first choice at start.

    Latencies are of the limited scope; constraints are NaN where there is none.
    """

    time_ns: int
    from_level: int
    to_level: int
    reason: str
    policy: str
    is_feasible: bool
    slowdown: float
    expected_inference_ms: float
    predicted_latency_ms: float
    max_latency_ms: float
    min_accuracy: float


@dataclass(frozen=True)
class ManagerState:
    """What the manager knows after a frame; a snapshot that other threads may read.

    predicted_latency_ms: expected of the next frame, in the limited scope.
    latency_ms: of the last frame, in the limited scope; NaN before the first.
    consecutive_violations: frames in a row, up to the last one, that broke the limit.
    reason: the policy's present thinking, a sentence.
    """

    level: int
    policy: str
    is_feasible: bool
    is_contended: bool
    slowdown: float
    latency_ms: float
    predicted_latency_ms: float
    violations: int
    consecutive_violations: int
    switch_count: int
    reason: str
    constraints: Constraints


@dataclass(frozen=True)
class _Settings:
    """Everything that another thread may change, swapped as one."""

    constraints: Constraints
    policy: PolicySettings


class RuntimeManager:
    """Decides the level, frame by frame. `observe` costs microseconds and never blocks."""

    def __init__(
        self,
        levels: Sequence[Level],
        profile: LatencyProfile,
        *,
        constraints: Constraints | None = None,
        policy: PolicySettings | None = None,
        estimator: SlowdownEstimator | None = None,
    ) -> None:
        self.table = LevelTable.of(levels, profile)
        self._estimator: SlowdownEstimator = estimator or TrimmedMeanEstimator()
        self._setting_lock = threading.Lock()
        self._settings = _Settings(constraints or Constraints(), policy or PolicySettings())
        self._applied = self._settings
        self._policy: Policy = create_policy(self.table, self._settings.policy)
        self._overhead_ms = {'processing': NAN, 'end_to_end': NAN}
        self._upward_ns: deque[int] = deque()
        self._is_first_after_switch = True
        self._violations = 0
        self._consecutive_violations = 0
        self._switch_count = 0
        self._level = 0
        choice = self._policy.decide(self._situation(0, NAN, True, 1.0))
        self._level = choice.level
        self.initial_decision = self._decision(0, 0, choice, 1.0)
        self._state = self._new_state(choice, NAN, 1.0)

    @property
    def active_level(self) -> int:
        """The level that the next frame runs at, from 1."""
        return self._level

    @property
    def state(self) -> ManagerState:
        """The snapshot after the last frame; safe to read from any thread."""
        return self._state

    @property
    def constraints(self) -> Constraints:
        """The constraints that the next frame obeys."""
        return self._settings.constraints

    @property
    def policy_settings(self) -> PolicySettings:
        """The policy settings that the next frame obeys."""
        return self._settings.policy

    def set_constraints(self, constraints: Constraints) -> None:
        """Take new constraints; the next frame obeys them. Safe to call from any thread."""
        with self._setting_lock:
            self._settings = _Settings(constraints, self._settings.policy)

    def set_policy(self, policy: PolicySettings) -> None:
        """Take a new policy or new settings of it; the next frame obeys them.

        Safe to call from any thread. Raises PolicyError when the policy cannot be set up for these
        levels; the present one then stays.
        """
        create_policy(self.table, policy)
        with self._setting_lock:
            self._settings = _Settings(self._settings.constraints, policy)

    def decide(self, time_ns: int) -> Decision | None:
        """Obey settings that changed since the last frame; call before each frame.

        Returns the switch this causes, None (nearly always, at no cost) when there is none.
        """
        settings = self._settings
        if settings is self._applied:
            return None
        if settings.policy != self._applied.policy:
            self._policy = create_policy(self.table, settings.policy)
        self._applied = settings
        slowdown = self._estimator.value(time_ns)
        choice = self._policy.decide(self._situation(time_ns, NAN, True, slowdown))
        return self._apply(choice, time_ns, self._state.latency_ms, slowdown)

    def observe(self, measurement: Measurement) -> Decision | None:
        """Take one frame's latencies; return the switch they cause, None when the level stays."""
        level, time_ns = measurement.level, measurement.time_ns
        is_first, self._is_first_after_switch = self._is_first_after_switch, False
        if not is_first:
            ratio = ratio_of(measurement.inference_ms, self.table.latency_ms(level))
            self._estimator.observe(ratio, level, time_ns)
        self._take_overheads(measurement)
        latency_ms = self._scope_latency_ms(measurement)
        self._count_violation(latency_ms)
        slowdown = self._estimator.value(time_ns)
        situation = self._situation(
            time_ns, measurement.inference_ms, False, slowdown, is_first_after_switch=is_first
        )
        choice = self._within_budget(self._policy.decide(situation), time_ns)
        return self._apply(choice, time_ns, latency_ms, slowdown)

    def _situation(
        self,
        time_ns: int,
        inference_ms: float,
        is_changed: bool,
        slowdown: float,
        is_first_after_switch: bool = False,
    ) -> Situation:
        constraints = self._applied.constraints
        limit_ms = (
            constraints.max_latency_ms - self._overhead() if constraints.has_latency else math.inf
        )
        return Situation(
            time_ns=time_ns,
            level=self._level,
            latency_ms=inference_ms,
            limit_ms=limit_ms,
            floor=constraints.min_accuracy if constraints.has_accuracy else 0.0,
            priority=constraints.priority,
            quantile=constraints.quantile,
            slowdown=slowdown,
            is_first_after_switch=is_first_after_switch,
            is_changed=is_changed,
        )

    def _overhead(self) -> float:
        """Return what of the limited latency no level can change; 0 as long as it is unknown."""
        overhead_ms = self._overhead_ms.get(self._applied.constraints.latency_scope, 0.0)
        return 0.0 if math.isnan(overhead_ms) else overhead_ms

    def _take_overheads(self, measurement: Measurement) -> None:
        for scope, latency_ms in (
            ('processing', measurement.processing_ms),
            ('end_to_end', measurement.end_to_end_ms),
        ):
            overhead_ms = latency_ms - measurement.inference_ms
            if math.isnan(overhead_ms):
                continue
            known_ms = self._overhead_ms[scope]
            self._overhead_ms[scope] = (
                overhead_ms
                if math.isnan(known_ms)
                else known_ms + OVERHEAD_GAIN * (overhead_ms - known_ms)
            )

    def _scope_latency_ms(self, measurement: Measurement) -> float:
        scope = self._applied.constraints.latency_scope
        if scope == 'processing':
            return measurement.processing_ms
        if scope == 'end_to_end':
            return measurement.end_to_end_ms
        return measurement.inference_ms

    def _count_violation(self, latency_ms: float) -> None:
        if latency_ms > self._applied.constraints.max_latency_ms:  # false for NaN: no limit
            self._violations += 1
            self._consecutive_violations += 1
        else:
            self._consecutive_violations = 0

    def _within_budget(self, choice: Choice, time_ns: int) -> Choice:
        """Hold back an upward switch when the last minute had its share of them."""
        if self.table.accuracy(choice.level) <= self.table.accuracy(self._level):
            return choice
        while self._upward_ns and time_ns - self._upward_ns[0] > MINUTE_NS:
            self._upward_ns.popleft()
        budget = self._applied.policy.max_switches_per_minute
        if len(self._upward_ns) + 1 > budget:
            reason = f'{choice.reason}; held back: {budget:g} upward switches in the last minute'
            return Choice(self._level, choice.is_feasible, reason)
        self._upward_ns.append(time_ns)
        return choice

    def _apply(
        self, choice: Choice, time_ns: int, latency_ms: float, slowdown: float
    ) -> Decision | None:
        from_level, self._level = self._level, choice.level
        decision = None
        if choice.level != from_level:
            self._switch_count += 1
            self._is_first_after_switch = True
            decision = self._decision(time_ns, from_level, choice, slowdown)
        self._state = self._new_state(choice, latency_ms, slowdown)
        return decision

    def _decision(
        self, time_ns: int, from_level: int, choice: Choice, slowdown: float
    ) -> Decision:
        constraints = self._applied.constraints
        expected_ms = self.table.latency_ms(choice.level) * slowdown
        return Decision(
            time_ns=time_ns,
            from_level=from_level,
            to_level=choice.level,
            reason=choice.reason,
            policy=self._applied.policy.name,
            is_feasible=choice.is_feasible,
            slowdown=slowdown,
            expected_inference_ms=expected_ms,
            predicted_latency_ms=expected_ms + self._overhead(),
            max_latency_ms=constraints.max_latency_ms,
            min_accuracy=constraints.min_accuracy,
        )

    def _new_state(self, choice: Choice, latency_ms: float, slowdown: float) -> ManagerState:
        expected_ms = self.table.latency_ms(choice.level) * slowdown
        return ManagerState(
            level=choice.level,
            policy=self._applied.policy.name,
            is_feasible=choice.is_feasible,
            is_contended=slowdown > CONTENDED_ABOVE,
            slowdown=slowdown,
            latency_ms=latency_ms,
            predicted_latency_ms=expected_ms + self._overhead(),
            violations=self._violations,
            consecutive_violations=self._consecutive_violations,
            switch_count=self._switch_count,
            reason=choice.reason,
            constraints=self._applied.constraints,
        )
