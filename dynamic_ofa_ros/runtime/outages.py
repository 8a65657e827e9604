"""Options whose inference fails: excluded at once, and tried again after increasing times."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dynamic_ofa_ros.runtime.policies import Option

FIRST_WAIT_NS, LONGEST_WAIT_NS = 1_000_000_000, 300_000_000_000

LEVELS_OF_A_BROKEN_PLATFORM = 2
"""If this many levels of a platform fail, the whole platform is excluded."""


@dataclass
class _Outage:
    until_ns: int
    wait_ns: int


class Outages:
    """Options that are currently excluded.

    If a single level fails (it may be too large for the free memory), only this level is excluded;
    if a second level of the same platform fails, the whole platform is excluded.
    """

    def __init__(self) -> None:
        self._outages: dict[Option, _Outage] = {}

    def __bool__(self) -> bool:
        """Return whether any option has failed and has not worked since."""
        return bool(self._outages)

    def fail(
        self,
        option: Option,
        options: Iterable[Option],
        time_ns: int,
        *,
        is_whole_platform: bool = False,
    ) -> None:
        """Exclude an option or its whole platform. options: all options."""
        self._extend(option, time_ns)
        same_platform = [o for o in options if o.platform == option.platform]
        failed = [o for o in self._outages if o.platform == option.platform]
        if is_whole_platform or len(failed) >= LEVELS_OF_A_BROKEN_PLATFORM:
            longest = max((self._outages[o] for o in failed), key=lambda outage: outage.until_ns)
            for other in same_platform:
                self._outages[other] = _Outage(longest.until_ns, longest.wait_ns)

    def work(self, option: Option) -> None:
        """Record that an option works; end its outage, and that of its platform."""
        ended = self._outages.pop(option, None)
        for other in [o for o in self._outages if o.platform == option.platform]:
            if self._outages[other] == ended:
                del self._outages[other]

    def is_out(self, option: Option, time_ns: int) -> bool:
        """Return whether an option is excluded at a time."""
        outage = self._outages.get(option)
        return outage is not None and time_ns < outage.until_ns

    def _extend(self, option: Option, time_ns: int) -> None:
        before = self._outages.get(option)
        wait_ns = FIRST_WAIT_NS if before is None else min(2 * before.wait_ns, LONGEST_WAIT_NS)
        self._outages[option] = _Outage(time_ns + wait_ns, wait_ns)
