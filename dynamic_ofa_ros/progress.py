"""Progress of long tasks: a bar on a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 10.0


class ProgressReport:
    """Reports on standard error how many of `total` steps are done."""

    def __init__(self, description: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._description, self._total = description, total
        self._started = self._last_line = time.monotonic()
        self._done_before: int | None = None
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn('{task.description}'),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn('{task.fields[note]}'),
                console=console,
            )
            self._task = self._bar.add_task(description, total=total, note='')
            self._bar.start()

    def update(self, done: int, note: str = '') -> None:
        """Report that `done` steps are done; `note` is a short text shown beside the bar.

        Steps that are done at the first call count as the work of an earlier run: the remaining
        time is estimated from later steps only.
        """
        if self._done_before is None:
            self._done_before = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._last_line < SECONDS_BETWEEN_LINES and done < self._total:
            return
        self._last_line = now
        rate = (done - self._done_before) / (now - self._started)
        left = f'{(self._total - done) / rate:.0f} s' if rate > 0 else 'unknown time'
        line = f'{self._description}: {done}/{self._total}, about {left} left'
        print(f'{line}  {note}'.rstrip(), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Stop the progress bar."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def progress(description: str, total: int) -> Iterator[ProgressReport]:
    """Report progress while the block runs."""
    report = ProgressReport(description, total)
    try:
        yield report
    finally:
        report.close()
