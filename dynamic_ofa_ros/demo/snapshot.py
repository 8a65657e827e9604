"""What the demo knows at one moment: drawn by the live view, or told as a line."""

from __future__ import annotations

from dataclasses import dataclass

from dynamic_ofa_ros.demo.recording import FrameRecord, LevelRecord, SwitchRecord
from dynamic_ofa_ros.demo.scenario import Phase, Progress


@dataclass(frozen=True)
class Tally:
    """Labels checked against the truth: over the run, and over the most recent ones."""

    correct: int = 0
    known: int = 0
    recent_correct: int = 0
    recent_known: int = 0


@dataclass(frozen=True)
class Preparation:
    """What the demo waits for before the scenario begins, and what that part says meanwhile."""

    waiting_for: str
    elapsed_s: float
    timeout_s: float
    log_lines: tuple[str, ...]


@dataclass(frozen=True)
class Snapshot:
    """Everything on screen.

    now_s: time since the scenario began. frames: the last seconds, by time. command: what the demo
    just did, as the command line that would do the same. preparation is None once it plays.
    """

    now_s: float
    phases: tuple[Phase, ...]
    progress: Progress
    preparation: Preparation | None
    command: str
    frames: tuple[FrameRecord, ...]
    tally: Tally
    switches: tuple[SwitchRecord, ...]
    levels: tuple[LevelRecord, ...]
    family: str
    platform: str
    output: str
    hint: str

    @property
    def latest(self) -> FrameRecord | None:
        """Return the newest frame."""
        return self.frames[-1] if self.frames else None
