"""RuntimeManager: monitors latencies, calls the policy and switches levels.

It reads no clock, so the simulator can run the same class in simulated time. Frames are processed
on the thread that calls `observe`. Constraints and policy can be set from any thread: they are
stored in an immutable object, which the next frame reads.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from dynamic_ofa_ros.adaptation import is_late
from dynamic_ofa_ros.constraints import LATENCY_SCOPES, Constraints
from dynamic_ofa_ros.family import LatencyProfile
from dynamic_ofa_ros.runtime.coordination import FRAMES_TOLD, Allowance, Frame, Status
from dynamic_ofa_ros.runtime.decisions import Decision, ManagerState, Measurement
from dynamic_ofa_ros.runtime.experience import CONTENDED_ABOVE, Experience
from dynamic_ofa_ros.runtime.outages import Outages
from dynamic_ofa_ros.runtime.policies import (
    Choice,
    Option,
    OptionTable,
    Policy,
    PolicyFactory,
    PolicySettings,
    Situation,
    create_policy,
)
from dynamic_ofa_ros.runtime.series import SortedWindow

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Level

NAN = math.nan
OUTSIDE_FRAMES = 100
"""Number of frames for the quantile of the time outside inference."""

MINUTE_NS = 60_000_000_000


@dataclass(frozen=True)
class _Settings:
    """All settings that other threads can change; replaced as a whole."""

    constraints: Constraints
    policy: PolicySettings
    allowance: Allowance | None = None

    @cached_property
    def floor(self) -> float:
        return self.constraints.min_accuracy if self.constraints.has_accuracy else 0.0

    @cached_property
    def limit_ms(self) -> float:
        return self.constraints.max_latency_ms if self.constraints.has_latency else math.inf


class _Frame(NamedTuple):
    """The data after a frame from which `state` is computed on demand."""

    situation: Situation
    choice: Choice
    settings: _Settings
    violations: int
    consecutive_violations: int
    switch_count: int


class RuntimeManager:
    """Decides level and platform for every frame. `observe` takes microseconds and never blocks.

    With the profiles of several platforms, it also chooses the platform. Estimates about a
    platform that is not in use decay, so a platform that was contended is tried again later.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        profile: LatencyProfile | Sequence[LatencyProfile],
        *,
        constraints: Constraints | None = None,
        policy: PolicySettings | None = None,
        policy_factory: PolicyFactory = create_policy,
        is_ready: Callable[[int, str], bool] | None = None,
    ) -> None:
        profiles = (profile,) if isinstance(profile, LatencyProfile) else tuple(profile)
        self.table = OptionTable.of(levels, *profiles)
        self._experiences = [_experience(profile) for profile in profiles]
        self._outages = Outages()
        self._is_ready = is_ready or (lambda level, platform: True)
        self._policy_factory = policy_factory
        self._setting_lock = threading.Lock()
        self._settings = _Settings(constraints or Constraints(), policy or PolicySettings())
        self._applied = self._settings
        self._policy: Policy = self._policy_factory(self.table, self._settings.policy)
        self._outside_ms = {scope: SortedWindow(OUTSIDE_FRAMES) for scope in LATENCY_SCOPES}
        self._period_ms = NAN
        self._upward_ns: deque[int] = deque()
        self._recent_frames: deque[Frame] = deque(maxlen=FRAMES_TOLD)
        self._is_first_after_switch = True
        self._last_ns = self._shift_ns = 0
        self._violations = 0
        self._consecutive_violations = 0
        self._switch_count = 0
        self._option: Option | None = None
        situation = self._situation(0, is_changed=True)
        choice = self._ready_choice(situation, self._policy.decide(situation))
        self.initial_decision = self._decision(situation, None, choice)
        self._option = choice.option
        self._frame = self._new_frame(situation, choice)

    @property
    def active_level(self) -> int:
        """The level for the next frame (1-based)."""
        return self._frame.choice.option.level

    @property
    def active_platform(self) -> str:
        """The platform for the next frame."""
        return self.table.platforms[self._frame.choice.option.platform]

    @property
    def wanted(self) -> tuple[int, str]:
        """The level and platform to use as soon as the level is in memory."""
        return self._wanted.level, self.table.platforms[self._wanted.platform]

    def uncontended_ms(self, level: int, platform: str) -> float:
        """Return the uncontended inference latency of a level on a platform."""
        return self.table.latency_ms(Option(level, self.table.platforms.index(platform)))

    @property
    def state(self) -> ManagerState:
        """The state after the last frame; can be read from any thread."""
        frame, table = self._frame, self.table
        situation, choice = frame.situation, frame.choice
        level, platform = choice.option
        forecast = situation.forecasts[platform]
        return ManagerState(
            level=level,
            policy=frame.settings.policy.name,
            is_feasible=choice.is_feasible,
            is_contended=forecast.slowdown > CONTENDED_ABOVE,
            slowdown=forecast.slowdown,
            latency_ms=situation.latency_ms,
            predicted_latency_ms=forecast.quantile_ms(level, situation.quantile),
            violations=frame.violations,
            consecutive_violations=frame.consecutive_violations,
            switch_count=frame.switch_count,
            reason=choice.reason,
            constraints=frame.settings.constraints,
            platform=table.platforms[platform],
            inference_limit_ms=situation.inference_limit_ms,
            outside_ms=forecast.outside_quantile_ms(situation.quantile),
        )

    @property
    def constraints(self) -> Constraints:
        """The constraints for the next frame."""
        return self._settings.constraints

    @property
    def policy_settings(self) -> PolicySettings:
        """The policy settings for the next frame."""
        return self._settings.policy

    def set_constraints(self, constraints: Constraints) -> None:
        """Set the constraints for the next frame; can be called from any thread."""
        with self._setting_lock:
            self._settings = replace(self._settings, constraints=constraints)

    def set_policy(self, policy: PolicySettings) -> None:
        """Set the policy for the next frame; can be called from any thread.

        Raise PolicyError if the settings are invalid for these levels; the policy is then
        unchanged.
        """
        self._policy_factory(self.table, policy)
        with self._setting_lock:
            self._settings = replace(self._settings, policy=policy)

    def set_allowance(self, allowance: Allowance | None) -> None:
        """Set the range of levels allowed beside other classifiers; None allows all levels.

        It applies to the next frame; this method can be called from any thread.
        """
        with self._setting_lock:
            self._settings = replace(self._settings, allowance=allowance)

    def status(
        self, name: str, devices: Mapping[str, str], importance: float, interval_ms: float
    ) -> Status:
        """Return the status for other classifiers on the device; can be called from any thread.

        It refers to the platform in use. name: unique among the classifiers. devices: the
        processor or GPU of each platform. interval_ms: mean time between frames; infinite if none
        arrive.
        """
        level, platform = self._frame.choice.option
        settings = self._settings
        constraints = settings.constraints
        rests_ms = self._outside_ms[constraints.latency_scope].ordered
        rest_ms = max(rests_ms[len(rests_ms) // 2], 0.0) if rests_ms else 0.0
        return Status(
            name=name,
            device=devices[self.table.platforms[platform]],
            level=level,
            latencies_ms=tuple(ms + rest_ms for ms in self.table.latencies_ms[platform]),
            accuracies=self.table.accuracies,
            limit_ms=settings.limit_ms,
            quantile=constraints.quantile,
            floor=settings.floor,
            priority=constraints.priority,
            importance=importance,
            interval_ms=interval_ms,
            frames=tuple(self._recent_frames),
        )

    def decide(self, time_ns: int) -> Decision | None:
        """Apply settings that changed since the last frame; call this before each frame.

        Return the resulting switch, or None if there is none.
        """
        settings = self._settings
        if settings is self._applied:
            return None
        time_ns = self._steady(time_ns)
        before, self._applied = self._applied, settings
        is_new_policy = settings.policy != before.policy
        if is_new_policy:
            self._policy = self._policy_factory(self.table, settings.policy)
        is_changed = is_new_policy or settings.constraints != before.constraints
        if not is_changed and self._option in self._candidates(time_ns):
            return None
        situation = self._situation(time_ns, is_changed=is_changed)
        return self._apply(situation, self._policy.decide(situation), is_new_policy=is_new_policy)

    def observe(self, measurement: Measurement) -> Decision | None:
        """Process the latencies of one frame; return the resulting switch, or None."""
        end_ns, inference_ms = measurement.time_ns, measurement.inference_ms
        time_ns = self._steady(end_ns)
        if time_ns != end_ns:
            measurement = measurement._replace(time_ns=time_ns)
        is_first, self._is_first_after_switch = self._is_first_after_switch, False
        option = self._option_of(measurement.level, measurement.platform)
        if self._outages:
            self._outages.work(option, time_ns)
        self._period_ms = measurement.period_ms
        if not is_first:
            self._experiences[option.platform].observe(measurement)
        for scope, scope_ms in (
            ('node', measurement.node_ms),
            ('end_to_end', measurement.end_to_end_ms),
        ):
            outside_ms = scope_ms - inference_ms
            if math.isfinite(outside_ms):
                self._outside_ms[scope].add(outside_ms)
        latency_ms = getattr(measurement, f'{self._applied.constraints.latency_scope}_ms')
        if 0.0 < latency_ms < math.inf:
            self._recent_frames.append(Frame(end_ns, latency_ms, measurement.level))
        self._count_violation(latency_ms)
        has_wait = self._applied.constraints.latency_scope != 'inference'
        situation = self._situation(
            time_ns,
            latency_ms,
            inference_ms,
            measurement.wait_ms if has_wait else 0.0,
            is_first=is_first,
        )
        return self._apply(situation, self._policy.decide(situation))

    def observe_failure(
        self, time_ns: int, level: int, platform: str = '', *, is_whole_platform: bool = False
    ) -> Decision | None:
        """Process a failure of inference; return the switch to an option that works, or None.

        The option (or its whole platform, if several of its levels fail) is tried again after a
        waiting time, which doubles with every failure. If all options fail, they take turns.
        """
        time_ns = self._steady(time_ns)
        option = self._option_of(level, platform)
        self._outages.fail(option, time_ns, is_whole_platform=is_whole_platform)
        situation = self._situation(time_ns)
        choice = self._policy.decide(situation)
        why = f'inference fails at {self.table.name(option)}: {choice.reason}'
        return self._apply(situation, choice._replace(why=why))

    def _steady(self, time_ns: int) -> int:
        """Return the time, shifted so that it never goes back.

        Otherwise, holds and waits would last as long as a clock was set back.
        """
        self._shift_ns = max(self._shift_ns, self._last_ns - time_ns)
        self._last_ns = time_ns + self._shift_ns
        return self._last_ns

    def _option_of(self, level: int, platform: str) -> Option:
        place = self._frame.choice.option.platform
        return Option(level, self.table.platforms.index(platform) if platform else place)

    def _situation(
        self,
        time_ns: int,
        latency_ms: float = NAN,
        inference_ms: float = NAN,
        wait_ms: float = 0.0,
        *,
        is_changed: bool = False,
        is_first: bool = False,
    ) -> Situation:
        settings, constraints = self._applied, self._applied.constraints
        scope = constraints.latency_scope
        return Situation(
            time_ns=time_ns,
            option=self._option,
            candidates=self._candidates(time_ns),
            latency_ms=latency_ms,
            limit_ms=settings.limit_ms,
            inference_ms=inference_ms,
            inference_limit_ms=settings.limit_ms - self._outside_quantile_ms(),
            floor=settings.floor,
            priority=constraints.priority,
            quantile=constraints.quantile,
            forecasts=[
                experience.forecast(time_ns, scope, self._period_ms)
                for experience in self._experiences
            ],
            wait_ms=wait_ms,
            is_first_after_switch=is_first,
            is_changed=is_changed,
        )

    def _candidates(self, time_ns: int) -> Sequence[Option]:
        """Return the options that work and that are allowed beside other classifiers."""
        candidates: Sequence[Option] = self.table.ladder
        if self._outages:
            candidates = self._outages.usable(candidates, time_ns)
        if self._applied.allowance is not None:
            candidates = [o for o in candidates if self._is_allowed(o)] or candidates[:1]
        return candidates

    def _is_allowed(self, option: Option) -> bool:
        """Return whether the allowance, which refers to the platform in use, permits an option."""
        settings, accuracies = self._applied, self.table.accuracies
        allowance, at = settings.allowance, self._option
        if allowance is None or at is None or settings.policy.name == 'fixed':
            return True
        if option.platform != at.platform:
            return True
        lowest, highest = accuracies[allowance.lowest - 1], accuracies[allowance.highest - 1]
        if settings.floor > 0.0 and settings.constraints.priority == 'accuracy':
            # The accuracy floor also has priority over the limits of other classifiers.
            accurate = [accuracy for accuracy in accuracies if accuracy >= settings.floor]
            highest = max(highest, min(accurate, default=highest))
        return lowest <= self.table.accuracy(option) <= highest

    def _outside_quantile_ms(self) -> float:
        """Return the quantile of the time outside inference in the limit's scope; 0 if unknown.

        The constraint's quantile is used instead of the mean, because this time has a long tail.
        It is rounded down, so that a single slow frame (the first one) has no effect.
        """
        constraints = self._applied.constraints
        outside_ms = self._outside_ms[constraints.latency_scope].ordered
        if not outside_ms:
            return 0.0
        return outside_ms[int(constraints.quantile * (len(outside_ms) - 1))]

    def _count_violation(self, latency_ms: float) -> None:
        if is_late(latency_ms, self._applied.constraints.max_latency_ms):
            self._violations += 1
            self._consecutive_violations += 1
        else:
            self._consecutive_violations = 0

    def _ready_choice(self, situation: Situation, choice: Choice) -> Choice:
        """Return the choice if its level is in memory, or else the next lower one that is."""
        self._wanted = choice.option
        # The level in use stays in memory.
        if choice.option == self._option or self._is_loaded(choice.option):
            return choice
        rank = self.table.rank
        lower = [o for o in situation.candidates if rank[o] < rank[choice.option]]
        loaded = [o for o in lower if self._is_loaded(o)]
        if not loaded:
            return choice
        name = self.table.name(choice.option)
        instead = max(loaded, key=rank.__getitem__)
        return Choice(instead, choice.is_feasible, f'{name} is being loaded; {choice.reason}')

    def _is_loaded(self, option: Option) -> bool:
        return self._is_ready(option.level, self.table.platforms[option.platform])

    def _within_budget(self, situation: Situation, choice: Choice) -> Choice:
        """Defer a move up if the maximum number of moves up in the last minute is reached."""
        at, rank, time_ns = self._option, self.table.rank, situation.time_ns
        if at is None or rank[choice.option] <= rank[at] or at not in situation.candidates:
            return choice
        while self._upward_ns and time_ns - self._upward_ns[0] > MINUTE_NS:
            self._upward_ns.popleft()
        budget = self._applied.policy.max_switches_per_minute
        if len(self._upward_ns) + 1 > budget:
            reason = f'deferred: {budget:g} moves up per minute allowed; {choice.reason}'
            return Choice(at, choice.is_feasible, reason)
        self._upward_ns.append(time_ns)
        return choice

    def _apply(
        self, situation: Situation, choice: Choice, *, is_new_policy: bool = False
    ) -> Decision | None:
        before = self._option
        choice = self._ready_choice(situation, choice)
        if choice.option != before and not is_new_policy:
            choice = self._within_budget(situation, choice)
        allowance = self._applied.allowance
        if allowance is not None and before is not None and not self._is_allowed(before):
            choice = choice._replace(why=f'{allowance.reason}; {choice.reason}')
        if self._outages and self._outages.is_failing(choice.option, situation.time_ns):
            choice = choice._replace(is_feasible=False, why='inference fails at every level')
        decision = None
        if choice.option != before:
            self._switch_count += 1
            self._is_first_after_switch = True
            decision = self._decision(situation, before, choice)
        self._option = choice.option
        self._frame = self._new_frame(situation, choice)
        return decision

    def _decision(self, situation: Situation, before: Option | None, choice: Choice) -> Decision:
        table, constraints, option = self.table, self._applied.constraints, choice.option
        forecast = situation.forecasts[option.platform]
        return Decision(
            time_ns=situation.time_ns,
            from_level=before.level if before else 0,
            to_level=option.level,
            reason=choice.reason,
            policy=self._applied.policy.name,
            is_feasible=choice.is_feasible,
            slowdown=forecast.slowdown,
            expected_inference_ms=forecast.inference_ms(option.level),
            predicted_latency_ms=forecast.quantile_ms(option.level, situation.quantile),
            max_latency_ms=constraints.max_latency_ms,
            min_accuracy=constraints.min_accuracy,
            from_platform=table.platforms[before.platform] if before else '',
            to_platform=table.platforms[option.platform],
        )

    def _new_frame(self, situation: Situation, choice: Choice) -> _Frame:
        return _Frame(
            situation,
            choice,
            self._applied,
            self._violations,
            self._consecutive_violations,
            self._switch_count,
        )


def _experience(profile: LatencyProfile) -> Experience:
    """Return an empty experience of a platform."""
    return Experience(
        [level.median_ms for level in profile.levels],
        [level.sd_ms / level.mean_ms if level.mean_ms > 0.0 else NAN for level in profile.levels],
    )
