"""`dynamic-ofa ros bag record`, with the library rosbags."""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
import sysconfig
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.cli.ros import RosCommandError
from dynamic_ofa_ros.cli.ros_message import interface
from dynamic_ofa_ros.cli.ros_support import CommandNode, command_node
from dynamic_ofa_ros.cli.ros_topic import offered_profile
from dynamic_ofa_ros.files import naming

LOOK_S = 0.5  # interval between two searches for new topics
QUEUE = 100  # messages of a topic that may wait to be written
BAG_VERSION: Literal[8] = 8  # version of metadata.yaml, readable since Iron


def bag_record(args: argparse.Namespace) -> None:
    """Record topics into a new bag until Ctrl-C."""
    requirements.check('rosbags', reason='bags are written by the library rosbags')
    from rosbags.rosbag2 import StoragePlugin, Writer

    if bool(args.topics) == args.all:
        raise RosCommandError('Must specify either topics or -a')
    output = Path(args.output or time.strftime('rosbag2_%Y_%m_%d-%H_%M_%S'))
    if output.exists():
        raise RosCommandError(f"Output folder '{output}' already exists.")
    plugin = StoragePlugin[args.storage.upper()]
    writer = Writer(output, version=BAG_VERSION, storage_plugin=plugin)
    try:
        with (
            naming(output),
            contextlib.ExitStack() as stack,
            contextlib.suppress(KeyboardInterrupt),  # Ctrl-C ends a recording
            command_node() as ros,
        ):
            wanted = {ros.resolve_topic_name(topic) for topic in args.topics}
            writer.open()
            stack.callback(writer.close)  # after the node, which hides errors after Ctrl-C
            _record(ros, writer, wanted, output)
    except sqlite3.Error as error:
        raise RosCommandError(f'{output}: {error}') from error


def _record(ros: CommandNode, writer: Any, wanted: set[str], output: Path) -> None:
    """Write the messages of the wanted topics, or of all, until Ctrl-C; print their numbers."""
    recorded: dict[str, int] = {}
    try:
        while True:
            _subscribe(ros, writer, wanted, recorded)
            ros.spin_for(LOOK_S)
    finally:
        for topic in sorted(recorded.keys() | wanted):
            print(f'{recorded.get(topic, 0):8d} {topic}')
        print(f"Recording stopped: '{output}'")


def _subscribe(
    ros: CommandNode, writer: Any, wanted: Iterable[str], recorded: dict[str, int]
) -> None:
    """Subscribe to the wanted topics, or to all, that appeared since the last call."""
    for topic, kinds in ros.get_topic_names_and_types():
        is_wanted = topic in wanted if wanted else '/_' not in topic
        if not is_wanted or topic in recorded or not ros.get_publishers_info_by_topic(topic):
            continue
        recorded[topic] = 0
        try:
            connection = writer.add_connection(topic, kinds[0], typestore=types_of(kinds[0]))
        except RosCommandError as error:
            print(f"WARNING: topic '{topic}' is not recorded: {error}")
            continue

        def on_message(data: bytes, topic: str = topic, connection: Any = connection) -> None:
            writer.write(connection, time.time_ns(), data)
            recorded[topic] += 1

        profile = offered_profile(ros, topic, QUEUE)
        kind = interface(kinds[0], 'msg')
        ros.create_subscription(kind, topic, on_message, profile, raw=True)
        print(f"Subscribed to topic '{topic}'")


def types_of(kind: str) -> Any:
    """Return a typestore of rosbags with a message type and all types that it contains."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.EMPTY)
    missing = [kind]
    while missing:
        name = missing.pop()
        if name in store.fielddefs:
            continue
        store.register(get_types_from_msg(_definition(name), name))
        missing += [part for _, field in store.fielddefs[name][1] for part in _names(field)]
    return store


def _definition(kind: str) -> str:
    """Return the text of a .msg file, from a sourced ROS 2 or from the wheels."""
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    for prefix in (*filter(None, prefixes), sysconfig.get_path('data')):
        file = Path(prefix) / 'share' / f'{kind}.msg'
        if file.is_file():
            return file.read_text(encoding='utf-8')
    raise RosCommandError(f'{kind}.msg was not found; source the workspace that contains it')


def _names(field: Any) -> list[str]:
    """Return the message type in a field, (kind, name) or (kind, (field, n)), or no type."""
    from rosbags.interfaces import Nodetype

    kind, content = field
    if kind == Nodetype.NAME:
        return [content]
    return _names(content[0]) if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE) else []
