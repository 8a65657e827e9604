"""Start, watch and end the processes of the demo."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import psutil

from dynamic_ofa_ros.errors import DynamicOfaError

LOAD_SCRIPT = Path(__file__).resolve().parent.parent / 'nodes' / 'load.py'
PATIENCE_S = 3.0
"""Time between SIGINT and SIGKILL."""

COMPETITOR = 'competitor_'
TAIL_BYTES = 16_384
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>

_libc = ctypes.CDLL(None)


class PartError(DynamicOfaError):
    """The demo ends early: a process did not start, died or did not answer, or a signal arrived.

    status: exit status of the command.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Supervisor:
    """Starts processes, each with its own log, and ends them all. Use it from the main thread.

    The kernel kills the processes when the thread that started them ends, so none of them
    outlives this process.
    """

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._parts: dict[str, psutil.Popen] = {}

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(
        self, name: str, command: Sequence[str], cpus: Collection[int] = (), is_apart: bool = False
    ) -> None:
        """Start a process, restricted to `cpus` if any are given; its output goes to <name>.log.

        is_apart: start it in a new session. Linux divides CPU time among sessions first, so
        processes that compete must share a session, and an undisturbed process needs its own.
        Raises PartError if the process cannot be started.
        """
        try:
            with self.log_path(name).open('ab') as log:
                process = psutil.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, 'PYTHONUNBUFFERED': '1'},
                    preexec_fn=partial(_begin, is_apart),
                )
        except OSError as error:
            raise PartError(f'{name} cannot be started: {error.strerror or error}') from None
        self._parts[name] = process
        if cpus:
            # Set before the interpreter has started, so all its threads inherit it.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.cpu_affinity(list(cpus))

    def start_competitors(self, count: int, cpus: Collection[int]) -> None:
        """Start idle processes that can keep CPUs busy, like those of contention_node."""
        command = [sys.executable, str(LOAD_SCRIPT), 'busy', '--duty-cycle=0']
        for number in range(count):
            self.start(f'{COMPETITOR}{number}', command, cpus)

    def set_busy(self, count: int) -> None:
        """Make `count` competitors busy and the others idle, within 20 ms."""
        competitors = [self._parts[name] for name in self._parts if name.startswith(COMPETITOR)]
        for index, process in enumerate(competitors):
            line = json.dumps({'duty_cycle': 1.0 if index < count else 0.0})
            with contextlib.suppress(OSError):  # it has died: `check` raises
                process.stdin.write(f'{line}\n'.encode())
                process.stdin.flush()

    def log_path(self, name: str) -> Path:
        """Return the log file of a process."""
        return self._log_folder / f'{name}.log'

    def check(self) -> None:
        """Raise PartError with the end of the log if a process has died."""
        for name, process in self._parts.items():
            if process.poll() is not None:
                _close(self._parts.pop(name))
                raise PartError(
                    f'{name} {_describe_exit(process.returncode)}; the end of its log '
                    f'({self.log_path(name)}):\n{indented_tail(self.log_path(name))}'
                )

    def kill(self, name: str) -> int:
        """Kill a process with SIGKILL; return its process id."""
        process = self._parts.pop(name)
        process.kill()
        _close(process)
        return int(process.pid)

    def close(self) -> None:
        """End all processes with SIGINT, then SIGKILL. May be called twice."""
        for process in self._parts.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs(self._parts.values(), timeout=PATIENCE_S)
        for process in alive:
            process.kill()
        for process in self._parts.values():
            _close(process)
        self._parts.clear()


def indented_tail(path: Path, lines: int = 12) -> str:
    """Return the last lines of a log that are not blank, indented, or '(empty)'."""
    try:
        with path.open('rb') as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode('utf-8', errors='replace')
    except OSError:
        text = ''
    # A progress bar rewrites its line with carriage returns; keep the last state.
    kept = [line.rstrip().split('\r')[-1] for line in text.split('\n') if line.strip()]
    return '\n'.join(f'    {line}' for line in kept[-lines:] or ['(empty)'])


def _begin(is_apart: bool) -> None:
    """Prepare a child process: Ctrl-C does not reach it, and it dies with the demo."""
    os.setsid() if is_apart else os.setpgrp()
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _close(process: psutil.Popen) -> None:
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.wait()


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f'ended with exit status {status}'
    return f'was ended by {signal.Signals(-status).name}'
