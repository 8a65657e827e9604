"""One manager's part in the collective: listen, agree, obey.

The first by name of those that propose does so for all, from everybody's statuses; the others
follow. When it falls silent the next one does: all of them know the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dynamic_ofa_ros.runtime.coordination.frames import FrameLog
from dynamic_ofa_ros.runtime.coordination.proposer import Proposer
from dynamic_ofa_ros.runtime.coordination.status import Agreement, Ceiling, Status

SILENCE_NS = 2_000_000_000
"""A peer that says nothing for so long is gone."""

MAX_NAME = 40
"""Longer names of peers are cut in reasons."""

IDLE_NS = 1_000_000_000
"""A peer that says nothing for so long is taken to leave its room to the others."""

FAREWELL_NS = 10_000_000_000
"""Who is left alone goes on like this for so long: its policy still remembers the contention."""


class Coordinator:
    """One manager's part in the collective; it keeps what the peers said and what was measured."""

    def __init__(self) -> None:
        self._peers: dict[str, tuple[int, Status]] = {}
        self._log = FrameLog()
        self._agreement = Agreement(0, ())
        self._last_company_ns = -FAREWELL_NS - 1
        self._proposer = Proposer(self._log)

    def receive(self, status: Status, time_ns: int) -> bool:
        """Take a peer's status; return False and ignore it when its numbers make no sense."""
        if not status.is_sound:
            return False
        self._peers[status.name] = (time_ns, status)
        return True

    def peers(self, device: str, time_ns: int) -> list[Status]:
        """Return the living peers on a device, by name."""
        for name, (heard_ns, _) in list(self._peers.items()):
            if time_ns - heard_ns > SILENCE_NS:
                del self._peers[name]
        living = (status for _, status in self._peers.values() if status.device == device)
        return sorted(living, key=lambda status: status.name)

    def decide(self, own: Status, time_ns: int) -> Ceiling | None:
        """Return what is left to this manager; None when there is nobody to care for."""
        own = replace(own, time_ns=time_ns)
        peers = [
            peer
            for peer in self.peers(own.device, time_ns)
            if peer.name != own.name and time_ns - self._peers[peer.name][0] <= IDLE_NS
        ]
        if peers:
            self._last_company_ns = time_ns
        elif time_ns - self._last_company_ns > FAREWELL_NS:
            self._agreement = Agreement(self._agreement.round, ())
            return None
        everyone = sorted([own, *peers], key=lambda status: status.name)
        names = _named(peers)
        for status in everyone:
            self._log.take(status)
        observations = self._log.observe([status.name for status in everyone])
        # Who tells no agreement does not propose: it has only just come, or never will.
        first = next(s for s in everyone if s.name == own.name or s.agreement is not None)
        if first.name == own.name:
            rounds = [s.agreement.round for s in everyone if s.agreement is not None]
            last_round = max([self._agreement.round, *rounds])
            self._agreement = self._proposer.propose(everyone, observations, time_ns, last_round)
        elif first.agreement is not None:
            self._agreement = first.agreement
        level = self._agreement.level(own.name)
        if level is None or not 1 <= level <= len(own.accuracies):
            return Ceiling(own.level, f'collective with {names}: measures')
        reason = f'collective with {names}: level {level}'
        if own.accuracy(level) < own.accuracy(own.level):
            reason = f'collective: makes room for {names} at level {level}'
        return Ceiling(level, reason, is_agreed=True, round=self._agreement.round)

    def told(self, own: Status, time_ns: int) -> Status:
        """Return the own status as the peers shall hear it: with what is agreed."""
        return replace(
            own, time_ns=time_ns, agreement=self._agreement if self._agreement.levels else None
        )


def _named(peers: Sequence[Status]) -> str:
    """Return the peers for a sentence: one by name, more by number, so that it stays short."""
    if len(peers) == 1:
        name = peers[0].name
        return name if len(name) <= MAX_NAME else f'...{name[3 - MAX_NAME :]}'
    return f'{len(peers)} others' if peers else 'nobody any more'
