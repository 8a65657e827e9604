"""Keep the levels of an engine in memory: all, or as many as a memory budget allows."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import math
import threading
import weakref
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import psutil

T = TypeVar('T')
_log = logging.getLogger(__name__)

LEAST_MB = 0.1
"""Minimum size assumed for a level; reused memory can hide the size of a level."""


class Residents(Generic[T]):
    """Holds a runner object for each level, within a memory budget; 0 means no budget.

    With a budget, these levels are in memory: the lowest one, the one in use, the wanted one, and
    then the neighbours of the wanted one, the nearest first, as far as the budget allows. A
    background thread loads them; `is_ready` returns whether a level is loaded.

    load: returns the runner of a level (1-based). It is called on the background thread and on the
    callers' threads; without a budget, on `workers` threads at the start. first: without a budget,
    only these levels are loaded at the start, the others after the first `approach` or on demand.
    check: called with each level loaded later, which is not used if it raises an exception.
    """

    def __init__(
        self,
        load: Callable[[int], T],
        count: int,
        budget_mb: float = 0.0,
        workers: int = 1,
        first: Collection[int] = (),
    ) -> None:
        self.count = count
        self.check: Callable[[int, T], None] = lambda index, level: None
        self._load = load
        self._budget_mb = budget_mb or math.inf
        self._levels: dict[int, T] = {}
        self._sizes_mb = [LEAST_MB] * count
        self._centre = self._in_use = 1
        self._loading = threading.Lock()
        self._changed = threading.Condition()
        self._failures: dict[int, str] = {}
        self._is_closed = False
        self._thread: threading.Thread | None = None
        if not budget_mb:
            self._take_all(first or range(1, count + 1), workers)
        else:
            load(1)  # so that memory that a library allocates once is not counted for a level
            _return_freed_memory()
            for index in range(1, count + 1):
                self.get(index)
            self._start()

    def _start(self) -> None:
        atexit.register(_close, weakref.ref(self))
        self._thread = threading.Thread(target=self._run, name='levels', daemon=True)
        self._thread.start()

    def get(self, index: int) -> T:
        """Return the runner of a level; if it is not in memory, load it first, which is slow."""
        level = self._levels.get(index)
        if level is not None:
            return level
        if self._is_closed:
            raise RuntimeError('the engine is closed')
        with self._loading:
            if index not in self._levels:
                self._centre = self._in_use = index
                self._take(index)
            return self._levels[index]

    def is_ready(self, index: int) -> bool:
        """Return whether a level is in memory, or loaded on demand before the first `approach`."""
        return index in self._levels or self._thread is None

    def approach(self, wanted: int, in_use: int) -> None:
        """Set the level in use and the level to load, with its neighbours, in the background."""
        if self._thread is None and len(self._levels) < self.count:
            self.get(in_use)
            self._centre, self._in_use = wanted, in_use
            self._start()
        if self._thread is None or (wanted, in_use) == (self._centre, self._in_use):
            return
        with self._changed:
            self._centre, self._in_use = wanted, in_use
            self._changed.notify()

    def close(self) -> None:
        """End the thread and free all levels."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._levels.clear()

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels in memory, ascending."""
        return tuple(sorted(self._levels))

    @property
    def notes(self) -> tuple[str, ...]:
        """The levels that could not be loaded, and why."""
        return tuple(
            f'level {index} is not used, because it cannot be loaded: {error}'
            for index, error in tuple(self._failures.items())
        )

    @property
    def resident_mb(self) -> float:
        """The memory of the levels, measured when they were loaded."""
        return sum(self._sizes_mb[index - 1] for index in tuple(self._levels))

    def _run(self) -> None:
        seen = (0, 0)
        while True:
            with self._changed:
                while not self._is_closed and (self._centre, self._in_use) == seen:
                    self._changed.wait()
                if self._is_closed:
                    return
                seen = (self._centre, self._in_use)
            with self._loading:
                self._make_room()
            for index in self._chosen():
                if self._is_closed or (self._centre, self._in_use) != seen:
                    break
                try:
                    with self._loading:
                        if index not in self._levels:
                            self._take(index)
                    self._failures.pop(index, None)
                except Exception as error:  # of a library; the manager uses other levels
                    self._failures[index] = str(error) or type(error).__name__
                    _log.warning('level %d cannot be loaded: %s', index, error)
            if self._budget_mb == math.inf and len(self._levels) == self.count:
                return

    def _chosen(self) -> list[int]:
        """Return the levels to keep in memory, the most urgent first."""
        centre = self._centre
        chosen = list(dict.fromkeys((self._in_use, 1, centre)))
        used_mb = sum(self._sizes_mb[index - 1] for index in chosen)
        for index in sorted(range(1, self.count + 1), key=lambda index: abs(index - centre)):
            size_mb = self._sizes_mb[index - 1]
            if index not in chosen and used_mb + size_mb <= self._budget_mb:
                chosen.append(index)
                used_mb += size_mb
        return chosen

    def _take_all(self, indices: Collection[int], workers: int) -> None:
        before_mb = _process_mb()
        with ThreadPoolExecutor(workers) as pool:
            self._levels = dict(zip(indices, pool.map(self._load, indices), strict=True))
        _return_freed_memory()
        size_mb = max(LEAST_MB, (_process_mb() - before_mb) / len(indices))
        for index in indices:
            self._sizes_mb[index - 1] = size_mb

    def _take(self, index: int) -> None:
        """Load a level after unloading those that are no longer needed."""
        self._make_room()
        before = _process_mb()
        level = self._load(index)
        self.check(index, level)
        self._levels[index] = level
        _return_freed_memory()
        grown_mb = _process_mb() - before
        self._sizes_mb[index - 1] = max(self._sizes_mb[index - 1], grown_mb)

    def _make_room(self) -> None:
        kept = self._chosen()
        unneeded = [index for index in self._levels if index not in kept]
        for index in unneeded:
            del self._levels[index]
        if unneeded:
            _return_freed_memory()


def _close(reference: weakref.ref[Residents[Any]]) -> None:
    """End the thread before the interpreter exits, because a library may be running on it."""
    residents = reference()
    if residents is not None:
        residents.close()


def _return_freed_memory() -> None:
    """Return freed memory, which glibc keeps, to the system; this saves a fifth of the memory."""
    with contextlib.suppress(OSError, AttributeError):  # raised without glibc
        ctypes.CDLL(None).malloc_trim(0)


def _process_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20
