"""Programs report a missing package in one line; a node requires only a few packages.

Each test starts a process whose first import finder hides a package.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from families import make_random_family
from programs import Program

from dynamic_ofa_ros.demo.domain import own_domain
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.runtime.engine import create_engine

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
BAD_INPUT = 2
DESIGN_TIME = (
    'hypothesis', 'matplotlib', 'ofa', 'onnx', 'pymoo', 'ray', 'rich', 'rosbags', 'scipy', 'torch',
)  # fmt: skip
FINDER = """\
import sys

class Missing:
    def find_spec(name, path=None, target=None):
        if {{name, name.split('.')[0]}} & {names!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Missing)
"""


@pytest.fixture(scope='module', autouse=True)
def _own_domain():
    with own_domain():
        yield


@pytest.fixture(scope='module')
def family(tmp_path_factory):
    return make_random_family(tmp_path_factory.mktemp('families') / 'random')


@pytest.fixture(scope='module')
def built_cache(tmp_path_factory, family):
    cache = tmp_path_factory.mktemp('cache')
    engine = create_engine(
        Family.load(family), device='cpu', engine='onnxruntime', cache_dir=cache
    )
    engine.close()
    return cache


@pytest.fixture
def start(tmp_path):
    """Start a script without some packages; stdout and stderr are written to a file."""
    programs = []

    def start_without(missing, script, *arguments, cache):
        folder = tmp_path / 'finder'
        folder.mkdir()
        (folder / 'sitecustomize.py').write_text(FINDER.format(names=set(missing)))
        program = Program.start(
            [sys.executable, ROOT / 'scripts' / script, *arguments],
            tmp_path / 'output',
            script,
            env={
                **os.environ,
                'PYTHONPATH': os.pathsep.join(
                    (str(folder), str(ROOT), os.environ.get('PYTHONPATH', ''))
                ),
                'DYNAMIC_OFA_CACHE': str(cache),
                'ROS_LOG_DIR': str(tmp_path),
            },
        )
        programs.append(program)
        return program

    yield start_without
    for program in programs:
        program.process.kill()
        program.process.wait()


def refusal(program: Program) -> str:
    """Return the output of a program that ended with the status for bad input."""
    assert program.wait(DEADLINE_S) == BAD_INPUT, program.output()
    assert 'Traceback' not in program.output()
    return program.output()


@pytest.mark.parametrize(
    ('module', 'remedy'),
    [
        ('numpy', 'apt install python3-numpy, or pip install numpy'),
        ('yaml', 'apt install python3-yaml, or pip install pyyaml'),
        ('cv2', 'apt install python3-opencv, or pip install opencv-python-headless'),
        ('rclpy', 'source /opt/ros/<distribution>/setup.bash'),
        ('vision_msgs', 'apt install ros-$ROS_DISTRO-vision-msgs'),
        ('dynamic_ofa_ros.msg', 'colcon build, source install/setup.bash'),
    ],
)
def test_a_node_names_a_missing_package(start, tmp_path, module, remedy):
    text = refusal(start([module], 'classifier_node', cache=tmp_path))
    assert text.startswith(f'classifier_node: {module} is missing: {remedy}')
    assert text.count('\n') == 1


@pytest.mark.parametrize('script', ['camera_node', 'contention_node'])
def test_every_node_names_a_missing_package(start, tmp_path, script):
    text = refusal(start(['cv2'], script, cache=tmp_path))
    assert text.startswith(f'{script}: cv2 is missing: ')


def test_the_monitor_names_its_extra(start, tmp_path):
    text = refusal(start(['tornado'], 'monitor_node', cache=tmp_path))
    assert text == (
        'monitor_node: tornado is missing: apt install python3-tornado, or pip install tornado '
        "(the extra 'monitor')\n"
    )


def test_a_library_that_cannot_be_loaded_is_named_with_the_reason(tmp_path):
    (tmp_path / 'cv2.py').write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file', name='cv2')"
    )
    environment = {**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'}
    finished = subprocess.run(
        [sys.executable, str(ROOT / 'scripts' / 'camera_node')],
        env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert finished.returncode == BAD_INPUT
    assert finished.stderr.startswith(
        'camera_node: cv2 cannot be imported (libGL.so.1: cannot open shared object file): apt'
    )
    assert finished.stderr.count('\n') == 1


@pytest.mark.parametrize('engine', ['auto', 'onnxruntime'])
def test_a_first_start_without_reference_outputs_names_pytorch(start, tmp_path, family, engine):
    parameters = ('-p', f'family:={family}', '-p', 'device:=cpu', '-p', f'engine:={engine}')
    text = refusal(start(['torch'], 'classifier_node', '--ros-args', *parameters, cache=tmp_path))
    expected = 'has no reference.safetensors, which PyTorch computes, and torch is missing: pip'
    last = text.splitlines()[-1]
    assert expected in last
    assert last.count('torch is missing') == 1


def test_a_missing_onnxruntime_is_named(start, family, built_cache):
    parameters = ('-p', f'family:={family}', '-p', 'device:=cpu', '-p', 'engine:=onnxruntime')
    text = refusal(
        start(['onnxruntime'], 'classifier_node', '--ros-args', *parameters, cache=built_cache)
    )
    assert "onnxruntime is missing: pip install onnxruntime (the extra 'cpu')" in text


def test_the_missing_library_for_bags_is_named(start, tmp_path):
    parameters = ('-p', 'source:=bag', '-p', f'path:={tmp_path}')
    text = refusal(start(['rosbags'], 'camera_node', '--ros-args', *parameters, cache=tmp_path))
    assert 'rosbags, and rosbags is missing: pip install rosbags' in text


@pytest.mark.parametrize('engine', ['auto', 'onnxruntime'])
def test_a_node_with_built_engines_needs_no_other_packages(start, family, built_cache, engine):
    parameters = ('-p', f'family:={family}', '-p', 'device:=cpu', '-p', f'engine:={engine}')
    node = start(DESIGN_TIME, 'classifier_node', '--ros-args', *parameters, cache=built_cache)
    node.wait_for('ready: family random at level', DEADLINE_S)
    assert node.stop() == 0, node.output()
    assert 'missing' not in node.output()


@pytest.mark.parametrize(
    ('missing', 'arguments', 'sentence'),
    [
        ('rich', ('levels', 'signs'), 'rich is missing: apt install python3-rich'),
        ('torch', ('train', '--data', 'signs', '--output', 'x'), 'torch is missing: pip install'),
        ('matplotlib', ('levels', 'signs', '--plot', 'x.png'), 'matplotlib is missing: pip'),
    ],
)
def test_the_command_names_a_missing_package(start, tmp_path, missing, arguments, sentence):
    text = refusal(start([missing], 'dynamic-ofa', *arguments, cache=tmp_path))
    assert text.splitlines()[-1].startswith('dynamic-ofa: ')
    assert sentence in text.splitlines()[-1]


def test_help_needs_no_package_but_numpy_and_yaml(start, tmp_path):
    missing = [*DESIGN_TIME, 'cv2', 'onnxruntime', 'psutil', 'rclpy']
    command = start(missing, 'dynamic-ofa', '--help', cache=tmp_path)
    assert command.wait(DEADLINE_S) == 0, command.output()
    assert 'levels' in command.output()
