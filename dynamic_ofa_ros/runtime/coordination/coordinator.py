"""Coordinate one manager with its peers.

The manager with the alphabetically first name proposes levels for all from the statuses of all;
the others follow. If it fails, the next one by name takes over: all managers have the same
information.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dynamic_ofa_ros.runtime.coordination.proposer import Proposer
from dynamic_ofa_ros.runtime.coordination.status import Agreement, Allowance, Status

SILENCE_NS = 1_000_000_000
"""A peer without a status for this long is removed."""

FAREWELL_NS = 10_000_000_000
"""Coordination goes on for this long after the last peer left, because the policy's estimates
still contain the contention."""

MAX_PEERS = 15
"""Further peers are ignored, to limit the computing time of a choice."""


class Coordinator:
    """Coordinates one manager with its peers; stores the peers' statuses and the agreement."""

    def __init__(self) -> None:
        self._peers: dict[str, tuple[int, Status]] = {}
        self._agreement = Agreement(0, ())
        self._proposer = Proposer()
        self._last_company_ns = -FAREWELL_NS - 1

    def receive(self, status: Status, time_ns: int) -> bool:
        """Store a peer's status; return False and ignore it if it is invalid."""
        for name, (heard_ns, _) in list(self._peers.items()):
            if time_ns - heard_ns > SILENCE_NS:
                del self._peers[name]
        is_new = status.name not in self._peers
        if not status.is_sound(time_ns) or (is_new and len(self._peers) >= MAX_PEERS):
            return False
        self._peers[status.name] = (time_ns, status)
        return True

    def decide(self, own: Status, time_ns: int) -> Allowance | None:
        """Return the range of levels for this manager; None if there are no peers."""
        own = replace(own, time_ns=time_ns)
        peers = [
            peer
            for heard_ns, peer in self._peers.values()
            if time_ns - heard_ns <= SILENCE_NS
            and peer.name != own.name
            and peer.device == own.device
        ]
        if peers:
            self._last_company_ns = time_ns
        elif time_ns - self._last_company_ns > FAREWELL_NS:
            self._agreement = Agreement(self._agreement.round, ())
            return None
        self._agree(own, peers, time_ns)
        names = _named(peers)
        level = dict(self._agreement.levels).get(own.name, 0)
        if not 1 <= level <= len(own.accuracies):
            return Allowance(1, own.level, f'collective with {names}: no agreement yet')
        reason = f'collective with {names}: level {level}'
        if own.accuracies[level - 1] < own.accuracies[own.level - 1]:
            reason = f'collective: makes room for {names} at level {level}'
        return Allowance(level, level, reason)

    def told(self, own: Status, time_ns: int) -> Status:
        """Return the own status for the peers, with the agreement."""
        agreement = self._agreement if self._agreement.levels else None
        return replace(own, time_ns=time_ns, agreement=agreement)

    def _agree(self, own: Status, peers: Sequence[Status], time_ns: int) -> None:
        everyone = sorted([own, *peers], key=lambda status: status.name)
        # A peer without an agreement does not propose: it has just started, or it never proposes.
        first = next(s for s in everyone if s is own or s.agreement is not None)
        if first is own:
            rounds = [s.agreement.round for s in peers if s.agreement is not None]
            last_round = max([self._agreement.round, *rounds])
            self._agreement = self._proposer.propose(everyone, time_ns, last_round)
        elif first.agreement is not None:
            self._agreement = first.agreement


def _named(peers: Sequence[Status]) -> str:
    """Return the name of a single peer, or the number of peers, to keep a message short."""
    if len(peers) == 1:
        name = peers[0].name
        return name if len(name) <= 40 else f'...{name[-37:]}'
    return f'{len(peers)} others' if peers else 'no other model'
