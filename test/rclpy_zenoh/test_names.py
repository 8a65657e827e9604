"""Name validity, expansion and remapping."""

import pytest
from rclpy_zenoh import support  # noqa: F401 - skips this module where ROS 2 serves

from dynamic_ofa_ros.rclpy_zenoh import names
from dynamic_ofa_ros.rclpy_zenoh.exceptions import (
    InvalidNamespaceException,
    InvalidNodeNameException,
    InvalidServiceNameException,
    InvalidTopicNameException,
)


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('image', '/robot/image'),
        ('/image', '/image'),
        ('~/image', '/robot/camera/image'),
        ('~', '/robot/camera'),
        ('a/b_2', '/robot/a/b_2'),
    ],
)
def test_expansion(name, expected):
    assert names.expand(name, 'camera', '/robot') == expected


def test_expansion_in_the_root_namespace():
    assert names.expand('~/x', 'n', '/') == '/n/x'
    assert names.expand('x', 'n', '/') == '/x'


@pytest.mark.parametrize('name', ['', 'a b', 'a//b', 'a/', '/', '2a', 'a/2b', 'a~b', 'ä', 'a-b'])
def test_invalid_topics(name):
    with pytest.raises(InvalidTopicNameException):
        names.expand(name, 'n', '/')
    with pytest.raises(InvalidServiceNameException):
        names.expand(name, 'n', '/', is_service=True)


@pytest.mark.parametrize('name', ['', 'a/b', 'a b', '1a', 'a' * 300])
def test_invalid_node_names(name):
    with pytest.raises(InvalidNodeNameException):
        names.validate_node_name(name)


@pytest.mark.parametrize('namespace', ['', 'a', '/a/', '/a//b', '/1', '/a b'])
def test_invalid_namespaces(namespace):
    with pytest.raises(InvalidNamespaceException):
        names.validate_namespace(namespace)


@pytest.mark.parametrize(
    ('rule', 'name', 'expected'),
    [
        ('image:=camera/rgb', '/ns/image', '/ns/camera/rgb'),
        ('image:=/rgb', '/ns/image', '/rgb'),
        ('/ns/image:=x', '/ns/image', '/ns/x'),
        ('~/a:=~/b', '/ns/node/a', '/ns/node/b'),
        ('node:image:=x', '/ns/image', '/ns/x'),
        ('other:image:=x', '/ns/image', '/ns/image'),
        ('rostopic://image:=x', '/ns/image', '/ns/x'),
        ('imag:=x', '/ns/image', '/ns/image'),
    ],
)
def test_remapping(rule, name, expected):
    rules = (names.Remap.parse(rule),)
    assert names.remap_name(name, rules, 'node', '/ns') == expected


def test_first_matching_rule_wins():
    rules = tuple(names.Remap.parse(text) for text in ('a:=b', 'a:=c'))
    assert names.remap_name('/a', rules, 'n', '/') == '/b'


def test_renaming_a_node():
    rules = tuple(names.Remap.parse(text) for text in ('__node:=x', '__ns:=/y', 'other:__node:=z'))
    assert names.renamed_node('n', '/', rules) == ('x', '/y')
    assert names.renamed_node('other', '/', rules[2:]) == ('z', '/')


@pytest.mark.parametrize('text', ['a', 'a:=', ':=b', ''])
def test_malformed_rules(text):
    with pytest.raises(ValueError, match='remap rule'):
        names.Remap.parse(text)
