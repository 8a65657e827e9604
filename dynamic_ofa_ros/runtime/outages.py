"""Options whose inference fails: excluded at once, and tried again after increasing times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynamic_ofa_ros.runtime.policies import Option

FIRST_WAIT_NS, LONGEST_WAIT_NS = 1_000_000_000, 300_000_000_000

LEVELS_OF_A_BROKEN_PLATFORM = 2
"""If this many levels of a platform fail in a row, the whole platform is excluded."""

LEVEL_WAIT = 2
"""Failed levels are excluded for this multiple of the wait of their excluded platform, so that
other levels are tried before them."""

WORKING_WAITS = 10
"""An outage is forgotten after the option has worked for this multiple of its wait."""


@dataclass
class _Outage:
    until_ns: int
    wait_ns: int
    works_since_ns: int | None = None
    is_known: bool = False  # the level failed before, while others worked


class Outages:
    """Options that are currently excluded.

    A level that fails (it may be too large for the free memory) is excluded. If a second level
    fails before any level of the same platform works, the whole platform is excluded; levels that
    failed before, while others worked, do not count. Each wait is twice as long as the one before,
    unless the level or platform has worked for long enough.
    """

    def __init__(self) -> None:
        self._outages: dict[Option | int, _Outage] = {}  # by level or platform
        self._failed_ns: dict[Option, int] = {}  # last failures since the platform worked

    def __bool__(self) -> bool:
        """Return whether any option has failed and has not worked for long enough since."""
        return bool(self._outages)

    def fail(self, option: Option, time_ns: int, *, is_whole_platform: bool = False) -> None:
        """Exclude an option or its whole platform."""
        is_known = option in self._outages and option not in self._failed_ns
        self._exclude(option, time_ns).is_known = is_known
        self._failed_ns[option] = time_ns
        failed = [self._outages[o] for o in self._failed_ns if o.platform == option.platform]
        unexpected = sum(not outage.is_known for outage in failed)
        if is_whole_platform or unexpected >= LEVELS_OF_A_BROKEN_PLATFORM:
            wait_ns = self._exclude(option.platform, time_ns).wait_ns
            for outage in failed:
                outage.until_ns = max(outage.until_ns, time_ns + LEVEL_WAIT * wait_ns)

    def work(self, option: Option, time_ns: int) -> None:
        """Record that an option works; end its outage, and that of its platform."""
        for other in [o for o in self._failed_ns if o.platform == option.platform]:
            del self._failed_ns[other]
        for key in (option, option.platform):
            outage = self._outages.get(key)
            if outage is None:
                continue
            if outage.works_since_ns is None:
                outage.until_ns = min(outage.until_ns, time_ns)
                outage.works_since_ns = time_ns
            elif time_ns - outage.works_since_ns >= WORKING_WAITS * outage.wait_ns:
                del self._outages[key]

    def is_out(self, option: Option, time_ns: int) -> bool:
        """Return whether an option is excluded at a time."""
        found = (self._outages.get(option), self._outages.get(option.platform))
        return any(outage is not None and time_ns < outage.until_ns for outage in found)

    def is_failing(self, option: Option, time_ns: int) -> bool:
        """Return whether an excluded option has failed since its platform worked."""
        return option in self._failed_ns and self.is_out(option, time_ns)

    def usable(self, options: Sequence[Option], time_ns: int) -> Sequence[Option]:
        """Return the options that are not excluded.

        If there are none, return those that have not failed since their platform worked, or else
        the one whose failure is the longest ago.
        """
        included = [o for o in options if not self.is_out(o, time_ns)]
        untried = included or [o for o in options if o not in self._failed_ns]
        return untried or [min(options, key=self._failed_ns.__getitem__)]

    def _exclude(self, key: Option | int, time_ns: int) -> _Outage:
        before = self._outages.get(key)
        wait_ns = FIRST_WAIT_NS
        if before is not None:
            # If all options fail, they are tried before their waits are over.
            is_over = time_ns >= before.until_ns
            wait_ns = min(2 * before.wait_ns, LONGEST_WAIT_NS) if is_over else before.wait_ns
        outage = self._outages[key] = _Outage(time_ns + wait_ns, wait_ns)
        return outage
