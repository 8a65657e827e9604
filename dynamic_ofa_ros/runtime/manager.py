"""RuntimeManager: monitors latency, asks the policy, switches the level.

It reads no clock and knows no thread but the one that calls `observe`: the simulator drives the
very same object with simulated time. Constraints and policy may be set from any thread; they swap
one frozen snapshot, which the next frame reads.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.family import LatencyProfile
from dynamic_ofa_ros.runtime.coordination import (
    FRAMES_TOLD,
    Allowance,
    Frame,
    Status,
)
from dynamic_ofa_ros.runtime.decisions import Decision, ManagerState, Measurement
from dynamic_ofa_ros.runtime.policies import (
    Choice,
    LevelTable,
    Policy,
    PolicyError,
    PolicyFactory,
    PolicySettings,
    Situation,
    create_policy,
)
from dynamic_ofa_ros.runtime.slowdown import (
    CONTENDED_ABOVE,
    SlowdownEstimator,
    SlowdownFilter,
    ratio_of,
)

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Level

NAN = math.nan
OVERHEAD_FRAMES = 100
"""Frames from which the quantile of what lies outside inference is taken."""

MINUTE_NS = 60_000_000_000


@dataclass(frozen=True)
class _Settings:
    """Everything that another thread may change, swapped as one."""

    constraints: Constraints
    policy: PolicySettings
    allowance: Allowance | None = None


class _Frame(NamedTuple):
    """What a frame leaves behind; `state` is made of it when somebody asks."""

    situation: Situation
    choice: Choice
    latency_ms: float
    overhead_ms: float
    settings: _Settings
    violations: int
    consecutive_violations: int
    switch_count: int


class RuntimeManager:
    """Decides the level, frame by frame. `observe` costs microseconds and never blocks.

    Given the profiles of several platforms it decides the platform too: every platform has an
    estimator of its own, and what it knows of one that is not in use fades, so a device that was
    left because others used it is tried again after a while.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        profile: LatencyProfile | Sequence[LatencyProfile],
        *,
        constraints: Constraints | None = None,
        policy: PolicySettings | None = None,
        estimator: SlowdownEstimator | None = None,
        policy_factory: PolicyFactory = create_policy,
    ) -> None:
        profiles = (profile,) if isinstance(profile, LatencyProfile) else tuple(profile)
        self.table = LevelTable.of(levels, *profiles)
        self._estimators = _estimators(profiles, estimator)
        self._policy_factory = policy_factory
        self._setting_lock = threading.Lock()
        self._settings = _Settings(constraints or Constraints(), policy or PolicySettings())
        self._applied = self._settings
        self._policy: Policy = self._policy_factory(self.table, self._settings.policy)
        self._overheads_ms: dict[str, deque[float]] = {
            scope: deque(maxlen=OVERHEAD_FRAMES) for scope in ('node', 'end_to_end')
        }
        self._upward_ns: deque[int] = deque()
        self._recent_frames: deque[Frame] = deque(maxlen=FRAMES_TOLD)
        self._is_first_after_switch = True
        self._violations = 0
        self._consecutive_violations = 0
        self._switch_count = 0
        self._option = 0
        situation = self._situation(0, NAN, is_changed=True)
        choice = self._policy.decide(situation)
        self._option = choice.level
        self.initial_decision = self._decision(situation, 0, choice)
        self._frame = self._new_frame(situation, choice, NAN)

    @property
    def active_level(self) -> int:
        """The level that the next frame runs at, from 1."""
        return self.table.level(self._option)

    @property
    def active_platform(self) -> str:
        """The platform that the next frame runs on."""
        return self.table.platforms[self.table.device(self._option)]

    def uncontended_ms(self, level: int, platform: str) -> float:
        """Return the inference latency of a level on a platform that nobody else uses."""
        return self.table.latency_ms(
            self.table.option(level, self.table.platforms.index(platform))
        )

    @property
    def state(self) -> ManagerState:
        """The snapshot after the last frame; safe to read from any thread."""
        frame, table = self._frame, self.table
        situation, choice = frame.situation, frame.choice
        level, device = table.level(choice.level), table.device(choice.level)
        forecast = situation.forecasts[device]
        slowdown = forecast.slowdown
        return ManagerState(
            level=level,
            policy=frame.settings.policy.name,
            is_feasible=choice.is_feasible,
            is_contended=slowdown > CONTENDED_ABOVE,
            slowdown=slowdown,
            latency_ms=frame.latency_ms,
            predicted_latency_ms=table.latency_ms(choice.level) * slowdown + frame.overhead_ms,
            violations=frame.violations,
            consecutive_violations=frame.consecutive_violations,
            switch_count=frame.switch_count,
            reason=choice.reason,
            constraints=frame.settings.constraints,
            slowdown_sd=forecast.sd,
            platform=table.platforms[device],
            inference_limit_ms=situation.limit_ms,
            margin=forecast.margin(level, situation.quantile),
        )

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
            self._settings = replace(self._settings, constraints=constraints)

    def set_policy(self, policy: PolicySettings) -> None:
        """Take a new policy or new settings of it; the next frame obeys them.

        Safe to call from any thread. Raises PolicyError when the policy cannot be set up for these
        levels; the present one then stays.
        """
        self._policy_factory(self.table, policy)
        with self._setting_lock:
            self._settings = replace(self._settings, policy=policy)

    def set_allowance(self, allowance: Allowance | None) -> None:
        """Take the levels that other classifiers leave to this one; None leaves all.

        Safe to call from any thread. The next frame obeys.
        """
        with self._setting_lock:
            self._settings = replace(self._settings, allowance=allowance)

    def status(
        self, name: str, devices: Mapping[str, str], importance: float, interval_ms: float
    ) -> Status:
        """Return what to tell the other classifiers on the device; safe from any thread.

        It is about the platform in use now. name: unique among them; devices: the processor or
        GPU behind each platform; interval_ms: mean time between frames, infinite when none come.
        """
        option, constraints = self._option, self._settings.constraints
        place = self.table.device(option)
        options = [
            self.table.option(level, place) for level in range(1, self.table.level_count + 1)
        ]
        rests_ms = sorted(self._overheads_ms.get(constraints.latency_scope, ()))
        rest_ms = max(rests_ms[len(rests_ms) // 2], 0.0) if rests_ms else 0.0
        return Status(
            name=name,
            device=devices[self.table.platforms[place]],
            level=self.table.level(option),
            latencies_ms=tuple(self.table.latency_ms(each) + rest_ms for each in options),
            accuracies=tuple(self.table.accuracy(each) for each in options),
            limit_ms=constraints.max_latency_ms if constraints.has_latency else math.inf,
            quantile=constraints.quantile,
            floor=constraints.min_accuracy if constraints.has_accuracy else 0.0,
            priority=constraints.priority,
            importance=importance,
            interval_ms=interval_ms,
            frames=tuple(self._recent_frames),
        )

    def decide(self, time_ns: int) -> Decision | None:
        """Obey settings that changed since the last frame; call before each frame.

        Returns the switch this causes, None (nearly always, at no cost) when there is none.
        """
        settings = self._settings
        if settings is self._applied:
            return None
        before, self._applied = self._applied, settings
        if settings.policy != before.policy:
            self._policy = self._policy_factory(self.table, settings.policy)
        elif settings.constraints == before.constraints and self._is_allowed(self._option):
            return None
        situation = self._situation(time_ns, NAN, is_changed=True)
        choice = self._within_allowance(self._policy.decide(situation), situation)
        return self._apply(situation, choice, self._frame.latency_ms)

    def observe(self, measurement: Measurement) -> Decision | None:
        """Take one frame's latencies; return the switch they cause, None when the level stays."""
        time_ns = measurement.time_ns
        is_first, self._is_first_after_switch = self._is_first_after_switch, False
        if not is_first:
            device = self._device_of(measurement)
            option = self.table.option(measurement.level, device)
            ratio = ratio_of(measurement.inference_ms, self.table.latency_ms(option))
            self._estimators[device].observe(ratio, measurement.level, time_ns)
        self._take_overheads(measurement)
        latency_ms = self._scope_latency_ms(measurement)
        if 0.0 < latency_ms < math.inf:
            self._recent_frames.append(Frame(time_ns, latency_ms, measurement.level))
        self._count_violation(latency_ms)
        situation = self._situation(time_ns, measurement.inference_ms, is_first=is_first)
        choice = self._within_allowance(self._policy.decide(situation), situation)
        if choice.level != self._option:
            choice = self._within_budget(choice, time_ns)
        return self._apply(situation, choice, latency_ms)

    def _allowed_accuracies(self) -> tuple[float, float]:
        """Return the least and the highest accuracy that the others leave to this manager."""
        allowance, constraints = self._applied.allowance, self._applied.constraints
        if allowance is None or self._applied.policy.name == 'fixed':
            return 0.0, math.inf
        lowest = self.table.accuracy(allowance.lowest)
        highest = self.table.accuracy(allowance.highest)
        if constraints.has_accuracy and constraints.priority == 'accuracy':
            floor = constraints.min_accuracy  # with priority over the others' limits too
            accurate = [accuracy for accuracy in self.table.accuracies if accuracy >= floor]
            highest = max(highest, min(accurate, default=highest))
        return lowest, highest

    def _is_allowed(self, option: int) -> bool:
        lowest, highest = self._allowed_accuracies()
        return lowest <= self.table.accuracy(option) <= highest

    def _within_allowance(self, choice: Choice, situation: Situation) -> Choice:
        """Move a choice into the levels that the others leave."""
        allowance = self._applied.allowance
        lowest, highest = self._allowed_accuracies()
        accuracy = self.table.accuracy
        if allowance is None or lowest <= accuracy(choice.level) < highest:
            return choice
        if accuracy(choice.level) == highest:
            why = allowance.reason
            if lowest < highest:
                why = f'{choice.reason}; {why}'
            return choice._replace(why=why)
        if accuracy(choice.level) < lowest:
            if self.table.device(choice.level) != self.table.device(self._option):
                return choice  # agreed for another device
            option = self.table.option(allowance.lowest, self.table.device(choice.level))
            return choice._replace(level=option, why=allowance.reason)
        ladder = self.table.ladder
        allowed = [option for option in ladder if accuracy(option) <= highest]
        option = allowed[-1] if allowed else ladder[0]
        return choice._replace(level=option, why=allowance.reason)

    def _device_of(self, measurement: Measurement) -> int:
        if not measurement.platform:
            return self.table.device(self._option)
        return self.table.platforms.index(measurement.platform)

    def _situation(
        self,
        time_ns: int,
        inference_ms: float,
        *,
        is_changed: bool = False,
        is_first: bool = False,
    ) -> Situation:
        constraints = self._applied.constraints
        limit_ms = (
            constraints.max_latency_ms - self._overhead() if constraints.has_latency else math.inf
        )
        return Situation(
            time_ns=time_ns,
            level=self._option,
            latency_ms=inference_ms,
            limit_ms=limit_ms,
            floor=constraints.min_accuracy if constraints.has_accuracy else 0.0,
            priority=constraints.priority,
            quantile=constraints.quantile,
            forecasts=[estimator.forecast(time_ns) for estimator in self._estimators],
            is_first_after_switch=is_first,
            is_changed=is_changed,
            highest_accuracy=self._allowed_accuracies()[1],
            device=self.table.device(self._option) if self._option else 0,
        )

    def _overhead(self) -> float:
        """Return what of the limited latency no level can change; 0 as long as it is unknown.

        The quantile of the last frames that the constraint asks for, not their mean: it has a tail
        of its own. Rounded down, so that one slow frame (the first) does not decide.
        """
        constraints = self._applied.constraints
        overheads_ms = sorted(self._overheads_ms.get(constraints.latency_scope, ()))
        if not overheads_ms:
            return 0.0
        return overheads_ms[int(constraints.quantile * (len(overheads_ms) - 1))]

    def _take_overheads(self, measurement: Measurement) -> None:
        inference_ms = measurement.inference_ms
        self._take_overhead('node', measurement.node_ms - inference_ms)
        self._take_overhead('end_to_end', measurement.end_to_end_ms - inference_ms)

    def _take_overhead(self, scope: str, overhead_ms: float) -> None:
        if not math.isnan(overhead_ms):
            self._overheads_ms[scope].append(overhead_ms)

    def _scope_latency_ms(self, measurement: Measurement) -> float:
        scope = self._applied.constraints.latency_scope
        if scope == 'node':
            return measurement.node_ms
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
        if self.table.accuracy(choice.level) <= self.table.accuracy(self._option):
            return choice
        while self._upward_ns and time_ns - self._upward_ns[0] > MINUTE_NS:
            self._upward_ns.popleft()
        budget = self._applied.policy.max_switches_per_minute
        if len(self._upward_ns) + 1 > budget:
            reason = f'{choice.reason}; held back: {budget:g} moves up in a minute'
            return Choice(self._option, choice.is_feasible, reason)
        self._upward_ns.append(time_ns)
        return choice

    def _apply(self, situation: Situation, choice: Choice, latency_ms: float) -> Decision | None:
        from_option, self._option = self._option, choice.level
        decision = None
        if choice.level != from_option:
            self._switch_count += 1
            self._is_first_after_switch = True
            decision = self._decision(situation, from_option, choice)
        self._frame = self._new_frame(situation, choice, latency_ms)
        return decision

    def _decision(self, situation: Situation, from_option: int, choice: Choice) -> Decision:
        table, constraints = self.table, self._applied.constraints
        slowdown = situation.forecasts[table.device(choice.level)].slowdown
        expected_ms = table.latency_ms(choice.level) * slowdown
        return Decision(
            time_ns=situation.time_ns,
            from_level=table.level(from_option) if from_option else 0,
            to_level=table.level(choice.level),
            reason=choice.reason,
            policy=self._applied.policy.name,
            is_feasible=choice.is_feasible,
            slowdown=slowdown,
            expected_inference_ms=expected_ms,
            predicted_latency_ms=expected_ms + self._overhead(),
            max_latency_ms=constraints.max_latency_ms,
            min_accuracy=constraints.min_accuracy,
            from_platform=table.platforms[table.device(from_option)] if from_option else '',
            to_platform=table.platforms[table.device(choice.level)],
        )

    def _new_frame(self, situation: Situation, choice: Choice, latency_ms: float) -> _Frame:
        return _Frame(
            situation,
            choice,
            latency_ms,
            self._overhead(),
            self._applied,
            self._violations,
            self._consecutive_violations,
            self._switch_count,
        )


def _estimators(
    profiles: Sequence[LatencyProfile], estimator: SlowdownEstimator | None
) -> list[SlowdownEstimator]:
    """Return an estimator for each platform; the one given can serve a single platform only."""
    if estimator is None:
        return [SlowdownFilter(_noises(profile)) for profile in profiles]
    if len(profiles) > 1:
        raise PolicyError(
            f'one estimator cannot serve {len(profiles)} platforms; leave it out, or give one '
            'profile'
        )
    return [estimator]


def _noises(profile: LatencyProfile) -> list[float]:
    """Return sd / mean of every level's uncontended latency; NaN where the profile has no mean."""
    return [
        level.sd_ms / level.mean_ms if level.mean_ms > 0.0 else NAN for level in profile.levels
    ]
