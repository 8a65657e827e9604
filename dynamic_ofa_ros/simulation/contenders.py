"""Who decides in a simulation: the node's policies, and those that only a simulator can run."""

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
"""For policies of the simulator: the manager's switch budget is none of theirs."""


@dataclass
class Foresight:
    """What every level will take for the next frame; the simulator writes it, the oracle reads."""

    level_latencies_ms: tuple[float, ...] = ()
    limit_ms: float = math.inf


class OraclePolicy:
    """Clairvoyant: the most accurate level that will meet the limit, noise included."""

    def __init__(self, table: OptionTable, foresight: Foresight) -> None:
        self._table, self._foresight = table, foresight

    def decide(self, situation: Situation) -> Choice:
        """Return the level that suits the coming frame; the fastest where none does."""
        latencies_ms, limit_ms = self._foresight.level_latencies_ms, self._foresight.limit_ms
        accuracies = self._table.accuracies * len(self._table.platforms)
        place = clairvoyant_level(accuracies, latencies_ms, limit_ms) - 1
        platform, level = divmod(place, self._table.level_count)
        is_feasible = latencies_ms[place] <= limit_ms
        text = f'will take {latencies_ms[place]:.2f} ms'
        return Choice(Option(level + 1, platform), is_feasible, text)


@dataclass(frozen=True)
class Contender:
    """A policy under a name; `create` builds it for a manager.

    pays_switches: whether its switches cost anything; the oracle's do not, it is a bound.
    """

    name: str
    settings: PolicySettings
    create: PolicyFactory
    pays_switches: bool = True


def contender_names() -> tuple[str, ...]:
    """Return the names that `contender` knows: the node's policies and the simulator's own."""
    return (*policy_names(), 'alert', 'alert_tuned', 'oracle')


def contender(policy: str | PolicySettings, foresight: Foresight | None = None) -> Contender:
    """Return the contender of a name, or of settings for one of the node's policies.

    `oracle` needs a foresight. Raises SimulationError for a name that is not known, or for the
    oracle where nothing can be foreseen.
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
            'the oracle cannot decide here: what a frame will take depends on what others do; '
            'it can on a trace'
        )
    known = foresight
    return Contender(policy, UNLIMITED, lambda table, _: OraclePolicy(table, known), False)


def with_options(policy: str, options: Mapping[str, float | int | None]) -> str | PolicySettings:
    """Return settings of one of the node's policies with the options that are not None.

    Raises SimulationError for options of the simulator's own policies: they have none.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return policy
    if policy not in policy_names():
        contender(policy, Foresight())  # a name that nobody knows is the greater mistake
        raise SimulationError(f'policy {policy} has no option {" and no option ".join(given)}')
    return replace(PolicySettings(policy), **given)  # type: ignore[arg-type]
