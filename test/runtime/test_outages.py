from __future__ import annotations

import pytest

from dynamic_ofa_ros.runtime.outages import FIRST_WAIT_NS, LONGEST_WAIT_NS, Outages
from dynamic_ofa_ros.runtime.policies import Option

OPTIONS = [Option(level, platform) for platform in (0, 1) for level in (1, 2, 3)]


def test_two_failing_levels_exclude_the_platform() -> None:
    outages = Outages()
    assert not outages
    outages.fail(Option(3), OPTIONS, 0)
    assert [o for o in OPTIONS if outages.is_out(o, 1)] == [Option(3)]
    outages.fail(Option(2), OPTIONS, 1)
    assert [o for o in OPTIONS if outages.is_out(o, 2)] == OPTIONS[:3]


def test_the_wait_doubles_with_every_failure_up_to_a_maximum() -> None:
    outages, now_ns, waits_ns = Outages(), 0, []
    for _ in range(12):
        outages.fail(Option(3), OPTIONS, now_ns)
        began_ns = now_ns
        while outages.is_out(Option(3), now_ns):
            now_ns += FIRST_WAIT_NS // 2
        waits_ns.append(now_ns - began_ns)
    assert waits_ns[:3] == [FIRST_WAIT_NS, 2 * FIRST_WAIT_NS, 4 * FIRST_WAIT_NS]
    assert waits_ns[-1] == LONGEST_WAIT_NS


@pytest.mark.parametrize('level', [1, 2, 3])
def test_a_platform_that_works_again_is_no_longer_excluded(level: int) -> None:
    outages = Outages()
    outages.fail(Option(3), OPTIONS, 0)
    outages.fail(Option(2), OPTIONS, 0)
    outages.work(Option(level))
    assert not outages


def test_a_working_level_does_not_end_the_outage_of_another_level() -> None:
    outages = Outages()
    outages.fail(Option(3), OPTIONS, 0)
    outages.work(Option(2))
    assert outages.is_out(Option(3), 1)
