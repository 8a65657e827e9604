"""On which processors the thread that classifies runs, how urgently, and when garbage goes."""

from __future__ import annotations

import gc
import logging
import os
import re
import threading
from dataclasses import dataclass

CPUS_PATTERN = r'(\d+(-\d+)?(,\d+(-\d+)?)*)?'
"""'' or numbers and ranges of processors: 0,2-3."""

GARBAGE = ('python', 'between_frames')

_FULL_EVERY = 500
"""Frames between two full collections of garbage."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scheduling:
    """What the system and Python are asked for.

    cpus: the processors that the thread may use, as in `CPUS_PATTERN`; '' leaves them. nice: from
    -20 (before others, needs the right to it) to 19; 0 leaves it. garbage: `python` collects it
    whenever Python finds it time, in the middle of a frame too; `between_frames` after a frame.
    """

    cpus: str = ''
    nice: int = 0
    garbage: str = 'python'

    def begin(self) -> None:
        """Apply this to the calling thread; a warning says what the system refuses."""
        thread = threading.get_native_id()
        if self.cpus:
            try:
                os.sched_setaffinity(thread, numbers_of(self.cpus))
            except (OSError, ValueError, AttributeError) as error:  # AttributeError: not Linux
                _log.warning('the classifying thread cannot be kept on %s: %s', self.cpus, error)
        if self.nice:
            try:
                os.setpriority(os.PRIO_PROCESS, thread, self.nice)  # of a thread, on Linux
            except OSError as error:
                _log.warning(
                    'the classifying thread cannot have niceness %d: %s; allow it with '
                    'LimitNICE= of systemd or /etc/security/limits.conf',
                    self.nice,
                    error,
                )
        if self.garbage == 'between_frames':
            gc.collect()
            gc.freeze()  # what is there by now stays: no collection looks at it again
            gc.disable()

    def after_frame(self, processed: int) -> None:
        """Collect garbage, if that is its time; `processed`: frames so far."""
        if self.garbage == 'between_frames':
            gc.collect(2 if processed % _FULL_EVERY == 0 else 1)

    def end(self) -> None:
        """Leave garbage to Python again."""
        if self.garbage == 'between_frames':
            gc.enable()
            gc.unfreeze()


def numbers_of(cpus: str) -> set[int]:
    """Return the numbers that '0,2-3' stands for; raise ValueError for anything else."""
    if not cpus or not re.fullmatch(CPUS_PATTERN, cpus):
        raise ValueError(f'{cpus!r} names no processors; write them as 0,2-3')
    found: set[int] = set()
    for part in cpus.split(','):
        first, _, last = part.partition('-')
        found.update(range(int(first), int(last or first) + 1))
    return found
