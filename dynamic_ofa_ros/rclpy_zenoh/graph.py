"""What nodes and endpoints exist: a cache of the liveliness tokens of one domain."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh import wire
from dynamic_ofa_ros.rclpy_zenoh.session import direct
from dynamic_ofa_ros.rclpy_zenoh.wire import Token

QUERY_TIMEOUT_S = 2.0
CONFIRMATION_TIME_S = 5.0


class Graph:
    """The tokens of a domain, kept current by a liveliness subscription."""

    def __init__(self, session: Any, domain_id: int) -> None:
        import zenoh

        self._session = session
        self._key = wire.graph_key(domain_id)
        self._alive = zenoh.SampleKind.PUT
        self._tokens: dict[str, Token] = {}
        self._changed = threading.Condition()
        # Asked before subscribing: a session that follows a key expression already answers a query
        # for it from what has arrived so far, which right after the start may be nothing.
        self._tokens.update(self._query_all())
        # What ends between the query and the subscription is never reported as gone; whatever the
        # subscription does not confirm is forgotten.
        self._unconfirmed = set(self._tokens)
        self._confirmed_by_s = time.monotonic() + CONFIRMATION_TIME_S
        self._subscriber = session.liveliness().declare_subscriber(
            self._key, direct(self._on_sample), history=True
        )

    def _query_all(self) -> dict[str, Token]:
        """Ask the router for all tokens and wait for the answer."""
        found = {}
        for reply in self._session.liveliness().get(self._key, timeout=QUERY_TIMEOUT_S):
            if reply.ok is not None:
                key = str(reply.ok.key_expr)
                token = wire.parse_token(key)
                if token is not None:
                    found[key] = token
        return found

    def _on_sample(self, sample: Any) -> None:
        key = str(sample.key_expr)
        token = wire.parse_token(key)
        with self._changed:
            self._unconfirmed.discard(key)
            if sample.kind != self._alive:
                self._tokens.pop(key, None)
            elif token is not None:
                self._tokens[key] = token
            self._changed.notify_all()

    def tokens(self, kinds: Iterable[str] | None = None, name: str | None = None) -> list[Token]:
        """Return the tokens of some kinds, of endpoints of one name."""
        wanted = None if kinds is None else set(kinds)
        with self._changed:
            if self._unconfirmed and time.monotonic() > self._confirmed_by_s:
                for key in self._unconfirmed:
                    self._tokens.pop(key, None)
                self._unconfirmed.clear()
            return [
                token
                for token in self._tokens.values()
                if (wanted is None or token.kind in wanted)
                and (name is None or token.name == name)
            ]

    def wait(self, predicate: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until a predicate over the graph holds; return whether it does."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not predicate():
            remaining_s = 0.25 if deadline_s is None else deadline_s - time.monotonic()
            if remaining_s <= 0:
                return predicate()
            with self._changed:
                # Bounded, so that a predicate over something else (a shutdown) is seen as well.
                self._changed.wait(min(remaining_s, 0.25))
        return True

    def names_and_types(self, kinds: Iterable[str]) -> list[tuple[str, list[str]]]:
        """Return sorted (name, types) of the endpoints of some kinds."""
        found: dict[str, set[str]] = {}
        for token in self.tokens(kinds):
            found.setdefault(token.name, set()).add(token.type_name)
        return [(name, sorted(found[name])) for name in sorted(found)]

    def nodes(self) -> list[tuple[str, str]]:
        """Return sorted (name, namespace) of all nodes."""
        return sorted((token.node_name, token.namespace) for token in self.tokens([wire.NODE]))

    def close(self) -> None:
        """Stop following the graph."""
        self._subscriber.undeclare()
