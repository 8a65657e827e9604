"""Where the demo shows what happens: a live view on a terminal, a line a second elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.live import Live

from dynamic_ofa_ros.demo.report import status_line
from dynamic_ofa_ros.demo.snapshot import Snapshot
from dynamic_ofa_ros.demo.view import fits, render

SECONDS_BETWEEN_LINES = 1.0


class Display(Protocol):
    """Shows snapshots until closed."""

    def show(self, snapshot: Snapshot) -> None:
        """Show the present state."""

    def close(self) -> None:
        """Give the terminal back."""


class LiveDisplay:
    """Redraws a full-screen view; the terminal's own contents come back at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # Drawn only by `show`, on this thread: a refresh thread would take time from inference.
        self._live = Live(console=console, screen=True, auto_refresh=False)
        self._live.start()

    def show(self, snapshot: Snapshot) -> None:
        """Redraw; a size that changed meanwhile is followed."""
        self._live.update(render(snapshot, self._console), refresh=True)

    def close(self) -> None:
        """Leave the alternate screen."""
        self._live.stop()


class LineDisplay:
    """Prints a line a second, and one for every command and switch."""

    def __init__(self, console: Console, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock_s = clock_s
        self._next_s = -float('inf')
        self._command = ''
        self._switches = 0

    def show(self, snapshot: Snapshot) -> None:
        """Print what is new, and a line about this moment when a second has passed."""
        if snapshot.command != self._command:
            self._command = snapshot.command
            if self._command:
                self._print(f'{snapshot.now_s:5.1f} s  $ {self._command}')
        for switch in snapshot.switches[self._switches :]:
            self._print(
                f'{switch.time_s:5.1f} s  level {switch.from_level} -> {switch.to_level}: '
                f'{switch.reason}'
            )
        self._switches = len(snapshot.switches)
        if self._clock_s() >= self._next_s:
            self._next_s = self._clock_s() + SECONDS_BETWEEN_LINES
            self._print(status_line(snapshot))

    def close(self) -> None:
        """Nothing is held."""

    def _print(self, line: str) -> None:
        # Never wrapped: a line is a line, also for grep.
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def open_display(console: Console) -> Display:
    """Return the live view where the output is a terminal large enough, else lines."""
    return LiveDisplay(console) if fits(console) else LineDisplay(console)
