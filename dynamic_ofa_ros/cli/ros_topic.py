"""`dynamic-ofa ros topic`."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import math
import re
import sys
import time
from collections import deque
from itertools import pairwise
from typing import Any

from dynamic_ofa_ros.cli.ros_support import (
    RosCommandError,
    absolute,
    command_node,
    is_hidden,
    message_type,
    suggestion,
)
from dynamic_ofa_ros.rclpy_zenoh import wire
from dynamic_ofa_ros.rclpy_zenoh.api import spin_once
from dynamic_ofa_ros.rclpy_zenoh.message_yaml import dump, make_message, to_plain
from dynamic_ofa_ros.rclpy_zenoh.messages import Message
from dynamic_ofa_ros.rclpy_zenoh.node import Node
from dynamic_ofa_ros.rclpy_zenoh.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from dynamic_ofa_ros.rclpy_zenoh.typestore import catalogue

HZ_REPORT_PERIOD_S = 1.0


def topic_list(args: argparse.Namespace) -> int:
    """List topics."""
    with command_node() as node:
        # The hidden node's own publishers are no news to anybody.
        own = node.identity.session_id
        tokens = node.context.graph.tokens((wire.PUBLISHER, wire.SUBSCRIPTION))
    found: dict[str, set[str]] = {}
    for token in tokens:
        if token.session_id != own and (args.include_hidden_topics or not is_hidden(token.name)):
            found.setdefault(token.name, set()).add(token.type_name)
    if args.count_topics:
        print(len(found))
        return 0
    for name in sorted(found):
        print(f'{name} [{", ".join(sorted(found[name]))}]' if args.show_types else name)
    return 0


def _known_topics(node: Node) -> list[str]:
    return [name for name, _ in node.get_topic_names_and_types()]


def _existing_type(node: Node, topic: str) -> Any:
    """Return the message class of a topic that exists; RosCommandError if it does not."""
    kinds = (wire.PUBLISHER, wire.SUBSCRIPTION)
    tokens = node.context.graph.tokens(kinds, topic)
    if not tokens:
        raise RosCommandError(
            f"The topic '{topic}' does not exist{suggestion(topic, _known_topics(node))}"
        )
    kind = message_type(tokens[0].type_name)
    if tokens[0].type_hash != catalogue().type_hash(kind.TYPE_NAME):
        print(
            f"WARNING: '{topic}' is published with another definition of {kind.TYPE_NAME}: "
            'nothing will arrive.',
            file=sys.stderr,
        )
    return kind


def _matching_qos(node: Node, topic: str, args: argparse.Namespace) -> QoSProfile:
    """Return a profile that gets the most out of the topic's publishers, or what was asked for."""
    offered = [info.qos_profile for info in node.get_publishers_info_by_topic(topic)]
    reliable = bool(offered) and all(profile.is_reliable for profile in offered)
    latched = bool(offered) and any(profile.is_transient_local for profile in offered)
    reliability = args.qos_reliability or ('reliable' if reliable else 'best_effort')
    durability = args.qos_durability or ('transient_local' if latched else 'volatile')
    return QoSProfile(
        depth=args.qos_depth or 100,
        reliability=ReliabilityPolicy.get_from_short_key(reliability),
        durability=DurabilityPolicy.get_from_short_key(durability),
    )


def _field_of(message: Any, path: str) -> Any:
    """Return the part of a message at a path such as `levels[0].name`."""
    value = message
    for name, index in re.findall(r'([^.\[\]]+)|\[(-?\d+)\]', path):
        try:
            value = value[int(index)] if index else getattr(value, name)
        except (AttributeError, IndexError, TypeError):
            known = ', '.join(field.name for field in getattr(value, 'FIELDS', ()))
            raise RosCommandError(
                f"The message has no field '{path}': '{name or index}' was not found"
                + (f' among {known}.' if known else '.')
            ) from None
    return value


def _values(plain: Any) -> list[Any]:
    if isinstance(plain, dict):
        return [value for item in plain.values() for value in _values(item)]
    if isinstance(plain, list):
        return [value for item in plain for value in _values(item)]
    return [plain]


def _shown(message: Any, args: argparse.Namespace) -> str:
    value = _field_of(message, args.field) if args.field else message
    truncate = None if args.full_length else args.truncate_length
    plain = to_plain(value, truncate=truncate, with_arrays=not args.no_arr)
    if args.csv:
        line = io.StringIO()
        csv.writer(line, lineterminator='\n').writerow(_values(plain))
        return line.getvalue()
    if isinstance(value, (Message, list)) or isinstance(plain, list):
        return f'{dump(plain)}---\n'
    return f'{plain}\n---\n'


def topic_echo(args: argparse.Namespace) -> int:
    """Show messages until Ctrl-C; 1 if none came within the timeout."""
    topic = absolute(args.topic)
    count = 0

    def on_message(message: Any) -> None:
        nonlocal count
        if args.once and count:
            return
        count += 1
        sys.stdout.write(_shown(message, args))
        sys.stdout.flush()

    deadline_s = math.inf if args.timeout is None else time.monotonic() + args.timeout
    with contextlib.suppress(KeyboardInterrupt), command_node() as node:
        kind = message_type(args.type) if args.type else _existing_type(node, topic)
        node.create_subscription(kind, topic, on_message, _matching_qos(node, topic, args))
        while not (args.once and count) and time.monotonic() < deadline_s:
            spin_once(node, timeout_sec=min(0.5, max(deadline_s - time.monotonic(), 0.0)))
    return 0 if count or args.timeout is None else 1


def topic_hz(args: argparse.Namespace) -> int:
    """Show the rate of a topic, once a second, until Ctrl-C."""
    topic = absolute(args.topic)
    arrivals_s: deque[float] = deque(maxlen=max(args.window, 2))
    with contextlib.suppress(KeyboardInterrupt), command_node() as node:
        kind = _existing_type(node, topic)
        namespace = argparse.Namespace(
            qos_reliability=None, qos_durability='volatile', qos_depth=1000
        )
        node.create_subscription(
            kind,
            topic,
            lambda _: arrivals_s.append(time.monotonic()),
            _matching_qos(node, topic, namespace),
            raw=True,  # what is in the messages does not matter
        )
        reported_s = time.monotonic()
        seen = None
        while True:
            spin_once(node, timeout_sec=0.1)
            if time.monotonic() - reported_s >= HZ_REPORT_PERIOD_S:
                reported_s = time.monotonic()
                last = arrivals_s[-1] if arrivals_s else None
                if len(arrivals_s) < 2 or last == seen:
                    print('no new messages', flush=True)
                else:
                    print(_rate(list(arrivals_s)), flush=True)
                seen = last
    return 0


def _rate(arrivals_s: list[float]) -> str:
    """Return the lines that `ros2 topic hz` prints."""
    periods_s = [b - a for a, b in pairwise(arrivals_s)]
    mean_s = sum(periods_s) / len(periods_s)
    variance = sum((period_s - mean_s) ** 2 for period_s in periods_s) / len(periods_s)
    return (
        f'average rate: {1 / mean_s if mean_s else math.inf:.3f}\n'
        f'\tmin: {min(periods_s):.3f}s max: {max(periods_s):.3f}s '
        f'std dev: {math.sqrt(variance):.5f}s window: {len(arrivals_s)}'
    )


def topic_info(args: argparse.Namespace) -> int:
    """Show the type and the endpoints of a topic."""
    topic = absolute(args.topic)
    with command_node() as node:
        publishers = node.get_publishers_info_by_topic(topic)
        subscriptions = node.get_subscriptions_info_by_topic(topic)
        if not publishers and not subscriptions:
            raise RosCommandError(
                f"The topic '{topic}' does not exist{suggestion(topic, _known_topics(node))}"
            )
    types = sorted({info.topic_type for info in (*publishers, *subscriptions)})
    print(f'Type: {types[0] if len(types) == 1 else types}')
    for word, infos in (('Publisher', publishers), ('Subscription', subscriptions)):
        print(f'{"" if not args.verbose else chr(10)}{word} count: {len(infos)}')
        for info in infos if args.verbose else ():
            qos = info.qos_profile
            print(
                f'\nNode name: {info.node_name}\n'
                f'Node namespace: {info.node_namespace}\n'
                f'Topic type: {info.topic_type}\n'
                f'Topic type hash: {info.topic_type_hash}\n'
                f'Endpoint type: {info.endpoint_type.name}\n'
                f'GID: {".".join(f"{byte:02x}" for byte in info.endpoint_gid)}\n'
                'QoS profile:\n'
                f'  Reliability: {qos.reliability.name}\n'
                f'  History (Depth): {qos.history.name} ({qos.depth})\n'
                f'  Durability: {qos.durability.name}\n'
                f'  Lifespan: {_duration(qos.lifespan.nanoseconds)}\n'
                f'  Deadline: {_duration(qos.deadline.nanoseconds)}\n'
                f'  Liveliness: {qos.liveliness.name}\n'
                f'  Liveliness lease duration: '
                f'{_duration(qos.liveliness_lease_duration.nanoseconds)}'
            )
    return 0


def _duration(nanoseconds: int) -> str:
    return f'{nanoseconds} nanoseconds' if nanoseconds else 'Infinite'


def topic_pub(args: argparse.Namespace) -> int:
    """Publish messages: one, some, or until Ctrl-C."""
    kind = message_type(args.type)
    topic = absolute(args.topic)
    if args.rate <= 0 or not math.isfinite(args.rate):
        raise RosCommandError(f'--rate {args.rate:g}: the rate must be greater than 0.')
    times = 1 if args.once else args.times
    wait_for = args.wait_matching_subscriptions
    if wait_for is None:
        wait_for = 1 if times else 0

    def message() -> Any:
        now = node.get_clock().now().to_msg()
        try:
            return make_message(kind.TYPE_NAME, args.values, now=now)
        except ValueError as error:
            raise RosCommandError(f'The message does not fit: {error}') from error

    with contextlib.suppress(KeyboardInterrupt), command_node() as node:
        message()  # complain before waiting for anybody
        _check_topic_type(node, topic, kind)
        qos = QoSProfile(
            depth=args.qos_depth or 1,
            reliability=ReliabilityPolicy.get_from_short_key(args.qos_reliability or 'reliable'),
            durability=DurabilityPolicy.get_from_short_key(args.qos_durability or 'volatile'),
        )
        publisher = node.create_publisher(kind, topic, qos)
        while publisher.get_subscription_count() < wait_for:
            print(f'Waiting for at least {wait_for} matching subscription(s)...', flush=True)
            node.context.graph.wait(
                lambda: publisher.get_subscription_count() >= wait_for, timeout_s=1.0
            )
        print('publisher: beginning loop', flush=True)
        number = 0
        next_s = time.monotonic()
        while not times or number < times:
            number += 1
            current = message()
            publisher.publish(current)
            print(f'publishing #{number}: {current!r}\n', flush=True)
            if number != times:
                next_s += 1 / args.rate
                time.sleep(max(next_s - time.monotonic(), 0.0))
        time.sleep(args.keep_alive)
    return 0


def _check_topic_type(node: Node, topic: str, kind: Any) -> None:
    tokens = node.context.graph.tokens((wire.PUBLISHER, wire.SUBSCRIPTION), topic)
    types = {token.type_name for token in tokens}
    if types and kind.TYPE_NAME not in types:
        raise RosCommandError(
            f"The topic '{topic}' is of type {', '.join(sorted(types))}, not {kind.TYPE_NAME}."
        )
