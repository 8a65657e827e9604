"""`dynamic-ofa ros topic`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dynamic_ofa_ros.cli.ros import RosCommandError
from dynamic_ofa_ros.cli.ros_message import filled, interface, to_yaml
from dynamic_ofa_ros.cli.ros_support import CommandNode, command_node

PERIOD_S = 1.0  # interval between two reports
KEEP_ALIVE_S = 0.1  # time for the last message to leave this process


def topic_list(args: argparse.Namespace) -> None:
    """List the topics."""
    with command_node() as ros:
        ros.discover(lambda: bool(ros.nodes()))
        for name, types in ros.get_topic_names_and_types():
            if '/_' not in name:
                print(f'{name} [{", ".join(types)}]' if args.show_types else name)


def _subscribe(
    ros: CommandNode, topic: str, kind: Any, callback: Callable[[Any], None], *, wait: bool
) -> None:
    """Subscribe with the type and the quality of service that the publishers offer."""
    name = ros.resolve_topic_name(topic)
    types: list[str] = []  # kept, because the only other subscriber may leave at any time

    def is_found() -> bool:
        types.extend(dict(ros.get_topic_names_and_types()).get(name, []))
        return bool(types)

    if not ros.discover(is_found) and not kind:
        print(f'WARNING: topic [{topic}] does not appear to be published yet')
        if not wait:
            raise RosCommandError('Could not determine the type for the passed topic')
        ros.spin_until(is_found)
    profile = offered_profile(ros, name, depth=5)
    ros.create_subscription(kind or interface(types[0], 'msg'), name, callback, profile)


def offered_profile(ros: CommandNode, topic: str, depth: int) -> QoSProfile:
    """Return a profile with the reliability and durability that all publishers offer."""
    offered = [info.qos_profile for info in ros.get_publishers_info_by_topic(topic)]
    profile = QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)
    if {each.reliability for each in offered} == {ReliabilityPolicy.RELIABLE}:
        profile.reliability = ReliabilityPolicy.RELIABLE
    if {each.durability for each in offered} == {DurabilityPolicy.TRANSIENT_LOCAL}:
        profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
    return profile


def topic_echo(args: argparse.Namespace) -> None:
    """Show the messages of a topic until Ctrl-C, until a timeout, or one message."""
    shown = 0

    def on_message(value: Any) -> None:
        nonlocal shown
        try:
            for field in filter(None, args.field.split('.')):
                value = getattr(value, field)
        except AttributeError as error:
            raise RosCommandError(f"Invalid field '{args.field}': {error}") from None
        shown += 1
        is_message = hasattr(value, 'get_fields_and_field_types')
        print(to_yaml(value, args.truncate_length) if is_message else f'{value}\n', end='---\n')

    kind = interface(args.message_type, 'msg') if args.message_type else None
    with command_node() as ros:
        _subscribe(ros, args.topic_name, kind, on_message, wait=False)
        ros.spin_until(lambda: args.once and shown > 0, args.timeout)


def topic_hz(args: argparse.Namespace) -> None:
    """Show the publishing rate of a topic until Ctrl-C."""
    arrivals_s: deque[float] = deque(maxlen=args.window + 1)
    with command_node() as ros:

        def on_message(_: Any) -> None:
            arrivals_s.append(time.monotonic())

        _subscribe(ros, args.topic_name, None, on_message, wait=True)
        ros.spin_until(lambda: len(arrivals_s) > 1)
        while True:
            last_s = arrivals_s[-1]
            ros.spin_for(PERIOD_S)
            if arrivals_s[-1] == last_s:  # no new message
                continue
            periods_s = [after_s - before_s for before_s, after_s in pairwise(arrivals_s)]
            mean_s, deviation_s = statistics.fmean(periods_s), statistics.pstdev(periods_s)
            print(
                f'average rate: {1 / mean_s:.3f}\n'
                f'\tmin: {min(periods_s):.3f}s max: {max(periods_s):.3f}s '
                f'std dev: {deviation_s:.5f}s window: {len(periods_s)}'
            )


def topic_pub(args: argparse.Namespace) -> None:
    """Publish a message once, several times, or until Ctrl-C."""
    kind = interface(args.message_type, 'msg')
    wanted = args.wait_matching_subscriptions
    wanted = min(args.times, 1) if wanted is None else wanted
    with command_node() as ros:
        filled(kind, args.values, ros.get_clock().now().to_msg())  # report errors first
        publisher = ros.create_publisher(kind, args.topic_name, 10)
        while publisher.get_subscription_count() < wanted:
            print(f'Waiting for at least {wanted} matching subscription(s)...')
            ros.spin_until(lambda: publisher.get_subscription_count() >= wanted, PERIOD_S)
        print('publisher: beginning loop')
        count, next_s = 0, time.monotonic()
        while not args.times or count < args.times:
            ros.spin_for(next_s - time.monotonic())
            count, next_s = count + 1, next_s + 1 / args.rate
            message = filled(kind, args.values, ros.get_clock().now().to_msg())
            print(f'publishing #{count}: {message!r}\n')
            publisher.publish(message)
        ros.spin_for(KEEP_ALIVE_S)
