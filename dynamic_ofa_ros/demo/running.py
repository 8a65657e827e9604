"""What every demo has: options, a result, an ending by signals, a domain of its own."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from dynamic_ofa_ros import __version__
from dynamic_ofa_ros.demo.domain import own_domain
from dynamic_ofa_ros.demo.processes import PartError
from dynamic_ofa_ros.demo.summary import Summary

TICK_S = 0.2
"""Between two drawings: often enough to look alive, seldom enough not to compete."""


@dataclass(frozen=True)
class DemoOptions:
    """What the command line asks for.

    source: a folder of images that the camera shows; empty: it renders signs.
    truth_labels: the family's label of each class folder in it; empty where the truth is unknown.
    """

    family: str
    seconds: float
    rate_hz: float
    has_plots: bool
    prepare_timeout_s: float
    source: str = ''
    truth_labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_truth(self) -> bool:
        """Return whether the camera says what it shows."""
        return not self.source or bool(self.truth_labels)


@dataclass(frozen=True)
class DemoResult:
    """How it ended: exit status, why (empty when all went well), files, and the summary if any."""

    exit_status: int
    message: str
    files: tuple[Path, ...]
    summary: Summary | None


class Interrupted(Exception):  # noqa: N818 - not an error
    """A signal asked the demo to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class DemoSession(Protocol):
    """One run of a demo."""

    def play(self) -> None:
        """Start the parts, play, end the parts."""

    def finish(self, status: int, message: str) -> DemoResult:
        """Write what was recorded."""


def run_session(create: Callable[[list[int], int], DemoSession]) -> DemoResult:
    """Run a demo until no process of it is left.

    create: is given the list that the numbers of signals come into, and the number of a ROS
    domain of its own. SIGINT, SIGTERM and SIGHUP end the demo; what was recorded until then is
    still written. A part that dies ends it with status 1.
    """
    with signals_noted() as received, own_domain() as domain_id:
        session = create(received, domain_id)
        status, message = 0, ''
        try:
            session.play()
        except Interrupted as interruption:
            status, message = 128 + interruption.number, f'ended early by {interruption}'
        except PartError as error:
            status, message = 1, str(error)
        return session.finish(status, message)


def conditions(message: str) -> dict[str, str]:
    """Return what a summary says of machine and run; `message` is why it ended early, or empty."""
    return {
        'host': platform.node(),
        'machine': platform.machine(),
        'cpus': str(os.cpu_count()),
        'python': platform.python_version(),
        'package': __version__,
        'ended': message or 'as planned',
    }


@contextlib.contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Collect the signals that should end the demo, instead of letting them interrupt anything.

    So that a second Ctrl-C cannot interrupt the ending of the processes.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        sys.stdout.flush()
