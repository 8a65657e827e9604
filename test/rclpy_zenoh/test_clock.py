"""Times, clocks, timers, simulated time."""

import pytest
from rclpy_zenoh.support import Node, ros, spin_until, spinning, wait_until

import rclpy  # isort: skip
from builtin_interfaces.msg import Time as TimeMessage  # isort: skip
from rclpy.clock import Clock, ClockType, ROSClock  # isort: skip
from rclpy.duration import Duration  # isort: skip
from rclpy.parameter import Parameter  # isort: skip
from rclpy.time import Time  # isort: skip
from rosgraph_msgs.msg import Clock as ClockMessage  # isort: skip


@pytest.fixture
def node(router):
    with ros() as context:
        yield Node('n', context=context)


def test_time_arithmetic():
    time = Time(seconds=1, nanoseconds=5, clock_type=ClockType.ROS_TIME)
    assert (time + Duration(seconds=1)).nanoseconds == 2_000_000_005
    assert (time - Duration(nanoseconds=5)).seconds_nanoseconds() == (1, 0)
    earlier = Time(seconds=0.5, clock_type=ClockType.ROS_TIME)
    assert (time - earlier) == Duration(nanoseconds=500_000_005)
    assert time > earlier
    assert time.to_msg() == TimeMessage(sec=1, nanosec=5)
    assert Time.from_msg(time.to_msg()) == time
    with pytest.raises(TypeError):
        _ = time < Time(seconds=1)
    with pytest.raises(ValueError, match='negative'):
        Time(seconds=-1)


def test_durations():
    assert Duration(seconds=1.5).nanoseconds == 1_500_000_000
    assert Duration(seconds=-1) < Duration()
    assert Duration.from_msg(Duration(seconds=-0.5).to_msg()) == Duration(seconds=-0.5)


def test_clock_types():
    assert isinstance(Clock(clock_type=ClockType.ROS_TIME), ROSClock)
    assert Clock().clock_type == ClockType.SYSTEM_TIME
    steady = Clock(clock_type=ClockType.STEADY_TIME)
    assert steady.now() <= steady.now()


def test_timer_calls_once_a_period_and_skips_what_it_missed(node):
    # A clock of our own makes the timer's time ours too.
    clock = ROSClock()
    clock.set_sim_time(10**9)
    calls = []
    timer = node.create_timer(1.0, lambda: calls.append(clock.now_ns()), clock=clock)
    for now_s, expected in ((1.5, 0), (2.0, 1), (2.5, 1), (5.7, 2), (5.9, 2), (6.0, 3)):
        clock.set_sim_time(int(now_s * 1e9))
        timer.execute()
        assert len(calls) == expected, now_s


def test_timer_follows_a_clock_that_jumps_back(node):
    clock = ROSClock()
    clock.set_sim_time(100 * 10**9)
    timer = node.create_timer(1.0, None, clock=clock)
    clock.set_sim_time(10 * 10**9)
    assert not timer.is_ready()
    clock.set_sim_time(11 * 10**9)
    assert timer.is_ready()


def test_timers_in_the_executor(node):
    calls = []
    timer = node.create_timer(0.01, lambda: calls.append(1))
    spin_until(node, lambda: len(calls) >= 3)
    timer.cancel()
    assert timer.is_canceled()
    count = len(calls)
    rclpy.spin_once(node, timeout_sec=0.05)
    assert len(calls) == count
    timer.reset()
    spin_until(node, lambda: len(calls) > count)
    assert node.destroy_timer(timer)


def test_timer_created_while_another_thread_waits(node):
    calls = []
    with spinning(node):
        node.create_timer(0.01, lambda: calls.append(1))
        wait_until(lambda: calls)


def test_timer_without_autostart(node):
    timer = node.create_timer(0.001, None, autostart=False)
    assert timer.is_canceled()
    assert timer.time_until_next_call() is None


def test_simulated_time(router):
    with ros(['--ros-args', '-p', 'use_sim_time:=true']) as context, ros() as other:
        node = Node('n', context=context)
        source = Node('source', context=other)
        publisher = source.create_publisher(ClockMessage, '/clock', 1)
        assert node.get_clock().now().nanoseconds == 0
        calls = []
        node.create_timer(1.0, lambda: calls.append(node.get_clock().now().nanoseconds))
        wait_until(lambda: publisher.get_subscription_count() == 1)

        def tick(sec):
            message = ClockMessage()
            message.clock.sec = sec
            publisher.publish(message)
            spin_until(node, lambda: node.get_clock().now().nanoseconds == sec * 10**9)

        for sec in (100, 101, 102):
            tick(sec)
        spin_until(node, lambda: len(calls) == 2)
        assert calls == [101 * 10**9, 102 * 10**9]
        assert node.get_clock().ros_time_is_active
        assert node.set_parameters([Parameter('use_sim_time', value=False)])[0].successful
        assert node.get_clock().now().nanoseconds > 10**18
        refused = node.set_parameters([Parameter('use_sim_time', value=1)])[0]
        assert not refused.successful


def test_sleeping_ends_with_the_context(router):
    with ros() as context:
        clock = Clock()
        assert clock.sleep_for(Duration(seconds=0.001), context)
        context.shutdown()
        assert not clock.sleep_for(Duration(seconds=100), context)
