from __future__ import annotations

import pytest

from dynamic_ofa_ros.runtime.outages import (
    FIRST_WAIT_NS,
    LONGEST_WAIT_NS,
    WORKING_WAITS,
    Outages,
)
from dynamic_ofa_ros.runtime.policies import Option

OPTIONS = [Option(level, platform) for platform in (0, 1) for level in (1, 2, 3)]


def test_two_failing_levels_exclude_the_platform() -> None:
    outages = Outages()
    assert not outages
    outages.fail(Option(3), 0)
    assert [o for o in OPTIONS if outages.is_out(o, 1)] == [Option(3)]
    outages.fail(Option(2), 1)
    assert [o for o in OPTIONS if outages.is_out(o, 2)] == OPTIONS[:3]


def test_levels_that_have_not_failed_are_the_first_after_the_wait_of_a_platform() -> None:
    outages = Outages()
    outages.fail(Option(3), 0)
    outages.fail(Option(2), 1)
    assert outages.usable(OPTIONS, FIRST_WAIT_NS + 1) == [Option(1), *OPTIONS[3:]]
    assert outages.usable(OPTIONS, 2 * FIRST_WAIT_NS + 1) == OPTIONS


def test_the_wait_doubles_with_every_failure_up_to_a_maximum() -> None:
    outages, now_ns, waits_ns = Outages(), 0, []
    for _ in range(12):
        outages.fail(Option(3), now_ns)
        began_ns = now_ns
        while outages.is_out(Option(3), now_ns):
            now_ns += FIRST_WAIT_NS // 2
        waits_ns.append(now_ns - began_ns)
        outages.work(Option(3), now_ns)  # works for one frame
    assert waits_ns[:3] == [FIRST_WAIT_NS, 2 * FIRST_WAIT_NS, 4 * FIRST_WAIT_NS]
    assert waits_ns[-1] == LONGEST_WAIT_NS


def test_failures_are_forgotten_after_working_for_long_enough() -> None:
    outages = Outages()
    outages.fail(Option(3), 0)
    outages.work(Option(3), FIRST_WAIT_NS)
    assert outages
    outages.work(Option(3), (1 + WORKING_WAITS) * FIRST_WAIT_NS)
    assert not outages


@pytest.mark.parametrize('level', [1, 2, 3])
def test_a_platform_that_works_again_is_no_longer_excluded(level: int) -> None:
    outages = Outages()
    outages.fail(Option(3), 0)
    outages.fail(Option(2), 0)
    outages.work(Option(level), 1)
    assert not outages.is_out(Option(level), 2)
    assert not outages.is_out(Option(1), 2)


def test_a_working_level_does_not_end_the_outage_of_another_level() -> None:
    outages = Outages()
    outages.fail(Option(3), 0)
    outages.work(Option(2), 1)
    assert outages.is_out(Option(3), 2)


def test_if_all_options_fail_they_are_tried_in_turn_with_constant_waits() -> None:
    outages, tried = Outages(), []
    for now_ns in range(60):
        (*_, option) = outages.usable(OPTIONS[:3], now_ns)
        tried.append(option.level)
        outages.fail(option, now_ns)
        assert outages.is_failing(option, now_ns)
    assert tried == [3, 2, 1] * 20
    outages.work(Option(2), 60)
    assert outages.usable(OPTIONS[:3], 3 * FIRST_WAIT_NS) == OPTIONS[:3]
