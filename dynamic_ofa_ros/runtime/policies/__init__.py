"""Policies choose the level from measurements and constraints.

A policy is a class with the method `decide`, in its own module, and an entry in `_POLICIES`. It
reads no clock: the situation contains the time, so that a simulator can run it.
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
    """Add an experimental policy; to use it in a node, call this before importing the node."""
    _POLICIES[name] = factory
    known.POLICY_NAMES = (*known.POLICY_NAMES, name)


def create_policy(table: OptionTable, settings: PolicySettings) -> Policy:
    """Build the policy named by the settings; raise PolicyError if the settings are invalid."""
    return _POLICIES[settings.name](table, settings)


def platform_note(table: OptionTable, settings: PolicySettings) -> str:
    """Return a message if the policy uses only one of several platforms; otherwise ''."""
    if len(table.platforms) == 1 or settings.name not in _OF_ONE_PLATFORM:
        return ''
    others = ', '.join(table.platforms[1:])
    return f'policy {settings.name} uses {table.platforms[0]} only, not {others}'
