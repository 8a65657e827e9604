"""Ends process groups when the process that started them is gone, whatever killed it.

Run as a program of its own (`python -I -S guardian.py`) with a pipe as standard input. Lines `+ N`
and `- N` add and remove process group N. When the pipe ends, the writer is gone, even by SIGKILL:
groups still listed get SIGTERM, a moment later SIGKILL. A parent-death signal (prctl) would only
reach the direct children, and only those of a thread that lives on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

GRACE_S = 1.5
POLL_S = 0.05


def follow(lines: Iterable[str]) -> set[int]:
    """Read lines until the writer is gone; return the process groups that are still listed."""
    groups: set[int] = set()
    for line in lines:
        sign, _, number = line.strip().partition(' ')
        if not number.isdigit() or int(number) <= 1:
            continue
        if sign == '+':
            groups.add(int(number))
        else:
            groups.discard(int(number))
    return groups


def end_groups(groups: Iterable[int], grace_s: float = GRACE_S) -> None:
    """Send SIGTERM to the groups, and SIGKILL to those still there after `grace_s`."""
    left = {group for group in groups if _signal(group, signal.SIGTERM)}
    deadline_s = time.monotonic() + grace_s
    while left and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
        left = {group for group in left if _signal(group, 0)}
    for group in left:
        _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    """Send a signal; return whether the group exists."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main() -> None:
    """Guard until standard input ends."""
    # Whatever ends the demo must not end its guardian first.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_groups(follow(sys.stdin))


if __name__ == '__main__':
    main()
