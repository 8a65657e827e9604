"""When a manager follows what is agreed, and when its own frames speak against it."""

from __future__ import annotations

import math

from dynamic_ofa_ros.runtime.coordination.status import Ceiling

ROOM_NS = 300_000_000
"""How long it takes until the others have made room; late frames do not count before."""

CHANCE = 0.005
"""So many late frames in a row that the share allowed makes them less likely than this are no
chance; two at least."""


class Obedience:
    """One manager's: it runs the agreed level until its own frames have been late there in a row.

    Then its policy decides, below the agreed level, until something else is agreed. So a peer that
    is wrong can cost accuracy, never the own limit.
    """

    def __init__(self) -> None:
        self._round = self._left_round = -1
        self._since_ns = 0
        self._late_in_a_row = 0

    def is_owed(self, ceiling: Ceiling) -> bool:
        """Tell whether an agreed level is to be run, as far as frames have told."""
        return ceiling.is_agreed and ceiling.round != self._left_round

    def holds(
        self, ceiling: Ceiling, time_ns: int, *, is_late: bool, wants_lower: bool, quantile: float
    ) -> bool:
        """Tell whether the agreed level is right after a frame that ended then.

        wants_lower: whether the policy wants less than the agreed level, which is the present one.
        """
        if not self.is_owed(ceiling):
            return False
        if ceiling.round != self._round:
            self._round, self._since_ns, self._late_in_a_row = ceiling.round, time_ns, 0
        if not is_late:
            self._late_in_a_row = 0
        elif time_ns - self._since_ns > ROOM_NS:
            self._late_in_a_row += 1
        if wants_lower and self._late_in_a_row >= too_many_in_a_row(quantile):
            self._left_round = ceiling.round
            return False
        return True


def too_many_in_a_row(quantile: float) -> int:
    """Return how many late frames in a row are no chance, when 1 - quantile may be late."""
    allowed = min(max(1.0 - quantile, 1e-9), 0.9)
    return max(2, math.ceil(math.log(CHANCE) / math.log(allowed)))
