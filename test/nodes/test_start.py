"""Ctrl-C during the imports of a program: no traceback."""

from __future__ import annotations

import os
import subprocess
import sys

from dynamic_ofa_ros.cli import main as command

INTERRUPTED = """
import os, signal, sys
from dynamic_ofa_ros.nodes import start
start.requirements.check = lambda *_: os.kill(os.getpid(), signal.SIGINT)
sys.exit(start.start('camera_node') or 'not interrupted')
"""


def test_a_node_interrupted_during_its_imports_ends_silently():
    ended = subprocess.run(
        [sys.executable, '-c', INTERRUPTED], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, '', '')


def test_a_folder_of_logs_that_cannot_be_written_is_reported_with_the_remedy():
    ended = subprocess.run(
        [sys.executable, '-m', 'dynamic_ofa_ros.nodes.camera_node'],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, 'ROS_LOG_DIR': '/dev/null/logs'},
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert '/dev/null/logs' in line
    assert line.endswith('; set ROS_LOG_DIR to a folder that can be written')


def test_a_command_interrupted_during_its_imports_has_status_130(monkeypatch, capfd):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(command, '_parser', interrupted)
    assert command.main([]) == command.EXIT_INTERRUPTED
    assert ''.join(capfd.readouterr()) == ''
