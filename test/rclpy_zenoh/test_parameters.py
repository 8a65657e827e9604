"""Parameters behave as rclpy's: types, ranges, read-only, callbacks, overrides."""

import pytest
from rclpy_zenoh.support import Node, ros, spin_until, spinning

import rclpy  # isort: skip
from rcl_interfaces.msg import (  # isort: skip
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    ParameterEvent,
    SetParametersResult,
)
from rcl_interfaces.srv import DescribeParameters, GetParameters, GetParameterTypes  # isort: skip
from rcl_interfaces.srv import ListParameters, SetParameters, SetParametersAtomically  # isort: skip
from rclpy.exceptions import (  # isort: skip
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterAlreadyDeclaredException,
    ParameterImmutableException,
    ParameterNotDeclaredException,
    ParameterUninitializedException,
)
from rclpy.parameter import Parameter  # isort: skip

DOUBLE_0_10 = ParameterDescriptor(
    floating_point_range=[FloatingPointRange(from_value=0.0, to_value=10.0)]
)


@pytest.fixture
def node(router):
    with ros() as context:
        yield Node('subject', context=context)


@pytest.fixture
def table(node):
    """Declare one parameter of each kind that the table test sets."""
    node.declare_parameter('flag', True)
    node.declare_parameter('count', 0, ParameterDescriptor(
        integer_range=[IntegerRange(from_value=0, to_value=10, step=5)]))  # fmt: skip
    node.declare_parameter('gain', 1.0, DOUBLE_0_10)
    node.declare_parameter(
        'stepped',
        0.0,
        ParameterDescriptor(
            floating_point_range=[FloatingPointRange(from_value=0.0, to_value=1.0, step=0.1)]
        ),
    )
    node.declare_parameter('name', 'a')
    node.declare_parameter('fixed', 1, ParameterDescriptor(read_only=True))
    node.declare_parameter('free', 1, ParameterDescriptor(dynamic_typing=True))
    node.declare_parameter('list', [1, 2])
    return node


@pytest.mark.parametrize(
    ('name', 'value', 'reason'),
    [
        ('flag', False, ''),
        ('flag', 1, "Wrong parameter type, expected 'Type.BOOL' got 'Type.INTEGER'"),
        ('count', 5, ''),
        ('count', 10, ''),
        ('count', 11, 'out of range'),
        ('count', -1, 'out of range'),
        ('count', 3, 'not a valid step'),
        ('count', 5.0, 'Wrong parameter type'),
        ('gain', 10.0, ''),
        ('gain', 10.1, 'out of range'),
        ('gain', float('nan'), 'out of range'),
        ('gain', 2, "Wrong parameter type, expected 'Type.DOUBLE' got 'Type.INTEGER'"),
        ('stepped', 0.3, ''),
        ('stepped', 0.35, 'not close enough to a valid step'),
        ('name', 'b', ''),
        ('name', True, 'Wrong parameter type'),
        ('fixed', 2, 'read-only'),
        ('free', 'text', ''),
        ('free', 2.5, ''),
        ('list', [3], ''),
        ('list', [1.0], 'Wrong parameter type'),
        ('name', None, 'Static parameter cannot be undeclared'),
    ],
)
def test_setting(table, name, value, reason):
    before = table.get_parameter(name).value
    result = table.set_parameters([Parameter(name, value=value)])[0]
    assert result.successful == (not reason)
    assert reason in result.reason
    assert table.get_parameter(name).value == (before if reason else value)


def test_undeclared_parameters_are_refused(node):
    with pytest.raises(ParameterNotDeclaredException, match='nothing'):
        node.get_parameter('nothing')
    with pytest.raises(ParameterNotDeclaredException):
        node.set_parameters([Parameter('nothing', value=1)])
    with pytest.raises(ParameterNotDeclaredException):
        node.describe_parameter('nothing')


def test_undeclared_parameters_can_be_allowed(router):
    with ros() as context:
        node = Node('free', context=context, allow_undeclared_parameters=True)
        assert node.get_parameter('x').type_ == Parameter.Type.NOT_SET
        assert node.set_parameters([Parameter('x', value=1)])[0].successful
        assert node.set_parameters([Parameter('x', value='a')])[0].successful
        assert node.get_parameter('x').value == 'a'


def test_declaring(node):
    assert node.declare_parameter('a', 1.5).value == 1.5
    assert node.describe_parameter('a').type == Parameter.Type.DOUBLE.value
    with pytest.raises(ParameterAlreadyDeclaredException):
        node.declare_parameter('a', 1.5)
    with pytest.raises(InvalidParameterValueException, match='out of range'):
        node.declare_parameter('b', 11.0, DOUBLE_0_10)
    assert not node.has_parameter('b')
    with pytest.raises(TypeError):
        node.declare_parameter('c', {'a': 1})
    assert [p.name for p in node.declare_parameters('g', [('x', 1), ('y', 'z')])] == ['g.x', 'g.y']
    assert set(node.get_parameters_by_prefix('g')) == {'x', 'y'}


def test_declaring_by_type_only(node):
    node.declare_parameter('typed', Parameter.Type.DOUBLE)
    with pytest.raises(ParameterUninitializedException):
        node.get_parameter('typed')
    assert not node.set_parameters([Parameter('typed', value=1)])[0].successful
    assert node.set_parameters([Parameter('typed', value=1.0)])[0].successful


def test_declaring_by_name_only_warns(node):
    with pytest.warns(UserWarning, match='by its name only'):
        node.declare_parameter('bare')
    assert node.set_parameters([Parameter('bare', value='anything')])[0].successful


def test_undeclaring(node):
    node.declare_parameter('a', 1)
    node.declare_parameter('b', 1, ParameterDescriptor(read_only=True))
    node.undeclare_parameter('a')
    assert not node.has_parameter('a')
    with pytest.raises(ParameterImmutableException):
        node.undeclare_parameter('b')


def test_atomic_setting_is_all_or_nothing(table):
    refused = table.set_parameters_atomically(
        [Parameter('flag', value=False), Parameter('gain', value=99.0)]
    )
    assert not refused.successful
    assert table.get_parameter('flag').value is True
    results = table.set_parameters([Parameter('flag', value=False), Parameter('gain', value=99.0)])
    assert [result.successful for result in results] == [True, False]
    assert table.get_parameter('flag').value is False


def test_pre_set_callback_coerces_before_the_type_is_checked(table):
    table.add_pre_set_parameters_callback(
        lambda parameters: [
            Parameter(p.name, value=float(p.value)) if p.name == 'gain' else p for p in parameters
        ]
    )
    assert table.set_parameters([Parameter('gain', value=2)])[0].successful
    assert table.get_parameter('gain').value == 2.0
    assert isinstance(table.get_parameter('gain').value, float)


def test_pre_set_callback_that_drops_everything_fails(table):
    table.add_pre_set_parameters_callback(lambda parameters: [])
    result = table.set_parameters_atomically([Parameter('gain', value=2.0)])
    assert not result.successful
    assert 'pre_set_parameters_callback' in result.reason


def test_on_set_callback_refuses_and_sees_the_whole_set(table):
    seen = []

    def check(parameters):
        seen.append([p.name for p in parameters])
        return SetParametersResult(successful=False, reason='not today')

    table.add_on_set_parameters_callback(check)
    result = table.set_parameters_atomically(
        [Parameter('gain', value=2.0), Parameter('name', value='b')]
    )
    assert result.reason == 'not today'
    assert seen == [['gain', 'name']]
    assert table.get_parameter('gain').value == 1.0
    table.remove_on_set_parameters_callback(check)
    assert table.set_parameters([Parameter('gain', value=2.0)])[0].successful


def test_post_set_callback_sees_what_was_set(table):
    seen = []
    table.add_post_set_parameters_callback(
        lambda parameters: seen.append({p.name: p.value for p in parameters})
    )
    table.set_parameters([Parameter('gain', value=2.0), Parameter('gain', value=99.0)])
    assert seen == [{'gain': 2.0}]


def test_overrides_from_arguments(router):
    args = ['--ros-args', '-p', 'gain:=2.5', '-p', 'other:=1', '-p', 'wrong:=3']
    with ros(args) as context:
        node = Node('n', context=context)
        assert node.declare_parameter('gain', 1.0).value == 2.5
        assert node.declare_parameter('other', 0, ignore_override=True).value == 0
        with pytest.raises(InvalidParameterTypeException, match="'3' of type 'INTEGER'"):
            node.declare_parameter('wrong', 1.0)
        assert not node.has_parameter('wrong')


def test_overrides_can_be_declared_automatically(router):
    with ros(['--ros-args', '-p', 'a.b:=[1, 2]']) as context:
        node = Node(
            'n', context=context, automatically_declare_parameters_from_overrides=True,
            parameter_overrides=[Parameter('c', value='given')],
        )  # fmt: skip
        assert node.get_parameter('a.b').value == [1, 2]
        assert node.get_parameter('c').value == 'given'


@pytest.mark.parametrize(
    ('value', 'kind'),
    [
        (None, 'NOT_SET'), (True, 'BOOL'), (1, 'INTEGER'), (1.0, 'DOUBLE'), ('a', 'STRING'),
        ([b'\x01'], 'BYTE_ARRAY'), ([True], 'BOOL_ARRAY'), ([1], 'INTEGER_ARRAY'),
        ((1.0,), 'DOUBLE_ARRAY'), (['a'], 'STRING_ARRAY'),
    ],
)  # fmt: skip
def test_types_are_inferred_and_survive_a_message(value, kind):
    parameter = Parameter('p', value=value)
    assert parameter.type_ == Parameter.Type[kind]
    twin = Parameter.from_parameter_msg(parameter.to_parameter_msg())
    assert twin.type_ == parameter.type_
    assert twin.value == (list(value) if isinstance(value, tuple) else value)


def test_type_and_value_must_agree():
    with pytest.raises(ValueError, match='do not agree'):
        Parameter('p', Parameter.Type.DOUBLE, 1)
    with pytest.raises(TypeError, match='not one of the allowed types'):
        Parameter('p', value=[1, 'a'])


def call(node, kind, name, **fields):
    client = node.create_client(kind, name)
    assert client.wait_for_service(10.0)
    future = client.call_async(kind.Request(**fields))
    rclpy.spin_until_future_complete(node, future, timeout_sec=10.0)
    return future.result()


def test_the_six_services_and_the_event(table, router):
    events = []
    with ros() as context, spinning(table):
        other = Node('other', context=context)
        other.create_subscription(ParameterEvent, '/parameter_events', events.append, 10)
        spin_until(other, lambda: table.count_subscribers('/parameter_events') == 1)

        names = call(other, ListParameters, '/subject/list_parameters').result.names
        assert {'flag', 'gain', 'use_sim_time'} <= set(names)
        described = call(other, DescribeParameters, '/subject/describe_parameters', names=['gain'])
        assert described.descriptors[0].floating_point_range[0].to_value == 10.0
        types = call(other, GetParameterTypes, '/subject/get_parameter_types', names=['gain', 'x'])
        assert list(types.types) == [3, 0]

        request = [Parameter('gain', value=v).to_parameter_msg() for v in (2.0, 99.0)]
        request.append(Parameter('unknown', value=1).to_parameter_msg())
        results = call(other, SetParameters, '/subject/set_parameters', parameters=request).results
        assert [result.successful for result in results] == [True, False, False]
        assert 'undeclared' in results[2].reason
        atomic = call(
            other, SetParametersAtomically, '/subject/set_parameters_atomically',
            parameters=request[:2],
        )  # fmt: skip
        assert not atomic.result.successful
        values = call(other, GetParameters, '/subject/get_parameters', names=['gain', 'unknown'])
        assert [value.type for value in values.values] == [3, 0]
        assert values.values[0].double_value == 2.0

        spin_until(other, lambda: any(e.node == '/subject' for e in events))
        changed = [e.changed_parameters[0] for e in events if e.changed_parameters]
        assert changed[0].name == 'gain'


def test_listing_by_prefix_and_depth(node):
    node.declare_parameters('', [('a', 1), ('g.x', 1), ('g.h.y', 1)])
    assert set(node.list_parameters(['g'], 0).names) == {'g.x', 'g.h.y'}
    assert set(node.list_parameters(['g'], 1).names) == {'g.x'}
    assert set(node.list_parameters([], 1).names) == {'a', 'use_sim_time'}
    assert node.list_parameters(['g'], 0).prefixes == ['g', 'g.h']
