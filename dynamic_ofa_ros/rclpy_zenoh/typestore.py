"""Every message and service type the stand-ins know: fields, type hashes, CDR.

Types come from `rosbags`' Jazzy store, from `definitions.py`, and from this package's own `msg/`.
"""

from __future__ import annotations

import functools
import sysconfig
import threading
from pathlib import Path
from typing import Any

from rosbags.interfaces import Msgdef, Nodetype
from rosbags.serde import SerdeError
from rosbags.serde.cdr import (
    generate_deserialize_cdr,
    generate_getsize_cdr,
    generate_serialize_cdr,
)
from rosbags.typesys import get_types_from_msg
from rosbags.typesys.base import normalize_fieldname
from rosbags.typesys.store import Typestore
from rosbags.typesys.stores import ros2_jazzy

from dynamic_ofa_ros.rclpy_zenoh.definitions import TEXT

PACKAGE = 'dynamic_ofa_ros'
EVENT_INFO = 'service_msgs/msg/ServiceEventInfo'

# A field as rosbags describes it: (Nodetype, details); see rosbags.interfaces.typing.FieldDesc.
FieldDescription = Any


def own_message_directory() -> Path | None:
    """Return the folder of this package's .msg files: source checkout first, then an install."""
    package = Path(__file__).resolve().parents[1]
    candidates = [package.parent / 'msg']
    roots = [Path(sysconfig.get_path('data')), *package.parents[1:5]]
    candidates += [root / 'share' / PACKAGE / 'msg' for root in roots]
    return next((path for path in candidates if (path / 'Telemetry.msg').is_file()), None)


def _without_char(description: FieldDescription) -> FieldDescription:
    """Replace `char` by `uint8`.

    In a .msg file `char` is only an alias: ROS 2 turns it into uint8 when it writes the IDL that
    it hashes, so ServiceEventInfo.client_gid (char[16]) is hashed as uint8[16]. rosbags keeps the
    alias and arrives at another hash.
    """
    kind, details = description
    if kind == Nodetype.BASE:
        return (kind, ('uint8', 0)) if details[0] == 'char' else description
    if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        return kind, (_without_char(details[0]), details[1])
    return description


class TypeCatalogue(Typestore):
    """A `rosbags` type store that also knows services, and hashes as ROS 2 does."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        self._hashes: dict[str, str] = {}
        self.constants: dict[str, dict[str, Any]] = {}
        self.services: set[str] = set()
        for name, (constants, fields) in ros2_jazzy.FIELDDEFS.items():
            self._add(name, constants, fields)
        for section in TEXT.split('=== ')[1:]:
            name, _, body = section.partition('\n')
            self.add_definition(name.strip(), body)
        directory = own_message_directory()
        for path in sorted(directory.glob('*.msg')) if directory else ():
            self.add_definition(f'{PACKAGE}/msg/{path.stem}', path.read_text(encoding='utf-8'))

    def _add(self, name: str, constants: Any, fields: Any) -> None:
        self.constants[name] = {constant: value for constant, _, value in constants}
        self.fielddefs[name] = (
            list(constants),
            [(field, _without_char(description)) for field, description in fields],
        )

    def add_definition(self, name: str, text: str) -> None:
        """Add a type from its definition text; `package/srv/Name` splits at the line `---`."""
        package, kind, base = name.split('/')
        if kind == 'msg':
            self._add_text(name, name, text)
            return
        halves = ['', *text.split('\n')]
        cut = halves.index('---')
        for suffix, lines in (('Request', halves[:cut]), ('Response', halves[cut + 1 :])):
            # rosbags only reads messages: parsed under a message's name, kept under the service's.
            self._add_text(f'{package}/msg/{base}_{suffix}', f'{name}_{suffix}', '\n'.join(lines))
        request = (Nodetype.NAME, f'{name}_Request')
        response = (Nodetype.NAME, f'{name}_Response')
        self._add(
            f'{name}_Event',
            [],
            [
                ('info', (Nodetype.NAME, EVENT_INFO)),
                ('request', (Nodetype.SEQUENCE, (request, 1))),
                ('response', (Nodetype.SEQUENCE, (response, 1))),
            ],
        )
        self._add(
            name,
            [],
            [
                ('request_message', request),
                ('response_message', response),
                ('event_message', (Nodetype.NAME, f'{name}_Event')),
            ],
        )
        self.services.add(name)

    def _add_text(self, parsed_name: str, name: str, text: str) -> None:
        constants, fields = get_types_from_msg(text, parsed_name)[parsed_name]
        if not fields:
            fields = [('structure_needs_at_least_one_member', (Nodetype.BASE, ('uint8', 0)))]
        self._add(name, constants, fields)

    def fields(self, name: str) -> list[tuple[str, FieldDescription]]:
        """Return (field name, description) of a type, without the filler of empty structures."""
        return [
            (field, description)
            for field, description in self.fielddefs[name][1]
            if field != 'structure_needs_at_least_one_member'
        ]

    def packages(self) -> set[str]:
        """Return the names of all packages that have at least one type."""
        return {name.split('/')[0] for name in self.fielddefs}

    def names(self, package: str, kind: str) -> list[str]:
        """Return the short names of a package's messages (`msg`) or services (`srv`)."""
        prefix = f'{package}/{kind}/'
        known = self.services if kind == 'srv' else self.fielddefs
        return sorted(name[len(prefix) :] for name in known if name.startswith(prefix))

    def type_hash(self, name: str) -> str:
        """Return the RIHS01 hash of a message or service type (REP-2011)."""
        if name not in self._hashes:
            self._hashes[name] = self.hash_rihs01(name)
        return self._hashes[name]

    def get_msgdef(self, typename: str) -> Any:
        """Return the coders of a type, generated on first use; safe to call from any thread.

        Only the little-endian CDR coders, which is what every ROS 2 on a little-endian machine
        sends: generating the others too (big-endian, ROS 1) would triple a node's start.
        """
        if typename in self.cache:
            return self.cache[typename]
        with self._lock:
            if typename not in self.cache:
                fields = [
                    (normalize_fieldname(name), description)
                    for name, description in self.fielddefs[typename][1]
                ]
                size, static_size = generate_getsize_cdr(fields, self)
                absent: Any = _absent_coder
                self.cache[typename] = Msgdef(
                    name=typename,
                    fields=fields,
                    cls=self.types[typename],
                    size_cdr=static_size,
                    getsize_cdr=size,
                    serialize_cdr_le=generate_serialize_cdr(fields, self, 'le'),
                    serialize_cdr_be=absent,
                    deserialize_cdr_le=generate_deserialize_cdr(fields, self, 'le'),
                    deserialize_cdr_be=absent,
                    size_ros1=0,
                    getsize_ros1=absent,
                    serialize_ros1=absent,
                    deserialize_ros1=absent,
                    getsize_ros1_to_cdr=absent,
                    ros1_to_cdr=absent,
                    getsize_cdr_to_ros1=absent,
                    cdr_to_ros1=absent,
                )
            return self.cache[typename]


def _absent_coder(*_: Any) -> Any:
    raise SerdeError('Only little-endian CDR is supported.')


@functools.lru_cache(maxsize=1)
def catalogue() -> TypeCatalogue:
    """Return the one catalogue of this process."""
    return TypeCatalogue()
