from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue, SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.parameter import Parameter

from dynamic_ofa_ros.errors import DynamicOfaError
from dynamic_ofa_ros.nodes.parameter_table import (
    NodeParameters,
    ParameterError,
    ParameterSpec,
    markdown_tables,
)

LIMIT = ParameterSpec('limit_ms', 1.5, 'a limit, in ms', lowest=0.0, highest=100.0)
FLOOR = ParameterSpec('floor_ms', 0.5, 'less than the limit', lowest=0.0, highest=100.0)
COUNT = ParameterSpec('count', 3, 'a number', lowest=1, highest=10)
MODE = ParameterSpec('mode', 'slow', 'how', choices=('slow', 'fast'))
PLACE = ParameterSpec('place', 'cpu', 'where', choices=('cpu', 'gpu:N'), pattern=r'cpu|gpu:\d+')
FIXED = ParameterSpec('fixed', 1.0, 'for ever', lowest=0.0, highest=2.0, is_live=False)
FLAG = ParameterSpec('flag', True, 'on or off')
SPECS = (LIMIT, FLOOR, COUNT, MODE, PLACE, FIXED, FLAG)

_names = itertools.count()


@dataclass(frozen=True)
class Settings:
    limit_ms: float
    count: int


def build(values):
    if values['floor_ms'] > values['limit_ms']:
        raise DynamicOfaError('floor_ms must not exceed limit_ms')
    return Settings(values['limit_ms'], values['count'])


class HumbleNode:
    """A node whose rclpy has no pre-set and post-set callbacks."""

    def __init__(self, node):
        self._node = node

    def __getattr__(self, name):
        if name in ('add_pre_set_parameters_callback', 'add_post_set_parameters_callback'):
            raise AttributeError(name)
        return getattr(self._node, name)


def declared(domain, overrides=None, *, is_humble=False):
    """Return a node with the table declared, its parameters, and the list of changes."""
    node = domain.create_node(
        f'table_{next(_names)}',
        parameter_overrides=[Parameter(k, value=v) for k, v in (overrides or {}).items()],
    )
    changes = []
    parameters = NodeParameters(
        HumbleNode(node) if is_humble else node,
        build,
        lambda before, after: changes.append((before, after)),
    )
    parameters.declare(SPECS)
    parameters.activate()
    return node, parameters, changes


def set_one(node, name, value):
    return node.set_parameters([Parameter(name, value=value)])[0]


@pytest.mark.parametrize(
    ('spec', 'value', 'reason'),
    [
        (LIMIT, 2.0, ''),
        (LIMIT, 2, ''),
        (LIMIT, 0.0, ''),
        (LIMIT, 100.0, ''),
        (LIMIT, -0.1, 'limit_ms is -0.1; it must lie in [0, 100]'),
        (LIMIT, math.nan, 'limit_ms is nan; it must lie in [0, 100]'),
        (LIMIT, math.inf, 'limit_ms is inf; it must lie in [0, 100]'),
        (LIMIT, 'much', "limit_ms is 'much'; it must be a double: 0 to 100"),
        (LIMIT, True, 'limit_ms is True; it must be a double: 0 to 100'),
        (COUNT, 11, 'count is 11; it must lie in [1, 10]'),
        (COUNT, 2.0, 'count is 2.0; it must be an integer: 1 to 10'),
        (MODE, 'fast', ''),
        (MODE, 'sideways', "mode is 'sideways'; it must be one of: slow, fast"),
        (PLACE, 'gpu:3', ''),
        (PLACE, 'gpu:N', "place is 'gpu:N'; it must be one of: cpu, gpu:N"),
        (MODE, 9999 * 'x', f"mode is '{39 * 'x'}...; it must be one of: slow, fast"),
        (FLAG, 1, 'flag is 1; it must be a bool'),
    ],
)
def test_problem_names_parameter_value_and_range(spec, value, reason):
    assert spec.problem(value) == reason


def test_descriptors_carry_range_choices_and_whether_they_are_live():
    limit = LIMIT.descriptor()
    (interval,) = limit.floating_point_range
    assert (interval.from_value, interval.to_value, interval.step) == (0.0, 100.0, 0.0)
    assert limit.description == 'a limit, in ms'
    assert not limit.read_only
    (interval,) = COUNT.descriptor().integer_range
    assert (interval.from_value, interval.to_value, interval.step) == (1, 10, 0)
    assert MODE.descriptor().additional_constraints == 'One of: slow, fast'
    assert FIXED.descriptor().read_only


def test_described_type_is_the_defaults(domain):
    node, _, _ = declared(domain)
    types = [node.describe_parameter(spec.name).type for spec in SPECS]
    assert types == [Parameter.Type.from_parameter_value(spec.default).value for spec in SPECS]


@pytest.mark.parametrize('is_humble', [False, True])
def test_set_swaps_the_snapshot(domain, is_humble):
    node, parameters, changes = declared(domain, is_humble=is_humble)
    assert set_one(node, 'limit_ms', 20.0).successful
    assert parameters.snapshot == Settings(20.0, 3)
    assert changes == [(Settings(1.5, 3), Settings(20.0, 3))]


@pytest.mark.parametrize('is_humble', [False, True])
def test_integer_is_taken_for_a_double(domain, is_humble):
    node, parameters, _ = declared(domain, is_humble=is_humble)
    result = set_one(node, 'limit_ms', 20)
    assert result.successful, result.reason
    assert isinstance(parameters.snapshot.limit_ms, float)
    if not is_humble:
        assert isinstance(node.get_parameter('limit_ms').value, float)


@pytest.mark.parametrize('is_humble', [False, True])
@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('limit_ms', 1000),
        ('limit_ms', math.nan),
        ('limit_ms', 'x'),
        ('mode', 'up'),
        ('fixed', 1.5),
    ],
)
def test_refused_value_changes_nothing_and_names_the_parameter(domain, is_humble, name, value):
    node, parameters, changes = declared(domain, is_humble=is_humble)
    before = node.get_parameter(name).value
    result = set_one(node, name, value)
    assert not result.successful
    # rclpy's message if rclpy rejects the value first.
    assert name in result.reason or 'read-only' in result.reason or 'type' in result.reason
    assert node.get_parameter(name).value == before
    assert parameters.snapshot == Settings(1.5, 3)
    assert not changes


@pytest.mark.parametrize('is_humble', [False, True])
def test_set_is_judged_as_a_whole(domain, is_humble):
    node, parameters, _ = declared(domain, is_humble=is_humble)
    alone = set_one(node, 'floor_ms', 30.0)
    assert not alone.successful
    assert alone.reason == 'floor_ms must not exceed limit_ms'
    together = [Parameter('floor_ms', value=30.0), Parameter('limit_ms', value=40.0)]
    assert node.set_parameters_atomically(together).successful
    assert parameters.snapshot.limit_ms == 40.0


def test_one_bad_value_refuses_the_whole_atomic_set(domain):
    node, parameters, _ = declared(domain)
    both = [Parameter('limit_ms', value=50.0), Parameter('count', value=99)]
    assert not node.set_parameters_atomically(both).successful
    assert parameters.snapshot == Settings(1.5, 3)
    assert node.get_parameter('limit_ms').value == 1.5


def test_veto_of_another_callback_keeps_the_snapshot(domain):
    node, parameters, changes = declared(domain)
    node.add_on_set_parameters_callback(
        lambda _: SetParametersResult(successful=False, reason='not today')
    )
    assert not set_one(node, 'limit_ms', 20.0).successful
    assert parameters.snapshot == Settings(1.5, 3)
    assert not changes


@pytest.mark.parametrize('is_humble', [False, True])
def test_integer_override_at_start_is_taken_for_a_double(domain, is_humble):
    node, parameters, _ = declared(domain, {'limit_ms': 7, 'fixed': 2}, is_humble=is_humble)
    assert parameters.snapshot.limit_ms == 7.0
    assert isinstance(parameters.snapshot.limit_ms, float)
    assert float(node.get_parameter('fixed').value) == 2.0


@pytest.mark.parametrize('is_humble', [False, True])
@pytest.mark.parametrize(
    ('overrides', 'named'),
    [
        ({'limit_ms': 1e6}, 'limit_ms is 1e+06; it must lie in [0, 100]'),
        ({'limit_ms': -7}, 'limit_ms is -7; it must lie in [0, 100]'),
        ({'limit_ms': 'x'}, "limit_ms is 'x'"),
        ({'count': 0}, 'count is 0'),
        ({'count': 2.5}, 'count is 2.5'),
        ({'mode': 'up'}, "mode is 'up'"),
        ({'floor_ms': 99.0}, 'floor_ms must not exceed'),
    ],
)
def test_bad_override_at_start_is_refused_with_the_reason(domain, is_humble, overrides, named):
    with pytest.raises(DynamicOfaError) as caught:
        declared(domain, overrides, is_humble=is_humble)
    assert named in str(caught.value)


def test_integer_override_of_a_string_is_taken_as_text(domain):
    node = domain.create_node(
        f'table_{next(_names)}',
        parameter_overrides=[Parameter('cpus', value=1)],
    )
    parameters = NodeParameters(node, dict, lambda before, after: None)
    assert parameters.declare([ParameterSpec('cpus', '', 'which')])['cpus'] == '1'


def test_error_of_a_parameter_is_one_for_the_user():
    assert issubclass(ParameterError, DynamicOfaError)


def test_markdown_tables_have_a_line_for_each():
    lines = markdown_tables(SPECS).splitlines()
    head = ['', '| name | values (bold: default) | meaning |', '|---|---|---|']
    live = lines.index('Live:')
    assert lines[:4] == ['Read-only:', *head]
    assert lines[4:live] == ['| `fixed` | **1.0**; 0 to 2 | for ever |', '']
    assert lines[live + 1 : live + 4] == head
    assert lines[live + 4] == '| `limit_ms` | **1.5**; 0 to 100 | a limit, in ms |'
    assert '| `mode` | **slow**, fast | how |' in lines
    assert lines[-1] == '| `flag` | **true** | on or off |'
    assert sum(line.startswith('| `') for line in lines) == len(SPECS)


def test_a_request_with_an_unknown_type_is_rejected_and_the_node_lives_on(domain):
    node = domain.start('contention_node', arguments=('-r', '__ns:=/odd'))
    odd = ParameterMessage(name='workers', value=ParameterValue(type=77))
    good = Parameter('workers', value=2).to_parameter_msg()
    for kind, name in (
        (SetParameters, 'set_parameters'),
        (SetParametersAtomically, 'set_parameters_atomically'),
    ):
        request = kind.Request(parameters=[good, odd])
        response = domain.call(kind, f'/odd/contention/{name}', request)
        results = response.results if kind is SetParameters else [response.result]
        assert len(results) == (2 if kind is SetParameters else 1)
        for result in results:
            assert not result.successful
            assert result.reason == 'workers has the unknown type 77'
    assert domain.get_parameter('/odd/contention', 'workers') == 1
    assert domain.set_parameter('/odd/contention', 'workers', 2).successful
    assert node.stop() == 0, node.output()
