from __future__ import annotations

import math

import pytest

from dynamic_ofa_ros.nodes import parameter_table, parameters
from dynamic_ofa_ros.runtime.policies import DEFAULT_POLICY, policy_names

TABLES = {
    'classifier': parameters.CLASSIFIER,
    'camera': parameters.CAMERA,
    'contention': parameters.CONTENTION,
}
EVERY_SPEC = [
    pytest.param(spec, id=f'{node}-{spec.name}')
    for node, specs in TABLES.items()
    for spec in specs
]
DEFAULTS = {spec.name: spec.default for spec in parameters.CLASSIFIER}


@pytest.mark.parametrize('spec', EVERY_SPEC)
def test_default_is_valid_and_there_is_a_description(spec):
    assert spec.problem(spec.default) == ''
    assert spec.meaning
    is_number = isinstance(spec.default, (int, float)) and not isinstance(spec.default, bool)
    assert spec.has_range == is_number


@pytest.mark.parametrize('spec', EVERY_SPEC)
def test_values_outside_the_range_are_rejected(spec):
    if spec.has_range:
        step = 1 if isinstance(spec.default, int) else 0.001
        for value in (spec.lowest - step, spec.highest + step):
            assert spec.name in spec.problem(type(spec.default)(value))
    if spec.choices:
        assert spec.name in spec.problem('no such choice')


@pytest.mark.parametrize('specs', TABLES.values(), ids=TABLES)
def test_names_are_unique(specs):
    names = [spec.name for spec in specs]
    assert len(set(names)) == len(names)


def test_policies_are_those_of_the_runtime():
    spec = next(spec for spec in parameters.CLASSIFIER if spec.name == 'manager.policy')
    assert spec.choices == policy_names()
    assert spec.default == DEFAULT_POLICY


@pytest.mark.parametrize('device', ['auto', 'cpu', 'cuda', 'cuda:1'])
def test_valid_and_invalid_devices(device):
    spec = next(spec for spec in parameters.CLASSIFIER if spec.name == 'device')
    assert spec.problem(device) == ''
    assert spec.problem(f'{device}!') != ''


def test_default_settings_set_no_constraint():
    settings = parameters.classifier_settings(DEFAULTS)
    assert not settings.constraints.has_latency
    assert not settings.constraints.has_accuracy
    assert settings.policy.name == DEFAULT_POLICY
    assert settings.is_enabled


CHANGES = {
    'constraints.max_latency_ms': (12.5, lambda s: s.constraints.max_latency_ms),
    'constraints.min_accuracy': (0.7, lambda s: s.constraints.min_accuracy),
    'constraints.latency_scope': ('end_to_end', lambda s: s.constraints.latency_scope),
    'constraints.quantile': (0.9, lambda s: s.constraints.quantile),
    'constraints.priority': ('accuracy', lambda s: s.constraints.priority),
    'manager.policy': ('fixed', lambda s: s.policy.name),
    'manager.fixed_level': (2, lambda s: s.policy.fixed_level),
    'manager.window': (20, lambda s: s.policy.window),
    'manager.hold_s': (2.0, lambda s: s.policy.hold_s),
    'manager.max_switches_per_minute': (5.0, lambda s: s.policy.max_switches_per_minute),
    'manager.coordination': ('collective', lambda s: 'collective' if s.is_collective else ''),
    'manager.importance': (3.0, lambda s: s.importance),
    'max_frame_age_ms': (50.0, lambda s: s.worker.max_frame_age_ms),
    'top_k': (1, lambda s: s.worker.top_k),
    'score_threshold': (0.3, lambda s: s.worker.score_threshold),
    'telemetry.every_n': (7, lambda s: s.telemetry_every_n),
    'enabled': (False, lambda s: s.is_enabled),
}


def test_every_live_parameter_reaches_the_settings():
    assert CHANGES.keys() == {spec.name for spec in parameters.CLASSIFIER_LIVE}
    before = parameters.classifier_settings(DEFAULTS)
    for name, (value, read) in CHANGES.items():
        assert read(parameters.classifier_settings({**DEFAULTS, name: value})) == value
        assert read(before) != value


def test_zero_removes_a_constraint():
    values = {**DEFAULTS, parameters.MAX_LATENCY: 0.0, parameters.MIN_ACCURACY: 0.0}
    constraints = parameters.classifier_settings(values).constraints
    assert math.isnan(constraints.max_latency_ms)
    assert math.isnan(constraints.min_accuracy)


def test_markdown_tables_list_every_parameter():
    table = parameter_table.markdown_tables(parameters.CLASSIFIER)
    assert all(f'| `{name}` |' in table for name in DEFAULTS)
