"""What a web page may do to a gateway without `auth`, through the browser of a person who can reach it.

There is no credential to ask for, so two fields that a page can't choose decide: `Host` (a page whose name was
rebound to this address still sends that name) and what the browser says of the page's origin (`Sec-Fetch-Site`, or
`Origin` where the connection is not trustworthy enough for the former). Programs send neither, and pay nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final

from gateway.errors import TurnoutError

ORIGIN: Final = b"origin"
SITE: Final = b"sec-fetch-site"
MODE: Final = b"sec-fetch-mode"
DESTINATION: Final = b"sec-fetch-dest"
PURPOSE: Final = b"sec-purpose"
FIELDS: Final = (ORIGIN, SITE, MODE, DESTINATION, PURPOSE)
"""The request fields that `from_own_page` looks at."""

_OWN: Final = 2
_PRIVATE: Final = 1
"""A host in the same network may respond for it, but no one outside."""
_STRANGERS: Final = 0
_RESERVED: Final = (b".local", b".internal", b".test", b".home.arpa", b".svc")
"""Suffixes that public DNS does not delegate (RFC 6761, 6762, 8375; ".svc": Kubernetes), so that no stranger owns a
name below them."""
_MAX_REMEMBERED_HOSTS: Final = 256


def is_loopback(address: str) -> bool:
    """Whether ``address`` is an IP address of this machine's loopback interface, IPv4-mapped ones included."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def from_own_page(
    method: bytes, host: bytes, fields: Mapping[bytes, bytes], origins: frozenset[bytes] = frozenset()
) -> bool:
    """Whether the request comes from no page, from one of ``host`` or of ``origins``, or follows a link.

    A link leads to a whole page that its user sees: no frame, and nothing that a page has loaded ahead of time.

    ``fields``: those of `FIELDS` that it has.
    """
    site = fields.get(SITE)
    if site == b"same-origin":
        return True
    if PURPOSE in fields:
        return False
    if site == b"none":
        return True
    origin = fields.get(ORIGIN)
    if origin is None:
        if site is None:
            return True
        whole = (fields.get(MODE), fields.get(DESTINATION)) == (b"navigate", b"document")
        return whole and method in (b"GET", b"HEAD")
    if site is None and origin.partition(b"://")[2].lower() == host.lower():
        return True
    return origin.lower() in origins


class Browsers:
    """The names under which a gateway without `auth` may be addressed, and the pages that may use it."""

    def __init__(self, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        """``hosts``: further names of this gateway. ``origins``: of other sites' pages."""
        self._named = frozenset(name.lower().encode() for name in hosts)
        self._origins = frozenset(origin.lower().encode() for origin in origins)
        self._hosts: dict[bytes, int] = {}

    def check(self, method: bytes, host: bytes, fields: Mapping[bytes, bytes]) -> bool:
        """Whether ``host`` names this machine for certain: localhost, an IP address, or a configured name.

        Raises TurnoutError("forbidden") for a page of another site, and under a stranger's host name.
        """
        judged = self._judged(host)
        if judged == _STRANGERS:
            name = _name(host).decode("latin-1")
            raise TurnoutError(
                "forbidden",
                f"Without 'auth' the name {name!r} is not served, since a web page can point a name of its own "
                f"here; write 'browsers: {{hosts: [{name}]}}' in the configuration if it is yours, or use keys.",
            )
        if fields and not from_own_page(method, host, fields, self._origins):
            raise TurnoutError(
                "forbidden",
                "A page of another site may not do this; list its origin under 'browsers: {origins: […]}' in the "
                "configuration, or use the gateway's own page or a key.",
            )
        return judged == _OWN

    def owns(self, host: bytes) -> bool:
        """What `check` returns, without its refusals."""
        return self._judged(host) == _OWN

    def _judged(self, host: bytes) -> int:
        """Connections name the same few hosts, so each is judged once."""
        known = self._hosts.get(host)
        if known is None:
            if len(self._hosts) >= _MAX_REMEMBERED_HOSTS:
                self._hosts.clear()
            known = self._hosts[host] = self._judge(_name(host))
        return known

    def _judge(self, name: bytes) -> int:
        if name in self._named or name == b"localhost" or name.endswith(b".localhost") or _is_ip(name):
            return _OWN
        return _PRIVATE if b"." not in name or name.endswith(_RESERVED) else _STRANGERS


def _name(host: bytes) -> bytes:
    """Lower-cased and without port, brackets and the dot of the root."""
    name, colon, port = host.rpartition(b":")
    name = name if colon and (not port or port.isdigit()) and not name.endswith(b":") else host
    return name.strip(b"[]").rstrip(b".").lower()


def _is_ip(name: bytes) -> bool:
    try:
        ipaddress.ip_address(name.decode("latin-1"))
    except ValueError:
        return False
    return True
