"""Join the messages about one frame (truth, label, telemetry) by the image's header stamp."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

PENDING_MAX = 90
"""Frames waited for; at 30 Hz the oldest has been waiting for 3 s and goes out as it is."""


@dataclass
class _Pending:
    truth: str | None = None
    label: str | None = None
    telemetry: Any = None


@dataclass(frozen=True)
class JoinedFrame:
    """One frame's messages. An empty truth or label never arrived."""

    stamp_ns: int
    truth: str
    label: str
    telemetry: Any


class FrameJoiner:
    """Collects messages in any order; hands a frame out once all its messages have arrived."""

    def __init__(self, pending_max: int = PENDING_MAX) -> None:
        self._pending: OrderedDict[int, _Pending] = OrderedDict()
        self._pending_max = pending_max

    def add_truth(self, stamp_ns: int, truth: str) -> list[JoinedFrame]:
        """Take the true label of a frame; return the frames this completes or crowds out."""
        self._entry(stamp_ns).truth = truth
        return self._completed(stamp_ns)

    def add_label(self, stamp_ns: int, label: str) -> list[JoinedFrame]:
        """Take the classifier's label; return the frames this completes or crowds out."""
        self._entry(stamp_ns).label = label
        return self._completed(stamp_ns)

    def add_telemetry(self, stamp_ns: int, telemetry: Any) -> list[JoinedFrame]:
        """Take the telemetry of a frame; return the frames this completes or crowds out."""
        self._entry(stamp_ns).telemetry = telemetry
        return self._completed(stamp_ns)

    def flush(self) -> list[JoinedFrame]:
        """Return frames with telemetry that still lack a message, and forget everything."""
        rest = [
            joined
            for stamp_ns, pending in self._pending.items()
            if (joined := _joined(stamp_ns, pending))
        ]
        self._pending.clear()
        return rest

    def _entry(self, stamp_ns: int) -> _Pending:
        return self._pending.setdefault(stamp_ns, _Pending())

    def _completed(self, stamp_ns: int) -> list[JoinedFrame]:
        done = []
        pending = self._pending[stamp_ns]
        if None not in (pending.truth, pending.label, pending.telemetry):
            del self._pending[stamp_ns]
            done.append(_joined(stamp_ns, pending))
        if len(self._pending) > self._pending_max:
            oldest, pending = self._pending.popitem(last=False)
            done.append(_joined(oldest, pending))
        return [joined for joined in done if joined]


def _joined(stamp_ns: int, pending: _Pending) -> JoinedFrame | None:
    """Return the frame; None for one that was never classified (dropped on its way)."""
    if pending.telemetry is None:
        return None
    label = pending.label
    if label is None:
        label = str(pending.telemetry.top1_label)
    return JoinedFrame(stamp_ns, pending.truth or '', label, pending.telemetry)
