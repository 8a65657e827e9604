"""Read bags of rosbag2 (MCAP or SQLite) message by message, with rosbags and without ROS 2."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.errors import RecordingError
from dynamic_ofa_ros.files import share_directory

MCAP_END = b'\x89MCAP0\r\n'
STORAGES = ('.mcap', '.db3')
EXPECTED = 'give the folder of a rosbag2 recording, or its .mcap or .db3 file'
MAX_ERROR_LENGTH = 120  # characters of an error message of the library

DEFINITIONS = {
    'vision_msgs/msg/ObjectHypothesis': 'string class_id\nfloat64 score\n',
    'vision_msgs/msg/Classification': (
        'std_msgs/Header header\nvision_msgs/ObjectHypothesis[] results\n'
    ),
    'vision_msgs/msg/VisionClass': 'uint16 class_id\nstring class_name\n',
    'vision_msgs/msg/LabelInfo': (
        'std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n'
    ),
}
"""Messages that rosbags does not know, for bags without definitions (SQLite up to Humble)."""


@dataclass(frozen=True)
class Message:
    """One message; `value` has the fields of its type, `time_ns` is when it was recorded."""

    topic: str
    time_ns: int
    value: Any


class Bag:
    """A bag: a folder with metadata.yaml, or a .mcap or .db3 file. Close it, or use `with`.

    topics: types by name. Raises RecordingError if the bag cannot be opened or read, and
    MissingPackageError without rosbags.
    """

    def __init__(self, path: str | Path) -> None:
        requirements.check('rosbags', reason='bags are read by the library rosbags')
        self.path = Path(path).expanduser()
        self._check()
        with self._recording_errors():
            from rosbags.rosbag2 import Reader

            self._reader = Reader(self.path)
            self._reader.open()
        self.topics: Mapping[str, str] = {
            connection.topic: connection.msgtype for connection in self._reader.connections
        }
        self._stores: dict[str, Any] = {}

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        if self._reader.is_open:
            self._reader.close()

    def of_type(self, *types: str) -> list[str]:
        """Return the sorted topics of some types, such as `sensor_msgs/msg/Image`."""
        return sorted(topic for topic, kind in self.topics.items() if kind in types)

    def messages(self, topics: Collection[str]) -> Iterator[Message]:
        """Return the messages of some topics, oldest first; only a few are in memory at a time."""
        connections = [each for each in self._reader.connections if each.topic in topics]
        if not connections:
            return
        found = self._reader.messages(connections)
        while True:
            with self._recording_errors():
                item = next(found, None)
                if item is None:
                    return
                connection, time_ns, data = item
                value = _deserialized(self._store(connection), connection.msgtype, data)
            yield Message(connection.topic, time_ns, value)

    def first(self, topic: str) -> Any:
        """Return the first message of a topic, or None."""
        return next((message.value for message in self.messages([topic])), None)

    def _check(self) -> None:
        """Raise RecordingError for common mistakes."""
        path = self.path
        if not path.exists():
            raise RecordingError(f'{path} does not exist; {EXPECTED}')
        if path.is_dir() and not (path / 'metadata.yaml').is_file():
            files = sorted(f.name for f in path.iterdir() if f.suffix in STORAGES)
            if not files:
                content = 'has no metadata.yaml' if any(path.iterdir()) else 'is empty'
                raise RecordingError(f'the folder {path} {content}; {EXPECTED}')
            raise RecordingError(
                f'{path} has no metadata.yaml; give its file {files[0]} instead, or run '
                f"'ros2 bag reindex {path}'"
            )
        if not path.is_dir() and path.suffix not in STORAGES:
            raise RecordingError(f'{path} is not a recording; {EXPECTED}')

    @contextlib.contextmanager
    def _recording_errors(self) -> Iterator[None]:
        """Raise RecordingError for any error of the library; damaged bytes cause many types."""
        try:
            yield
        except Exception as error:
            raise RecordingError(self._problem(error)) from error

    def _problem(self, error: Exception) -> str:
        files = sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]
        for file in files:
            if file.suffix == '.mcap' and _is_cut_short(file):
                return f"{file} is incomplete; 'mcap recover {file}' saves the readable part"
        text = ' '.join(str(error).split())[:MAX_ERROR_LENGTH].rstrip('.')
        return f'{self.path} is damaged or not supported: {text or type(error).__name__}'

    def _store(self, connection: Any) -> Any:
        """Return the types of a connection, defined by the bag or, if it has none, known here."""
        kind = connection.msgtype
        if kind not in self._stores:
            self._stores[kind] = _types(connection) or self._known_types
        return self._stores[kind]

    @cached_property
    def _known_types(self) -> Any:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore

        texts = dict(DEFINITIONS)
        for file in sorted((share_directory() / 'msg').glob('*.msg')):
            texts[f'dynamic_ofa_ros/msg/{file.stem}'] = file.read_text(encoding='utf-8')
        store = get_typestore(Stores.LATEST)
        store.register(
            {k: v for kind, t in texts.items() for k, v in get_types_from_msg(t, kind).items()}
        )
        return store


def _deserialized(store: Any, kind: str, data: bytes) -> Any:
    """Return a message from its bytes; trailing bytes are ignored.

    `serialize_message` of rclpy appends some, so many bags contain them. `deserialize_cdr` of the
    library rejects them as damage.
    """
    little_endian = {b'\0\1': True, b'\0\0': False}.get(bytes(data[:2]))
    if little_endian is None:
        raise ValueError(f'a message is not plain CDR: it begins with {bytes(data[:2])!r}')
    definition = store.get_msgdef(kind)
    name = 'deserialize_cdr_le' if little_endian else 'deserialize_cdr_be'
    value, _ = getattr(definition, name)(data[4:], 0, definition.cls, store)
    return value


def _types(connection: Any) -> Any:
    """Return the types that the bag defines for a connection, or None."""
    from rosbags.interfaces import MessageDefinitionFormat
    from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

    definition = connection.msgdef
    if definition.format == MessageDefinitionFormat.NONE or not definition.data:
        return None
    store = get_typestore(Stores.EMPTY)
    if definition.format == MessageDefinitionFormat.MSG:
        store.register(get_types_from_msg(definition.data, connection.msgtype))
        return store
    for part in definition.data.split('=' * 80 + '\n'):
        text = part.partition('\n')[2] if part.startswith('IDL: ') else part
        if text:
            store.register(get_types_from_idl(text))
    return store


def _is_cut_short(file: Path) -> bool:
    """Return whether an MCAP file has a valid begin but no valid end."""
    with contextlib.suppress(OSError), file.open('rb') as opened:
        begin = opened.read(len(MCAP_END))
        opened.seek(-len(MCAP_END), 2)
        return begin == MCAP_END != opened.read()
    return False
