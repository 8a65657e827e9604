"""Options whose engine fails: left at once, tried again after a wait that doubles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dynamic_ofa_ros.runtime.policies import Option

FIRST_WAIT_NS, LONGEST_WAIT_NS = 1_000_000_000, 300_000_000_000

LEVELS_OF_A_BROKEN_PLATFORM = 2
"""When so many of its levels fail, it is the platform that fails."""


@dataclass
class _Outage:
    until_ns: int
    wait_ns: int


class Outages:
    """What cannot be used at present.

    One level that fails (it may be too large for the memory that is left) is out by itself; when a
    second level of the same platform fails, all of that platform are.
    """

    def __init__(self) -> None:
        self._outages: dict[Option, _Outage] = {}

    def __bool__(self) -> bool:
        """Tell whether any option has failed and not worked again since."""
        return bool(self._outages)

    def fail(
        self,
        option: Option,
        options: Iterable[Option],
        time_ns: int,
        *,
        is_whole_platform: bool = False,
    ) -> None:
        """Take an option, or its platform, out of use. options: all there are."""
        self._extend(option, time_ns)
        same_platform = [o for o in options if o.platform == option.platform]
        failed = [o for o in self._outages if o.platform == option.platform]
        if is_whole_platform or len(failed) >= LEVELS_OF_A_BROKEN_PLATFORM:
            longest = max((self._outages[o] for o in failed), key=lambda outage: outage.until_ns)
            for other in same_platform:
                self._outages[other] = _Outage(longest.until_ns, longest.wait_ns)

    def work(self, option: Option) -> None:
        """Note that an option works: it is no longer suspected, nor is its platform."""
        if option in self._outages:
            for other in [o for o in self._outages if o.platform == option.platform]:
                if other == option or self._outages[other] == self._outages[option]:
                    del self._outages[other]

    def is_out(self, option: Option, time_ns: int) -> bool:
        """Tell whether an option must not be used now."""
        outage = self._outages.get(option)
        return outage is not None and time_ns < outage.until_ns

    def _extend(self, option: Option, time_ns: int) -> None:
        before = self._outages.get(option)
        wait_ns = FIRST_WAIT_NS if before is None else min(2 * before.wait_ns, LONGEST_WAIT_NS)
        self._outages[option] = _Outage(time_ns + wait_ns, wait_ns)
