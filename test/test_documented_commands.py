"""The commands in README.md and the walk-through run, or are listed with a reason."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ros_harness import Ros, ros
from vision_msgs.msg import Classification

from benchmarks import tables

ROOT = Path(__file__).resolve().parent.parent
PAGES = ('README.md', 'docs/walkthrough.md')
CLI = [sys.executable, '-m', 'dynamic_ofa_ros.cli.main']
TIMEOUT_S = 120.0

NOT_RUN = {
    'ros2 launch': 'launch is not among the wheels of ROS 2',
    'ros2 run': 'starts a node; the test starts the nodes itself',
    'sudo apt': 'installs packages of the system',
    'git clone': 'there is no address to clone from',
    'cd ~/ros2_ws': 'needs apt and rosdep',
    'python3 -m venv': 'needs an installed ROS 2',
    'colcon build': 'needs colcon and an installed ROS 2',
    'make demo': 'test/demo runs the demo',
    'make imagenet': 'installs packages',
    'dynamic-ofa train': 'needs images; test/offline/test_train_and_build.py',
    'dynamic-ofa build': 'needs images; test/offline/test_train_and_build.py',
    'dynamic-ofa demo': 'needs photographs; test/test_real_photographs.py',
    'dynamic-ofa family from-onnx': 'needs networks; test/offline/test_onnx_import.py',
}
"""Prefixes of commands that are not run, with the reason."""


def commands(page: str) -> list[str]:
    """Return the commands of a page in order, without prompts and comments.

    If a block contains prompts, its other lines are output.
    """
    text = re.sub(r'\\\n\s*', '', (ROOT / page).read_text(encoding='utf-8'))
    text = tables.BLOCK.sub('', text)
    found = []
    for block in re.findall(r'(?:^ {4}.*\n)+', text, re.MULTILINE):
        lines = [line[4:].split('  #')[0].strip() for line in block.splitlines()]
        if any(line.startswith('$ ') for line in lines):
            lines = [line[2:] for line in lines if line.startswith('$ ')]
        found += [line for line in lines if not line.startswith('[INFO]')]
    return found


def is_run(command: str) -> bool:
    return not any(command.startswith(prefix) for prefix in NOT_RUN)


RUN = {page: [command for command in commands(page) if is_run(command)] for page in PAGES}


@pytest.fixture(scope='module')
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ros]:
    with ros(tmp_path_factory.mktemp('nodes')) as session:
        session.start('camera_node', {'rate_hz': 10.0})
        session.start('classifier_node')
        labels = session.listen(Classification, '/classification')
        session.wait_until(lambda: labels.last, 'a label', TIMEOUT_S)
        yield session


def test_every_prefix_occurs_on_the_pages():
    assert len(RUN['README.md']) >= 5
    assert len(RUN['docs/walkthrough.md']) >= 7
    for prefix in NOT_RUN:
        assert any(c.startswith(prefix) for page in PAGES for c in commands(page)), prefix


@pytest.mark.long
@pytest.mark.parametrize('page', PAGES)
def test_commands_of_a_page_run(page, nodes):
    for command in RUN[page]:
        program, *words = shlex.split(command)
        assert program in ('ros2', 'dynamic-ofa'), f'{command}: run it, or say why not'
        once = ['--once'] if words[:2] == ['topic', 'echo'] and '--once' not in words else []
        done = subprocess.run(
            [*CLI, *(['ros'] if program == 'ros2' else []), *words, *once],
            env=nodes.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, f'{command}\n{done.stdout}{done.stderr}'
        assert done.stdout or done.stderr
