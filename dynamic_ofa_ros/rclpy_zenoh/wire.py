"""The wire conventions of rmw_zenoh: key expressions, liveliness tokens, attachments, QoS.

`zenoh-ros2-sdk` formats all four as rmw_zenoh does. Its package `__init__` however imports
GitPython (which fails where there is no git) and a downloader of message definitions; none of that
may run in a node. So only its formatting modules are loaded, under a bare package without that
`__init__`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import types
from dataclasses import dataclass
from typing import Any

SDK = 'zenoh_ros2_sdk'


def _load_formatting_modules() -> dict[str, Any]:
    """Import the SDK's pure formatting modules without running its package `__init__`."""
    names = ('utils', 'entity', 'keyexpr', 'qos', 'attachment')
    bare = None
    if SDK not in sys.modules:
        spec = importlib.util.find_spec(SDK)
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError(
                "The package 'zenoh-ros2-sdk' is missing; run: pip install zenoh-ros2-sdk"
            )
        bare = types.ModuleType(SDK)
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules[SDK] = bare
    try:
        return {name: importlib.import_module(f'{SDK}.{name}') for name in names}
    finally:
        if bare is not None and sys.modules.get(SDK) is bare:
            del sys.modules[SDK]


_sdk = _load_formatting_modules()

NODE = 'NN'
PUBLISHER = 'MP'
SUBSCRIPTION = 'MS'
SERVICE = 'SS'
CLIENT = 'SC'

ADMIN_SPACE: str = _sdk['keyexpr'].ADMIN_SPACE


@dataclass(frozen=True)
class NodeIdentity:
    """What identifies a node on the wire: domain, Zenoh session, number in it, name, namespace."""

    domain_id: int
    session_id: str
    node_id: int
    name: str
    namespace: str

    def _entity(self) -> Any:
        return _sdk['entity'].NodeEntity(
            domain_id=self.domain_id,
            session_id=self.session_id,
            node_id=self.node_id,
            node_name=self.name,
            namespace=self.namespace,
        )

    def token_key(self) -> str:
        """Return the key expression of the node's liveliness token."""
        return str(_sdk['keyexpr'].node_liveliness_keyexpr(self._entity()))

    def endpoint_token_key(
        self, *, entity_id: int, kind: str, name: str, type_name: str, type_hash: str, qos: str
    ) -> str:
        """Return the key expression of the liveliness token of an endpoint of this node."""
        endpoint = _sdk['entity'].EndpointEntity(
            node=self._entity(),
            entity_id=entity_id,
            kind=_sdk['entity'].EntityKind(kind),
            name=name,
            dds_type_name=dds_type(type_name),
            type_hash=type_hash,
            qos=qos,
        )
        return str(_sdk['keyexpr'].endpoint_liveliness_keyexpr(endpoint))


@dataclass(frozen=True)
class Token:
    """A liveliness token: one node or one endpoint somewhere in the graph."""

    session_id: str
    node_id: str
    entity_id: str
    kind: str
    namespace: str
    node_name: str
    name: str = ''
    type_name: str = ''
    type_hash: str = ''
    qos: str = ''
    gid: bytes = b''

    @property
    def node_fqn(self) -> str:
        """Return the node's fully qualified name."""
        return f'{self.namespace.rstrip("/")}/{self.node_name}'


def parse_token(key: str) -> Token | None:
    """Parse a liveliness key expression; None for anything that is not one."""
    parts = key.split('/')
    if len(parts) < 9 or parts[0] != ADMIN_SPACE:
        return None
    kind = parts[5]
    namespace = '/' if parts[7] == '%' else parts[7].replace('%', '/')
    if kind == NODE:
        return Token(parts[2], parts[3], parts[4], kind, namespace, parts[8])
    if len(parts) < 13 or kind not in (PUBLISHER, SUBSCRIPTION, SERVICE, CLIENT):
        return None
    return Token(
        parts[2], parts[3], parts[4], kind, namespace, parts[8],
        name=parts[9].replace('%', '/'),
        type_name=ros_type(parts[10]),
        type_hash=parts[11],
        qos=parts[12],
        gid=gid_of(key),
    )  # fmt: skip


def graph_key(domain_id: int) -> str:
    """Return the key expression that matches every token of a domain."""
    return f'{ADMIN_SPACE}/{domain_id}/**'


def data_key(domain_id: int, name: str, type_name: str, type_hash: str) -> str:
    """Return the key expression that a topic's samples or a service's queries travel on."""
    return str(_sdk['keyexpr'].topic_keyexpr(domain_id, name, dds_type(type_name), type_hash))


def dds_type(type_name: str) -> str:
    """Turn `std_msgs/msg/String` into `std_msgs::msg::dds_::String_`."""
    return str(_sdk['utils'].ros2_to_dds_type(type_name))


def ros_type(dds_type_name: str) -> str:
    """Turn `std_msgs::msg::dds_::String_` into `std_msgs/msg/String`."""
    return str(_sdk['utils'].dds_to_ros_type(dds_type_name))


def gid_of(token_key: str) -> bytes:
    """Return the 16-byte global identifier of an endpoint, derived from its token."""
    return hashlib.blake2b(token_key.encode(), digest_size=16).digest()


def pack_attachment(sequence: int, timestamp_ns: int, gid: bytes) -> bytes:
    """Return the attachment of one sample, request or response."""
    packed: bytes = _sdk['attachment'].Attachment(sequence, timestamp_ns, gid).to_bytes()
    return packed


def unpack_attachment(data: bytes) -> tuple[int, int, bytes]:
    """Return sequence number, source timestamp [ns] and gid; ValueError if it is too short."""
    attachment = _sdk['attachment'].Attachment.from_bytes(data)
    return attachment.sequence_id, attachment.timestamp_ns, attachment.gid


def encode_qos(
    *,
    reliability: int,
    durability: int,
    history: int,
    depth: int,
    deadline_ns: int,
    lifespan_ns: int,
    liveliness: int,
    lease_ns: int,
) -> str:
    """Return the QoS part of a token; the arguments are the rmw enumerations and nanoseconds."""
    qos = _sdk['qos']

    def duration(value_ns: int) -> Any:
        # 0 is rmw's "unspecified", which rmw_zenoh adapts to infinite before it writes the token.
        if value_ns <= 0:
            return qos.DURATION_INFINITE
        return qos.Duration(value_ns // 10**9, value_ns % 10**9)

    profile = qos.QosProfile(
        reliability=qos.QosReliability(reliability),
        durability=qos.QosDurability(durability),
        history_kind=qos.QosHistoryKind(history),
        history_depth=depth,
        deadline=duration(deadline_ns),
        lifespan=duration(lifespan_ns),
        liveliness=qos.QosLiveliness(liveliness),
        liveliness_lease_duration=duration(lease_ns),
    )
    return str(profile.encode())


def decode_qos(text: str) -> dict[str, int]:
    """Return the QoS of a token as keyword arguments of `encode_qos`; ValueError if malformed."""
    qos = _sdk['qos']
    profile = qos.QosProfile.decode(text)

    def nanoseconds(duration: Any) -> int:
        if duration == qos.DURATION_INFINITE:
            return 0
        return int(duration.sec) * 10**9 + int(duration.nsec)

    return {
        'reliability': profile.reliability.value,
        'durability': profile.durability.value,
        'history': profile.history_kind.value,
        'depth': profile.history_depth,
        'deadline_ns': nanoseconds(profile.deadline),
        'lifespan_ns': nanoseconds(profile.lifespan),
        'liveliness': profile.liveliness.value,
        'lease_ns': nanoseconds(profile.liveliness_lease_duration),
    }
