"""Ctrl-C during the imports of a program: no traceback."""

from __future__ import annotations

import subprocess
import sys

from dynamic_ofa_ros.cli import main as command

INTERRUPTED = """
import os, signal, sys
from dynamic_ofa_ros.nodes import start
start.requirements.check = lambda *_: os.kill(os.getpid(), signal.SIGINT)
sys.exit(start.start('camera_node') or 'not interrupted')
"""


def test_a_node_that_is_interrupted_during_its_imports_ends_without_a_word():
    ended = subprocess.run(
        [sys.executable, '-c', INTERRUPTED], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, '', '')


def test_the_command_that_is_interrupted_during_its_imports_says_so_by_its_status(
    monkeypatch, capfd
):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(command, '_parser', interrupted)
    assert command.main([]) == command.EXIT_INTERRUPTED
    assert ''.join(capfd.readouterr()) == ''
