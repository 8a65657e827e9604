"""Policies: which level to run, given what was measured and what is wanted.

A policy is a small class with one method, `decide`, in a module of its own, and a line in
`_POLICIES`. It reads no clock: time comes with the situation, so a simulator can drive it.
"""

from __future__ import annotations

from collections.abc import Callable

from dynamic_ofa_ros.runtime.policies import settings as known
from dynamic_ofa_ros.runtime.policies.common import (
    Choice,
    Option,
    OptionTable,
    Policy,
    PolicyError,
    Situation,
    best_option,
)
from dynamic_ofa_ros.runtime.policies.fixed import FixedPolicy
from dynamic_ofa_ros.runtime.policies.predictive import PredictivePolicy
from dynamic_ofa_ros.runtime.policies.reactive import ReactivePolicy
from dynamic_ofa_ros.runtime.policies.settings import DEFAULT_POLICY, PolicySettings
from dynamic_ofa_ros.runtime.policies.table import TablePolicy

__all__ = [
    'DEFAULT_POLICY',
    'Choice',
    'Option',
    'OptionTable',
    'Policy',
    'PolicyError',
    'PolicyFactory',
    'PolicySettings',
    'Situation',
    'add_policy',
    'best_option',
    'create_policy',
    'platform_note',
    'policy_names',
]

PolicyFactory = Callable[[OptionTable, PolicySettings], Policy]

_POLICIES: dict[str, PolicyFactory] = {
    'predictive': PredictivePolicy,
    'table': TablePolicy,
    'reactive': ReactivePolicy,
    'fixed': FixedPolicy,
}

_OF_ONE_PLATFORM = ('reactive', 'fixed')


def policy_names() -> tuple[str, ...]:
    """Return the names that `PolicySettings` accepts."""
    return known.POLICY_NAMES


def add_policy(name: str, factory: PolicyFactory) -> None:
    """Add a policy to try out; a node takes it when this comes before the node's import."""
    _POLICIES[name] = factory
    known.POLICY_NAMES = (*known.POLICY_NAMES, name)


def create_policy(table: OptionTable, settings: PolicySettings) -> Policy:
    """Build the policy that the settings name; raise PolicyError when it cannot be set up."""
    return _POLICIES[settings.name](table, settings)


def platform_note(table: OptionTable, settings: PolicySettings) -> str:
    """Return, for the user, that the policy uses one of several platforms; '' if it uses all."""
    if len(table.platforms) == 1 or settings.name not in _OF_ONE_PLATFORM:
        return ''
    others = ', '.join(table.platforms[1:])
    return f'policy {settings.name} uses {table.platforms[0]} only, not {others}'
