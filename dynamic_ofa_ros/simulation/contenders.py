"""The policies of a simulation: the node's, and those that only a simulator can run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.runtime.policies import (
    Choice,
    Option,
    OptionTable,
    PolicyFactory,
    PolicySettings,
    Situation,
    create_policy,
    policy_names,
)
from dynamic_ofa_ros.simulation.alert import TUNED_CONSTANTS, AlertPolicy
from dynamic_ofa_ros.simulation.record import clairvoyant_level

UNLIMITED = PolicySettings('fixed', max_switches_per_minute=float('inf'))
"""Settings for the simulator's own policies, which have no limit on switches."""


@dataclass
class Foresight:
    """The latency of every level for the next frame, set by the simulator for the oracle."""

    level_latencies_ms: tuple[float, ...] = ()
    limit_ms: float = math.inf


class OraclePolicy:
    """Chooses the most accurate level that will meet the limit, from the known latencies."""

    def __init__(self, table: OptionTable, foresight: Foresight) -> None:
        self._table, self._foresight = table, foresight

    def decide(self, situation: Situation) -> Choice:
        """Return the most accurate level that meets the limit, or else the fastest."""
        latencies_ms, limit_ms = self._foresight.level_latencies_ms, self._foresight.limit_ms
        accuracies = self._table.accuracies * len(self._table.platforms)
        place = clairvoyant_level(accuracies, latencies_ms, limit_ms) - 1
        platform, level = divmod(place, self._table.level_count)
        is_feasible = latencies_ms[place] <= limit_ms
        text = f'will take {latencies_ms[place]:.2f} ms'
        return Choice(Option(level + 1, platform), is_feasible, text)


@dataclass(frozen=True)
class Contender:
    """A named policy; `create` builds it for a manager.

    pays_switches: whether its switches have a cost; those of the oracle have none, because it is
    an upper bound.
    """

    name: str
    settings: PolicySettings
    create: PolicyFactory
    pays_switches: bool = True


def contender_names() -> tuple[str, ...]:
    """Return the names of all contenders: the node's policies and the simulator's own."""
    return (*policy_names(), 'alert', 'alert_tuned', 'oracle')


def contender(policy: str | PolicySettings, foresight: Foresight | None = None) -> Contender:
    """Return the contender with a name, or with settings for one of the node's policies.

    Raise SimulationError if the name is unknown, or for `oracle` without a foresight.
    """
    if isinstance(policy, PolicySettings):
        return Contender(policy.name, policy, create_policy)
    if policy in policy_names():
        return Contender(policy, PolicySettings(policy), create_policy)
    if policy in ('alert', 'alert_tuned'):
        constants = TUNED_CONSTANTS if policy == 'alert_tuned' else None
        return Contender(policy, UNLIMITED, lambda table, _: AlertPolicy(table, constants))
    if policy != 'oracle':
        raise SimulationError(
            f'there is no policy {policy!r}; it must be one of: {", ".join(contender_names())}'
        )
    if foresight is None:
        raise SimulationError(
            'the oracle requires a trace: on a shared processor, the latency of a frame depends '
            'on other models'
        )
    known = foresight
    return Contender(policy, UNLIMITED, lambda table, _: OraclePolicy(table, known), False)


def with_options(policy: str, options: Mapping[str, float | int | None]) -> str | PolicySettings:
    """Return the settings of one of the node's policies with the options that are not None.

    Raise SimulationError for options of the simulator's own policies, which have none.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return policy
    if policy not in policy_names():
        contender(policy, Foresight())  # raises an error if the name is unknown
        raise SimulationError(f'policy {policy} has no options, found {", ".join(given)}')
    return replace(PolicySettings(policy), **given)  # type: ignore[arg-type]
