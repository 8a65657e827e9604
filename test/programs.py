"""Programs that tests start, and waiting for what they do, always with a deadline."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEADLINE_S = 20.0
PERIOD_S = 0.005


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """Wait until the condition holds and return it; fail with `what` at the deadline."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f'{what}: not within {timeout_s:g} s'
        time.sleep(PERIOD_S)
    return value


def ignore_sigint() -> None:
    """Do what a shell does before it starts a process in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass
class Program:
    """A process whose output, both streams, goes to a file."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(
        cls, command: Sequence[str | Path], log: Path, name: str = '', **options: Any
    ) -> Program:
        """Start a command; `options` are those of Popen."""
        with log.open('wb') as file:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                **options,
            )
        return cls(name or log.stem, process, log)

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def confine(self, cpus: set[int], nice: int = 0) -> None:
        """Keep the process on some CPUs at a priority: all threads that it has now (Linux)."""
        for task in Path(f'/proc/{self.process.pid}/task').iterdir():
            os.sched_setaffinity(int(task.name), cpus)
            os.setpriority(os.PRIO_PROCESS, int(task.name), nice)

    def output(self) -> str:
        return self.log.read_text(encoding='utf-8', errors='replace')

    def wait_for(self, pattern: str, timeout_s: float = DEADLINE_S) -> None:
        """Wait until something that matches was printed; fail when the program ends first."""

        def is_printed() -> bool:
            is_running = self.is_running
            if re.search(pattern, self.output()):
                return True
            assert is_running, f'{self.name} has ended without {pattern!r}:\n{self.output()}'
            return False

        try:
            wait_until(is_printed, pattern, timeout_s)
        except AssertionError as error:
            raise AssertionError(f'{error}\n{self.output()}') from None

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Return the exit status."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f'{self.name} did not end:\n{self.output()}') from None

    def stop(self, number: int = signal.SIGINT, timeout_s: float = DEADLINE_S) -> int:
        """Send a signal and return the exit status."""
        if self.is_running:
            self.process.send_signal(number)
        return self.wait(timeout_s)
