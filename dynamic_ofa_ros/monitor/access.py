"""The access rules of the page: addresses, host names, origins and the token."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from dynamic_ofa_ros.errors import DynamicOfaError

MIN_TOKEN_LENGTH = 16
TOKEN_BYTES = 16


class MonitorError(DynamicOfaError):
    """The page cannot be served because of its address, port or token."""


@dataclass(frozen=True)
class Access:
    """The access rules of one server.

    address: the address that it listens on. token: required from browsers; empty for no token.
    """

    address: str
    token: str

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can connect."""
        return _is_loopback(self.address)

    def accepts_host(self, host: str) -> bool:
        """Return whether requests with this Host header are allowed.

        Without a token, only names of this machine are allowed: a page on the internet can let its
        own name point to 127.0.0.1 (DNS rebinding), but the browser sends that name. With a token,
        any name is allowed, because the browser stores the token for the name the user opened.
        """
        return bool(self.token) or _is_loopback(_hostname(host))

    def accepts_origin(self, origin: str, host: str) -> bool:
        """Return whether a page of this origin may connect; only the page of this server may."""
        parts = urlsplit(origin)
        return parts.scheme in ('http', 'https') and parts.netloc.lower() == host.lower() != ''

    def accepts_token(self, token: str) -> bool:
        """Return whether a token is correct; every token is if none is required."""
        return not self.token or hmac.compare_digest(token.encode(), self.token.encode())


def access_for(address: str, token: str) -> Access:
    """Return the rules for an address; generate a token if one is required and none is given.

    Raises MonitorError for an invalid address, and for a token that is short or that a URL or a
    cookie cannot contain.
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
            'empty to generate one'
        )
    if re.search(r'[^A-Za-z0-9._~-]', token):
        raise MonitorError('token may contain only the characters A-Z a-z 0-9 . _ ~ -')
    if not token and not _is_loopback(address):
        token = secrets.token_urlsafe(TOKEN_BYTES)
    return Access(address, token)


def _hostname(host: str) -> str:
    """Return the name in a Host header without the port, or ''."""
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
