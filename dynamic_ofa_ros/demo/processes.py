"""The demo's parts as processes: started, watched, and ended without leaving one behind."""

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
"""After SIGINT, before SIGKILL."""

COMPETITOR = 'competitor_'
TAIL_BYTES = 16_384
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>

_libc = ctypes.CDLL(None)


class PartError(DynamicOfaError):
    """A demo that ends early: a part could not start, died or does not answer, or a signal came.

    status: the exit status that this makes.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Supervisor:
    """Starts parts, each with a log of its own, and ends them all. Use from the main thread.

    Parts are killed by the kernel when this process dies, whatever killed it: that is bound to the
    thread that started them.
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
        """Start a part, on some CPUs only if any are given; what it prints goes to <name>.log.

        is_apart: in a session of its own. Linux shares the CPUs among sessions first: what
        competes must be in one, and what is to go on undisturbed in another. Raises PartError if
        it cannot start.
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
            # Before its interpreter is up: all its threads will inherit it.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.cpu_affinity(list(cpus))

    def start_competitors(self, count: int, cpus: Collection[int]) -> None:
        """Start processes that can keep CPUs busy, as contention_node's do; none works yet."""
        command = [sys.executable, str(LOAD_SCRIPT), 'busy', '--duty-cycle=0']
        for number in range(count):
            self.start(f'{COMPETITOR}{number}', command, cpus)

    def set_busy(self, count: int) -> None:
        """Let so many of the competitors work, and the others rest: within 20 ms."""
        competitors = [self._parts[name] for name in self._parts if name.startswith(COMPETITOR)]
        for index, process in enumerate(competitors):
            line = json.dumps({'duty_cycle': 1.0 if index < count else 0.0})
            with contextlib.suppress(OSError):  # it has died: `check` tells
                process.stdin.write(f'{line}\n'.encode())
                process.stdin.flush()

    def log_path(self, name: str) -> Path:
        """Return the file of a part's output."""
        return self._log_folder / f'{name}.log'

    def check(self) -> None:
        """Raise PartError, with the end of its log, when a part has died."""
        for name, process in self._parts.items():
            if process.poll() is not None:
                _close(self._parts.pop(name))
                raise PartError(
                    f'{name} {_describe_exit(process.returncode)}; its log '
                    f'({self.log_path(name)}) ends:\n{indented_tail(self.log_path(name))}'
                )

    def kill(self, name: str) -> int:
        """Kill a part, as if it had died without a word; return its process id."""
        process = self._parts.pop(name)
        process.kill()
        _close(process)
        return int(process.pid)

    def close(self) -> None:
        """End all parts: SIGINT, then SIGKILL. Safe to call twice."""
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
    """Return the last lines of a log that are not blank, indented; says so when it is empty."""
    try:
        with path.open('rb') as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode('utf-8', errors='replace')
    except OSError:
        text = ''
    # A progress bar rewrites its line with carriage returns: the last state is what it says.
    kept = [line.rstrip().split('\r')[-1] for line in text.split('\n') if line.strip()]
    return '\n'.join(f'    {line}' for line in kept[-lines:] or ['(nothing)'])


def _begin(is_apart: bool) -> None:
    """Run in the child, before its program: Ctrl-C is not for it, the demo's end is."""
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
