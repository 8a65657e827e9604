"""The demo's parts as processes: started, watched, and ended without leaving one behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamic_ofa_ros.demo import guardian
from dynamic_ofa_ros.errors import DynamicOfaError

TAIL_BYTES = 16_384
POLL_S = 0.02

# Sent one after the other, as `ros2 launch` does, each followed by this patience.
ESCALATION: tuple[tuple[signal.Signals, float], ...] = (
    (signal.SIGINT, 3.0),
    (signal.SIGTERM, 1.0),
    (signal.SIGKILL, 1.0),
)


class PartError(DynamicOfaError):
    """A part of the demo that could not start, died, or never got ready."""


@dataclass
class _Part:
    name: str
    process: subprocess.Popen[bytes]
    log_path: Path
    step: int = -1
    next_step_s: float = 0.0

    @property
    def is_ending(self) -> bool:
        return self.step >= 0


class Supervisor:
    """Starts parts as leaders of their own process groups, logs to one file each, ends them all.

    Use from one thread, as a context manager. Should this process be killed, a guardian process
    ends the groups. `escalation` is the signals to end a part with and the patience after each.
    """

    def __init__(
        self,
        log_folder: Path,
        *,
        escalation: Sequence[tuple[signal.Signals, float]] = ESCALATION,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log_folder = log_folder
        self._escalation = tuple(escalation)
        self._clock_s = clock_s
        self._parts: dict[str, _Part] = {}
        self._guardian = subprocess.Popen(
            [sys.executable, '-I', '-S', str(Path(guardian.__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        cpus: Collection[int] = (),
    ) -> None:
        """Start a part, on given CPUs only if any are; what it prints goes to <name>.log.

        Raises PartError if it cannot start.
        """
        if name in self._parts:
            raise PartError(f'{name} already runs')
        path = self.log_path(name)
        try:
            with path.open('ab') as log:
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=None if env is None else dict(env),
                    # A process group, but not a session: Linux shares the CPU among sessions
                    # first (autogroups), and then many competitors would count as one.
                    preexec_fn=os.setpgrp,
                )
        except OSError as error:
            raise PartError(f'{name} cannot be started: {error.strerror or error}') from None
        self._tell_guardian('+', process.pid)
        self._parts[name] = _Part(name, process, path)
        if cpus:
            # Before its interpreter is up: all its threads will inherit it.
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, cpus)

    def log_path(self, name: str) -> Path:
        """Return the file of a part's output."""
        return self._log_folder / f'{name}.log'

    def pids(self) -> dict[str, int]:
        """Return the process id of each part that has not ended."""
        return {name: part.process.pid for name, part in self._parts.items()}

    def is_running(self, name: str) -> bool:
        """Return whether a part was started and its end was not yet seen."""
        return name in self._parts

    def request_stop(self, name: str) -> None:
        """Begin to end a part; `poll` goes on. Nothing happens when it does not run."""
        part = self._parts.get(name)
        if part is not None and not part.is_ending:
            self._escalate(part)

    def poll(self) -> None:
        """Look after the parts; raise PartError, with the end of its log, when one died."""
        for part in list(self._parts.values()):
            status = _exit_status(part.process)
            if status is not None:
                was_ending = part.is_ending
                self._bury(part)
                if not was_ending:
                    raise PartError(
                        f'{part.name} {_describe_exit(status)}; its log '
                        f'({part.log_path}) ends:\n{indented_tail(part.log_path)}'
                    )
            elif part.is_ending and self._clock_s() >= part.next_step_s:
                self._escalate(part)

    def close(self) -> None:
        """End all parts and see that none is left. Safe to call twice."""
        deadline_s = self._clock_s() + 2.0 * sum(s for _, s in self._escalation) + 1.0
        while self._parts and self._clock_s() < deadline_s:
            for name in list(self._parts):
                self.request_stop(name)
            with contextlib.suppress(PartError):
                self.poll()
            if self._parts:
                time.sleep(POLL_S)
        for part in list(self._parts.values()):
            self._bury(part)
        if self._guardian.stdin is not None and not self._guardian.stdin.closed:
            with contextlib.suppress(OSError):
                self._guardian.stdin.close()
        self._guardian.wait()

    def _escalate(self, part: _Part) -> None:
        part.step = min(part.step + 1, len(self._escalation) - 1)
        number, patience_s = self._escalation[part.step]
        part.next_step_s = self._clock_s() + patience_s
        if number == signal.SIGKILL:
            _kill_group(part.process.pid)
        else:
            # Only the leader: how its own children end is its business, as with Ctrl-C there.
            with contextlib.suppress(ProcessLookupError):
                os.kill(part.process.pid, number)

    def _bury(self, part: _Part) -> None:
        """Kill what is left of the group, then reap its leader.

        In this order: as long as the leader is not reaped nobody else can get its number.
        """
        _kill_group(part.process.pid)
        part.process.wait()
        self._tell_guardian('-', part.process.pid)
        self._parts.pop(part.name, None)

    def _tell_guardian(self, sign: str, group: int) -> None:
        assert self._guardian.stdin is not None
        try:
            self._guardian.stdin.write(f'{sign} {group}\n'.encode())
            self._guardian.stdin.flush()
        except OSError:
            # Somebody killed the guardian. An orderly end needs none.
            pass


def tail(path: Path, lines: int = 8) -> list[str]:
    """Return the last lines of a text file that are not blank; none where there is no file."""
    try:
        with path.open('rb') as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode('utf-8', errors='replace')
    except OSError:
        return []
    # A progress bar rewrites its line with carriage returns: the last state is what it says.
    kept = [line.rstrip().split('\r')[-1] for line in text.split('\n') if line.strip()]
    return kept[-lines:]


def indented_tail(path: Path, lines: int = 12) -> str:
    """Return the last lines of a log, indented; says so when it is empty."""
    return '\n'.join(f'    {line}' for line in tail(path, lines) or ['(nothing)'])


def _exit_status(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit status, negative for a signal, without reaping; None while it runs."""
    result = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if result is None:
        return None
    is_exit = result.si_code == os.CLD_EXITED
    return result.si_status if is_exit else -result.si_status


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f'ended with exit status {status}'
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f'signal {-status}'
    return f'was ended by {name}'
