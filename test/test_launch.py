"""Launch files: they compile everywhere, and load where ROS 2's launch is installed."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

LAUNCH_FILES = sorted((Path(__file__).resolve().parent.parent / 'launch').glob('*.launch.py'))
# `launch` itself would be found without ROS 2, too: it is a folder here.
HAS_LAUNCH = importlib.util.find_spec('launch_ros') is not None


def argument_calls(file: Path) -> list[ast.Call]:
    tree = ast.parse(file.read_text(encoding='utf-8'))
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == 'DeclareLaunchArgument'
    ]


def test_there_are_launch_files():
    assert [file.name for file in LAUNCH_FILES] == ['demo.launch.py', 'two_models.launch.py']


@pytest.mark.parametrize('file', LAUNCH_FILES, ids=lambda file: file.name)
def test_compiles(file):
    compile(file.read_text(encoding='utf-8'), file.name, 'exec')


@pytest.mark.parametrize('file', LAUNCH_FILES, ids=lambda file: file.name)
def test_every_argument_has_a_default_and_a_description(file):
    calls = argument_calls(file)
    assert calls
    for call in calls:
        assert {'default_value', 'description'} <= {keyword.arg for keyword in call.keywords}


@pytest.mark.parametrize('file', LAUNCH_FILES, ids=lambda file: file.name)
def test_choices_and_defaults_are_those_of_the_parameters(file):
    from dynamic_ofa_ros.nodes.parameters import CAMERA, CLASSIFIER

    specs = {spec.name: spec for spec in CAMERA + CLASSIFIER}
    calls = {
        ast.literal_eval(call.args[0]): {k.arg: k.value for k in call.keywords}
        for call in argument_calls(file)
    }
    specs['coordination'] = specs['manager.coordination']
    for name in {'engine', 'source', 'coordination'} & set(calls):
        assert set(ast.literal_eval(calls[name]['choices'])) == set(specs[name].choices)
    for letter in 'ab':
        specs[f'family_{letter}'] = specs['family']
    for name in {'family', 'family_a', 'family_b', 'device', 'engine', 'source', 'path'}:
        if name in calls:
            assert ast.literal_eval(calls[name]['default_value']) == specs[name].default
    assert float(ast.literal_eval(calls['rate_hz']['default_value'])) == specs['rate_hz'].default


@pytest.mark.skipif(not HAS_LAUNCH, reason='needs launch_ros, which comes with ROS 2')
@pytest.mark.parametrize('file', LAUNCH_FILES, ids=lambda file: file.name)
def test_description_loads_with_camera_and_classifiers(file):
    # ruff: noqa: I001 - it takes `launch` for the folder of that name
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    from launch_ros.actions import Node

    description = PythonLaunchDescriptionSource(str(file)).get_launch_description(LaunchContext())
    nodes = [entity for entity in description.entities if isinstance(entity, Node)]
    assert {node.node_executable for node in nodes} == {'classifier_node', 'camera_node'}
