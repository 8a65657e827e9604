"""Plan the segments of `benchmarks.contention`: their order, and the time budget."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.contention_site import LOADS
from benchmarks.journal import Journal
from dynamic_ofa_ros.errors import DynamicOfaError

LIKELY = 2
"""Number of fixed levels besides the lowest and the highest; those with the best trials."""

PAUSE_S = 2.7
"""Time overhead of a segment or a trial."""

START_S = 40.0


def turns(policies: Sequence[str], count: int) -> list[tuple[int, str]]:
    """Return (round, policy) in the order of measurement; every round has another first policy."""
    step = max(1, len(policies) // max(1, count))
    return [
        (turn, policies[(place + turn * step) % len(policies)])
        for turn in range(count)
        for place in range(len(policies))
    ]


def fixed_of(
    node: Mapping[str, Any], limit: Mapping[str, Any], chosen: str | tuple[int, ...]
) -> list[str]:
    """Return the fixed levels to measure for a load, as policies."""
    levels = [level['level'] for level in node['levels']]
    if isinstance(chosen, tuple):
        if unknown := set(chosen) - set(levels):
            raise DynamicOfaError(
                f'there is no level {min(unknown)}; the family has {len(levels)} levels'
            )
        levels = list(chosen)
    elif chosen == 'likely':

        def expected(level: int) -> float:
            """Return the expected on-time accuracy by the trials, with load half of the time."""
            free, contended = (
                float(np.mean(np.array(known(trial)) <= limit['limit_ms']))
                for trial in (node['free_ms'][str(level)], limit['contended_ms'][str(level)])
            )
            free = max(free, contended)  # a slow trial without load was disturbed by others
            return float(node['levels'][level - 1]['accuracy']) * (free + contended)

        best = sorted(levels[1:-1], key=expected)[-LIKELY:]
        levels = sorted({levels[0], *best, levels[-1]})
    return [f'fixed {level}' for level in levels]


def is_lacking(journal: Journal, name: str, count: int, options: argparse.Namespace) -> bool:
    """Return whether any segment of the first `count` rounds for a load is missing."""
    limits, nodes = (
        journal.find('limit', load=name),
        journal.find('node', device=LOADS[name].device),
    )
    if not limits:
        return True
    policies = [*fixed_of(nodes[0], limits[0], options.fixed), *options.policies]
    return any(
        not journal.find('segment', load=name, policy=policy, turn=turn)
        for turn, policy in turns(policies, count)
    )


def costs_s(
    journal: Journal, loads: Sequence[str], level_count: int, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Return the time for the missing segments in s, by load and round."""
    trials_s = level_count * (options.trial_seconds + PAUSE_S)
    segment_s = options.seconds + PAUSE_S
    costs = {}
    for name in loads:
        limits = journal.find('limit', load=name)
        nodes = journal.find('node', device=LOADS[name].device)
        if limits:
            fixed = fixed_of(nodes[0], limits[0], options.fixed)
        else:
            counts = {'all': level_count, 'likely': min(LIKELY + 2, level_count)}
            fixed = ['?'] * (counts[options.fixed] if isinstance(options.fixed, str)
                             else len(options.fixed))  # fmt: skip
        policies = [*fixed, *options.policies]
        costs[name] = [0.0] * options.repeats
        for turn, policy in turns(policies, options.repeats):
            if not journal.find('segment', load=name, policy=policy, turn=turn):
                costs[name][turn] += segment_s
        costs[name][0] += 0.0 if limits else trials_s
    first = next((name for name in loads if sum(costs[name])), None)
    if first:
        costs[first][0] += START_S + (0.0 if journal.find('node') else trials_s)
    return costs


def within_budget(costs: Mapping[str, Sequence[float]], budget_s: float) -> dict[str, int]:
    """Return the number of rounds of each load that fit into the budget, in the order of loads.

    The first round of the first load is measured in any case.
    """
    rounds, left_s, has_begun = dict.fromkeys(costs, 0), budget_s, False
    for name, of_load in costs.items():
        for cost_s in of_load:
            if has_begun and cost_s > max(left_s, 0.0):
                left_s = 0.0  # the budget is used up
                break
            rounds[name] += 1
            left_s -= cost_s
            has_begun = has_begun or cost_s > 0.0
    return rounds


def known(samples_ms: Sequence[float | None]) -> list[float]:
    """Return latencies, with infinity for None."""
    return [math.inf if latency_ms is None else latency_ms for latency_ms in samples_ms]
