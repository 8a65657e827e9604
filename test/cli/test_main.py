from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dynamic_ofa_ros import __version__
from dynamic_ofa_ros.cli import levels
from dynamic_ofa_ros.cli.main import VERBS, main

COMMAND = [sys.executable, '-m', 'dynamic_ofa_ros.cli.main']
HEAVY = ('torch', 'onnxruntime', 'cv2', 'matplotlib', 'rclpy')


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(['--help'])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)


def test_help_imports_nothing_heavy() -> None:
    code = (
        'import sys\n'
        'from dynamic_ofa_ros.cli.main import main\n'
        'try:\n    main(["--help"])\nexcept SystemExit:\n    pass\n'
        f'heavy = [name for name in {HEAVY} if name in sys.modules]\n'
        'sys.exit(repr(heavy) if heavy else 0)\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, '--help'])
    assert caught.value.code == 0
    assert verb in capsys.readouterr().out


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(['--version'])
    assert __version__ in capsys.readouterr().out


def test_the_help_is_printed_without_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert 'usage:' in capsys.readouterr().out


def test_bad_input_is_reported_without_a_traceback(tmp_path: Path) -> None:
    result = subprocess.run(
        [*COMMAND, 'levels', str(tmp_path / 'nowhere')], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.startswith('dynamic-ofa: there is no family at')
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['train', '--data', '', '--output', 'x'], '--data is empty; is a variable'),
        (['build', '--backbone=x', '--data=x', '--measured='], '--measured is empty'),
        (['figures', '--output', ' '], '--output is empty'),
        (['measure', ''], 'an argument is empty'),
        (['compare', 'quick', ''], 'an argument is empty'),
    ],
)
def test_empty_arguments_are_rejected(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match='2'):
        main(arguments)
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_opencv_does_not_print_its_own_messages(tmp_path: Path) -> None:
    """They would be printed into the progress bar."""
    data = cv2.imencode('.png', np.arange(30000, dtype=np.uint8).reshape(100, 100, 3))[1]
    for name in ('cat', 'dog'):
        for index in range(2):
            path = tmp_path / 'data' / name / f'{index}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.tobytes()[: -60 - index])
    command = ['train', '--data', str(tmp_path / 'data'), '--output', str(tmp_path / 'run')]
    result = subprocess.run(
        [*COMMAND, *command, '--batch-size', '2'], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert 'dynamic-ofa: all 2 images are damaged, first: ' in result.stderr
    assert 'PNG' not in result.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = subprocess.run(
        [*COMMAND, '--debug', 'levels', str(tmp_path / 'nowhere')], capture_output=True, text=True
    )
    assert result.returncode != 0
    assert 'Traceback' in result.stderr


@pytest.mark.parametrize(
    ('error', 'status', 'message'),
    [
        (OSError(28, 'No space left on device', '/data/x'), 2, '/data/x: No space left on device'),
        (PermissionError(13, 'Permission denied', '/data'), 2, '/data: Permission denied'),
        (RuntimeError('Could not determine home directory.'), 2, 'set HOME'),
        (KeyboardInterrupt(), 130, 'dynamic-ofa: interrupted\n'),
    ],
)
def test_errors_of_the_system_are_reported(
    error: BaseException,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(_: object) -> int:
        raise error

    monkeypatch.setattr(levels, 'run', refuse)
    assert main(['levels']) == status
    assert message in capsys.readouterr().err


def test_sigint_ends_a_command_that_was_started_with_sigint_ignored() -> None:
    """Shells start background commands with SIGINT ignored."""
    code = (
        'import os, signal, sys, time\n'
        'signal.signal(signal.SIGINT, signal.SIG_IGN)\n'
        'from dynamic_ofa_ros.cli import levels, main\n'
        'def run(_):\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\n'
        'levels.run = run\n'
        'sys.exit(main.main(["levels"]))\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (130, 'dynamic-ofa: interrupted\n')


def test_a_closed_pipe_is_not_an_error() -> None:
    command = f'{sys.executable} -m dynamic_ofa_ros.cli.main --help | head -1'
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert result.stderr == ''
