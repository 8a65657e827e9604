"""RuntimeManager: monitors latency, asks the policy, switches the level.

It reads no clock and knows no thread but the one that calls `observe`: the simulator drives the
very same object with simulated time. Constraints and policy may be set from any thread; they swap
one frozen snapshot, which the next frame reads.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from dynamic_ofa_ros.adaptation import is_late
from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.family import LatencyProfile
from dynamic_ofa_ros.runtime.coordination import FRAMES_TOLD, Allowance, Frame, Status
from dynamic_ofa_ros.runtime.decisions import Decision, ManagerState, Measurement
from dynamic_ofa_ros.runtime.experience import CONTENDED_ABOVE, Experience, Seen
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

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Level

NAN = math.nan
OUTSIDE_FRAMES = 100
"""Frames from which the quantile of what lies outside inference is taken."""

MINUTE_NS = 60_000_000_000


@dataclass(frozen=True)
class _Settings:
    """Everything that another thread may change, swapped as one."""

    constraints: Constraints
    policy: PolicySettings
    allowance: Allowance | None = None

    @property
    def floor(self) -> float:
        return self.constraints.min_accuracy if self.constraints.has_accuracy else 0.0

    @property
    def limit_ms(self) -> float:
        return self.constraints.max_latency_ms if self.constraints.has_latency else math.inf


class _Frame(NamedTuple):
    """What a frame leaves behind; `state` is made of it when somebody asks."""

    situation: Situation
    choice: Choice
    settings: _Settings
    violations: int
    consecutive_violations: int
    switch_count: int


class RuntimeManager:
    """Decides level and platform, frame by frame. `observe` costs microseconds, never blocks.

    Given the profiles of several platforms it chooses among them too. What it knows of a platform
    that is not in use fades, so one that was left because others used it is tried again.
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
        self._is_ready = is_ready
        self._policy_factory = policy_factory
        self._setting_lock = threading.Lock()
        self._settings = _Settings(constraints or Constraints(), policy or PolicySettings())
        self._applied = self._settings
        self._policy: Policy = self._policy_factory(self.table, self._settings.policy)
        self._outside_ms: dict[str, deque[float]] = {
            scope: deque(maxlen=OUTSIDE_FRAMES) for scope in ('node', 'end_to_end')
        }
        self._period_ms = NAN
        self._upward_ns: deque[int] = deque()
        self._recent_frames: deque[Frame] = deque(maxlen=FRAMES_TOLD)
        self._is_first_after_switch = True
        self._violations = 0
        self._consecutive_violations = 0
        self._switch_count = 0
        self._option: Option | None = None
        situation = self._situation(0, is_changed=True)
        choice = self._that_is_ready(situation, self._policy.decide(situation))
        self.initial_decision = self._decision(situation, None, choice)
        self._option = choice.option
        self._frame = self._new_frame(situation, choice)

    @property
    def active_level(self) -> int:
        """The level that the next frame runs at, from 1."""
        return self._frame.choice.option.level

    @property
    def active_platform(self) -> str:
        """The platform that the next frame runs on."""
        return self.table.platforms[self._frame.choice.option.platform]

    @property
    def wanted(self) -> tuple[int, str]:
        """The level and the platform to run as soon as that level is in memory."""
        return self._wanted.level, self.table.platforms[self._wanted.platform]

    def uncontended_ms(self, level: int, platform: str) -> float:
        """Return the inference latency of a level on a platform that nobody else uses."""
        return self.table.latency_ms(Option(level, self.table.platforms.index(platform)))

    @property
    def state(self) -> ManagerState:
        """The snapshot after the last frame; safe to read from any thread."""
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
        level, platform = self._frame.choice.option
        settings = self._settings
        constraints = settings.constraints
        rests_ms = sorted(self._outside_ms.get(constraints.latency_scope, ()))
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
        """Obey settings that changed since the last frame; call before each frame.

        Returns the switch this causes, None (nearly always, at no cost) when there is none.
        """
        settings = self._settings
        if settings is self._applied:
            return None
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
        """Take one frame's latencies; return the switch they cause, None when the level stays."""
        time_ns, inference_ms = measurement.time_ns, measurement.inference_ms
        is_first, self._is_first_after_switch = self._is_first_after_switch, False
        option = self._option_of(measurement.level, measurement.platform)
        if self._outages:
            self._outages.work(option)
        self._period_ms = measurement.period_ms
        seen = Seen(
            inference_ms, measurement.node_ms, measurement.end_to_end_ms, measurement.wait_ms
        )
        if not is_first:
            self._experiences[option.platform].observe(time_ns, option.level, seen)
        for scope, scope_ms in (('node', seen.node_ms), ('end_to_end', seen.end_to_end_ms)):
            if math.isfinite(scope_ms):
                self._outside_ms[scope].append(scope_ms - inference_ms)
        latency_ms = getattr(measurement, f'{self._applied.constraints.latency_scope}_ms')
        if 0.0 < latency_ms < math.inf:
            self._recent_frames.append(Frame(time_ns, latency_ms, measurement.level))
        self._count_violation(latency_ms)
        situation = self._situation(time_ns, latency_ms, inference_ms, is_first=is_first)
        return self._apply(situation, self._policy.decide(situation))

    def observe_failure(
        self, time_ns: int, level: int, platform: str = '', *, is_whole_platform: bool = False
    ) -> Decision | None:
        """Take note that inference raised; return the switch to what still works.

        The option, or its whole platform when several of its levels fail, is tried again after a
        wait that doubles. Where nothing else is left, everything is tried on.
        """
        option = self._option_of(level, platform)
        self._outages.fail(option, self.table.rank, time_ns, is_whole_platform=is_whole_platform)
        situation = self._situation(time_ns)
        choice = self._policy.decide(situation)
        why = f'inference fails at {self.table.name(option)}: {choice.reason}'
        return self._apply(situation, choice._replace(why=why))

    def _option_of(self, level: int, platform: str) -> Option:
        place = self._frame.choice.option.platform
        return Option(level, self.table.platforms.index(platform) if platform else place)

    def _situation(
        self,
        time_ns: int,
        latency_ms: float = NAN,
        inference_ms: float = NAN,
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
            is_first_after_switch=is_first,
            is_changed=is_changed,
        )

    def _candidates(self, time_ns: int) -> Sequence[Option]:
        """Return what may be chosen now: what works, and what the other classifiers leave."""
        candidates: Sequence[Option] = self.table.ladder
        if self._outages:
            working = [o for o in candidates if not self._outages.is_out(o, time_ns)]
            candidates = working or candidates
        if self._applied.allowance is not None:
            candidates = [o for o in candidates if self._is_allowed(o)] or candidates[:1]
        return candidates

    def _is_allowed(self, option: Option) -> bool:
        """Tell whether the others leave an option; what they say is about the platform in use."""
        settings, accuracies = self._applied, self.table.accuracies
        allowance, at = settings.allowance, self._option
        if allowance is None or at is None or settings.policy.name == 'fixed':
            return True
        if option.platform != at.platform:
            return True
        lowest, highest = accuracies[allowance.lowest - 1], accuracies[allowance.highest - 1]
        if settings.floor > 0.0 and settings.constraints.priority == 'accuracy':
            # With priority over the others' limits too.
            accurate = [accuracy for accuracy in accuracies if accuracy >= settings.floor]
            highest = max(highest, min(accurate, default=highest))
        return lowest <= self.table.accuracy(option) <= highest

    def _outside_quantile_ms(self) -> float:
        """Return what of the limited latency passed outside inference; 0 while it is unknown.

        The quantile of the last frames that the constraint asks for, not their mean: it has a tail
        of its own. Rounded down, so that one slow frame (the first) does not decide.
        """
        constraints = self._applied.constraints
        outside_ms = sorted(self._outside_ms.get(constraints.latency_scope, ()))
        if not outside_ms:
            return 0.0
        return outside_ms[int(constraints.quantile * (len(outside_ms) - 1))]

    def _count_violation(self, latency_ms: float) -> None:
        if is_late(latency_ms, self._applied.constraints.max_latency_ms):
            self._violations += 1
            self._consecutive_violations += 1
        else:
            self._consecutive_violations = 0

    def _that_is_ready(self, situation: Situation, choice: Choice) -> Choice:
        """Return the choice, or the next lower one in memory while that one is not."""
        self._wanted = choice.option
        if self._is_ready is None or self._is_there(choice.option):
            return choice
        rank = self.table.rank
        lower = [o for o in situation.candidates if rank[o] < rank[choice.option]]
        there = [o for o in lower if self._is_there(o)]
        if not there:
            return choice
        name = self.table.name(choice.option)
        instead = max(there, key=rank.__getitem__)
        return Choice(instead, choice.is_feasible, f'{name} is being loaded; {choice.reason}')

    def _is_there(self, option: Option) -> bool:
        assert self._is_ready is not None
        return self._is_ready(option.level, self.table.platforms[option.platform])

    def _within_budget(self, situation: Situation, choice: Choice) -> Choice:
        """Hold back a move up when the last minute had its share of them, whoever asked for it."""
        at, rank, time_ns = self._option, self.table.rank, situation.time_ns
        if at is None or rank[choice.option] <= rank[at] or at not in situation.candidates:
            return choice
        while self._upward_ns and time_ns - self._upward_ns[0] > MINUTE_NS:
            self._upward_ns.popleft()
        budget = self._applied.policy.max_switches_per_minute
        if len(self._upward_ns) + 1 > budget:
            reason = f'held back: {budget:g} moves up in a minute; {choice.reason}'
            return Choice(at, choice.is_feasible, reason)
        self._upward_ns.append(time_ns)
        return choice

    def _apply(
        self, situation: Situation, choice: Choice, *, is_new_policy: bool = False
    ) -> Decision | None:
        before = self._option
        choice = self._that_is_ready(situation, choice)
        if choice.option != before and not is_new_policy:
            choice = self._within_budget(situation, choice)
        allowance = self._applied.allowance
        if allowance is not None and before is not None and not self._is_allowed(before):
            choice = choice._replace(why=f'{allowance.reason}; {choice.reason}')
        if self._outages and self._outages.is_out(choice.option, situation.time_ns):
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
    """Return an experience of a platform that has seen nothing yet."""
    return Experience(
        [level.median_ms for level in profile.levels],
        [level.sd_ms / level.mean_ms if level.mean_ms > 0.0 else NAN for level in profile.levels],
    )
