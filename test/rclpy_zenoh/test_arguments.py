"""`--ros-args` and parameter files."""

import pytest
from rclpy_zenoh import support  # noqa: F401 - skips this module where ROS 2 serves

from dynamic_ofa_ros.rclpy_zenoh.arguments import parse, read_parameter_file
from dynamic_ofa_ros.rclpy_zenoh.exceptions import UnknownROSArgsError

PARAMETER_FILE = """
/**:
  ros__parameters:
    threads: 1
    constraints:
      max_latency_ms: 20.0
classifier:
  ros__parameters:
    threads: 2
/robot:
  classifier:
    ros__parameters:
      threads: 3
/*/camera:
  ros__parameters:
    rate: 30
"""


def test_arguments_before_and_after():
    parsed = parse(['prog', '--own', '--ros-args', '-r', 'a:=b', '--', 'rest'])
    assert parsed.remaining == ('prog', '--own', 'rest')
    assert parsed.remaps[0].target == 'b'


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('1', 1), ('1.0', 1.0), ('1e3', 1000.0), ('-2.5e-1', -0.25), ('true', True),
        ('text', 'text'), ("'1'", '1'), ('[1, 2]', [1, 2]), ('[a, b]', ['a', 'b']),
        ('.inf', 1e999),
        ('', ''), ('/a/b', '/a/b'), ('1.2.3', '1.2.3'),
    ],
)  # fmt: skip
def test_parameter_values_are_typed_by_yaml(text, value):
    found = parse(['--ros-args', '-p', f'x:={text}']).overrides_for('n', '/')['x']
    assert found == value
    assert type(found) is type(value)


def test_parameter_for_one_node():
    parsed = parse(['--ros-args', '-p', 'camera:rate:=3'])
    assert parsed.overrides_for('camera', '/') == {'rate': 3}
    assert parsed.overrides_for('classifier', '/') == {}


def test_later_parameters_win(tmp_path):
    path = tmp_path / 'p.yaml'
    path.write_text(PARAMETER_FILE)
    before = parse(['--ros-args', '-p', 'threads:=9', '--params-file', str(path)])
    after = parse(['--ros-args', '--params-file', str(path), '-p', 'threads:=9'])
    assert before.overrides_for('classifier', '/')['threads'] == 2
    assert after.overrides_for('classifier', '/')['threads'] == 9


@pytest.mark.parametrize(
    ('name', 'namespace', 'expected'),
    [
        ('classifier', '/', {'threads': 2, 'constraints.max_latency_ms': 20.0}),
        ('classifier', '/robot', {'threads': 3, 'constraints.max_latency_ms': 20.0}),
        ('classifier', '/x', {'threads': 1, 'constraints.max_latency_ms': 20.0}),
        ('camera', '/x', {'threads': 1, 'constraints.max_latency_ms': 20.0, 'rate': 30}),
        ('camera', '/', {'threads': 1, 'constraints.max_latency_ms': 20.0}),
    ],
)
def test_parameter_file_sections(tmp_path, name, namespace, expected):
    path = tmp_path / 'p.yaml'
    path.write_text(PARAMETER_FILE)
    parsed = parse(['--ros-args', '--params-file', str(path)])
    assert parsed.overrides_for(name, namespace) == expected


@pytest.mark.parametrize(
    ('content', 'complaint'),
    [
        ('a: [', "Couldn't parse"),
        ('- a', 'no mapping'),
        ('a: 1', 'is no node'),
        ('a: {ros__parameters: [1]}', 'is no mapping'),
        ('a: {ros__parameters: {x: [1, a]}}', 'one type'),
    ],
)
def test_malformed_parameter_files(tmp_path, content, complaint):
    path = tmp_path / 'p.yaml'
    path.write_text(content)
    with pytest.raises(ValueError, match=complaint):
        read_parameter_file(path)


def test_missing_parameter_file(tmp_path):
    with pytest.raises(ValueError, match=r'none\.yaml'):
        parse(['--ros-args', '--params-file', str(tmp_path / 'none.yaml')])


@pytest.mark.parametrize('arguments', [['-p', 'x'], ['-p'], ['-r', 'x'], ['-p', 'x:=[1, a]']])
def test_malformed_arguments(arguments):
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own sentence
        parse(['--ros-args', *arguments])


def test_unknown_ros_argument():
    with pytest.raises(UnknownROSArgsError, match='--nonsense'):
        parse(['--ros-args', '--nonsense'])


def test_logging_options():
    parsed = parse(['--ros-args', '--log-level', 'warn', '--log-level', 'a.b:=debug',
                    '--disable-rosout-logs'])  # fmt: skip
    assert parsed.log_levels == {'': 'warn', 'a.b': 'debug'}
    assert not parsed.rosout_enabled
    assert parsed.stdout_enabled
