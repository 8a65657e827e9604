"""Who may use the page: rules about addresses, host names, origins and the token."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from dynamic_ofa_ros.errors import DynamicOfaError

MIN_TOKEN_LENGTH = 16
TOKEN_BYTES = 16


class MonitorError(DynamicOfaError):
    """A page that cannot be served: an address, a port or a token that cannot be used."""


@dataclass(frozen=True)
class Access:
    """The rules for one server.

    address: what it listens on. token: what a browser must present; empty where none is needed.
    """

    address: str
    token: str

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can connect."""
        return _is_loopback(self.address)

    def accepts_host(self, host: str) -> bool:
        """Return whether a request's Host header may be served.

        Without a token only names of this machine: a page on the internet can let its own name
        point to 127.0.0.1 (DNS rebinding), but the browser then still sends that name. With a
        token any name: the browser keeps the token for the name that the user opened.
        """
        return bool(self.token) or _is_loopback(_hostname(host))

    def accepts_origin(self, origin: str, host: str) -> bool:
        """Return whether a page of this origin may connect: only the page that we served."""
        parts = urlsplit(origin)
        return parts.scheme in ('http', 'https') and parts.netloc.lower() == host.lower() != ''

    def accepts_token(self, token: str) -> bool:
        """Return whether a token is the right one; anything is where none is needed."""
        return not self.token or hmac.compare_digest(token.encode(), self.token.encode())


def access_for(address: str, token: str) -> Access:
    """Return the rules for an address; a token is made where one is needed and none given.

    Raises MonitorError for what is no address, and for a token that can be guessed.
    """
    if address != 'localhost':
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise MonitorError(
                f'address is {address!r}; it must be localhost or an IP address, 0.0.0.0 for all'
            ) from None
    if token and len(token) < MIN_TOKEN_LENGTH:
        raise MonitorError(
            f'token has {len(token)} characters; it must have {MIN_TOKEN_LENGTH} or more, or be '
            'empty: one is made then'
        )
    if not token and not _is_loopback(address):
        token = secrets.token_urlsafe(TOKEN_BYTES)
    return Access(address, token)


def _hostname(host: str) -> str:
    """Return the name in a Host header, without the port; empty where there is none."""
    try:
        return urlsplit(f'//{host}').hostname or ''
    except ValueError:
        return ''


def _is_loopback(name: str) -> bool:
    if name.lower() == 'localhost':
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
