"""What the gateway does with each header field, and the exact forms it accepts.

A field is looked up once, by its lower-cased name; what is not in the table is passed on as it came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from itertools import product
from typing import Final

# What to do with a request's field -----------------------------------------------------------------
HOST: Final = 0
LENGTH: Final = 1
CODING: Final = 2
CONNECTION: Final = 3
UPGRADE: Final = 4
EXPECT: Final = 5
DROP: Final = 6
AUTHORIZATION: Final = 7
API_KEY: Final = 8
VARIANT: Final = 9
REQUEST_ID: Final = 10
KEEP: Final = 11
FORWARDED_FOR: Final = 12
FORWARDED: Final = 13
FORWARDED_PROTO: Final = 14
FORWARDED_HOST: Final = 15
PROXY: Final = 16
"""Not passed on, and tells that a proxy stands between;"""
PASSED_BY_PROXY: Final = 17
"""passed on, and tells the same."""
SUBPROTOCOLS: Final = 18
PASS: Final = 19
"""Passed on as it came."""
KEEP_OF_PROXY: Final = 20
"""`KEEP` and `PASSED_BY_PROXY`."""

MAX_REMEMBERED_NAMES: Final = 1024
MAX_REMEMBERED_NAME_BYTES: Final = 64

# Fields that concern one connection (RFC 9110 7.6.1); Connection itself may name more.
_HOP_BY_HOP: Final = (
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"proxy-authorization",
    b"proxy-authenticate",
)

# Fields that only the gateway may set: what a client or a backend sends under these names is not passed on.
_OURS: Final = (
    b"x-decision-id",
    b"server-timing",
)
_PROXIES: Final = (
    b"x-real-ip",
    b"x-forwarded-port",
    b"x-forwarded-prefix",
    b"x-forwarded-server",
    b"x-forwarded-scheme",
    b"x-forwarded-ssl",
    b"x-original-url",
    b"x-rewrite-url",
)
# Proxies set these too. Backends may use them, and nothing of ours depends on their values.
_PASSED: Final = (
    b"via",
    b"cdn-loop",
    b"cf-connecting-ip",
    b"fastly-client-ip",
    b"true-client-ip",
    b"x-client-ip",
    b"x-cluster-client-ip",
    b"x-envoy-external-address",
)
FORWARDED_PREFIXES: Final = (b"x-forwarded", b"x_forwarded")
"""Each proxy has some fields of its own."""
_OF_PROXIES: Final = frozenset((PROXY, FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST))


def _request_actions() -> dict[bytes, int]:
    table = {
        b"host": HOST,
        b"content-length": LENGTH,
        b"transfer-encoding": CODING,
        b"connection": CONNECTION,
        b"upgrade": UPGRADE,
        b"expect": EXPECT,
        b"authorization": AUTHORIZATION,
        b"x-api-key": API_KEY,
        b"x-variant": VARIANT,
        b"x-request-id": REQUEST_ID,
        b"x-forwarded-for": FORWARDED_FOR,
        b"forwarded": FORWARDED,
        b"x-forwarded-proto": FORWARDED_PROTO,
        b"x-forwarded-host": FORWARDED_HOST,
        b"cookie": KEEP,  # without the dashboard's session, which no backend may learn
    }
    table.update(dict.fromkeys((*_HOP_BY_HOP, *_OURS), DROP))
    table.update(dict.fromkeys(_PROXIES, PROXY))
    return _with_twins(table) | dict.fromkeys(_PASSED, PASSED_BY_PROXY)


def credential_actions(places: Iterable[str]) -> dict[bytes, int]:
    """What becomes of the fields in which a configuration accepts credentials: `auth.accept`."""
    table = {place.encode(): API_KEY for place in places if place.endswith("api-key")}
    if "websocket" in places:
        table[b"sec-websocket-protocol"] = SUBPROTOCOLS
    return _with_twins(table)


def _with_twins(table: dict[bytes, int]) -> dict[bytes, int]:
    """Some servers fold "_" to "-": the twins of fields that we own or judge are dropped (HAProxy forwards them)."""
    twins = {}
    for name, action in table.items():
        first, *rest = name.split(b"-")
        for marks in product((b"-", b"_"), repeat=len(rest)):
            twins[first + b"".join(mark + part for mark, part in zip(marks, rest, strict=True))] = (
                PROXY if action in _OF_PROXIES else DROP
            )
    return twins | table


class Actions:
    """What to do with a field, by its name as it comes; `PASS` for names that are in no table.

    Spellings are remembered, so that nearly every field costs one look-up and no lower-cased copy. They are in a
    plain dict, which callers ask first: a subclass of dict is looked into at twice the cost.
    """

    __slots__ = ("by_name", "known")

    def __init__(self, by_name: Mapping[bytes, int]) -> None:
        """``by_name``: by lower-cased name."""
        self.by_name = dict(by_name)
        self.known: dict[bytes, int] = {}
        """By spelling."""

    def find(self, name: bytes) -> int:
        """The action for a spelling that is not ``known``; it is then."""
        lowered = name.lower()
        other = PASSED_BY_PROXY if lowered.startswith(FORWARDED_PREFIXES) else PASS
        action = self.by_name.get(lowered, other)
        if len(name) <= MAX_REMEMBERED_NAME_BYTES:
            if len(self.known) >= MAX_REMEMBERED_NAMES:
                self.known.clear()
            self.known[name] = action
        return action


REQUEST_ACTIONS: Final[dict[bytes, int]] = _request_actions()
"""By lower-cased name. A snapshot adds KEEP or KEEP_OF_PROXY for the fields that its routes look at."""

RESPONSE_ACTIONS: Final[dict[bytes, int]] = _with_twins(
    {
        b"content-length": LENGTH,
        b"transfer-encoding": CODING,
        b"connection": CONNECTION,
        b"upgrade": UPGRADE,
        b"keep-alive": KEEP,  # its timeout limits how long the connection is reused
        **dict.fromkeys(
            (
                b"proxy-connection",
                b"te",
                b"trailer",
                b"proxy-authenticate",
                b"x-decision-id",
                b"x-variant",
                b"server-timing",
            ),
            DROP,
        ),
        b"x-request-id": REQUEST_ID,
    }
)

METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"))
"""What is served; TRACE would hand credentials back, CONNECT would make us an open proxy."""
IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
"""RFC 9110 9.2.2; these may be repeated when a reused connection dies before a byte of the response."""

_HOST: Final = re.compile(
    rb"(?:[A-Za-z0-9](?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})*|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?",
    re.ASCII,
)
SESSION: Final = b"turnout-session-"
"""What the names of the dashboard's cookies hold."""
SUBPROTOCOL_KEY: Final = b"openai-insecure-api-key."
"""What precedes a key among the subprotocols of a WebSocket: web pages can set no other field of a handshake."""
_REQUEST_ID: Final = re.compile(rb"[!-~]{1,200}")
MAX_HOST_BYTES: Final = 259
"""253 of a name of DNS, and a port."""
_ODD_SEPARATOR: Final = re.compile(rb"[\\;]|%2[fF]|%5[cC]")
"""What some servers take for the end of a path segment."""
_ABSOLUTE: Final = re.compile(rb"(https?)://([^/?#@]*)((?:/|\?|$).*)", re.IGNORECASE | re.DOTALL)


def valid_host(value: bytes) -> bool:
    """``reg-name`` or ``[IPv6]``, with an optional port; nothing that could be taken for anything else.

    No longer than a name of DNS may be, since several caches are keyed by it.
    """
    match = _HOST.fullmatch(value) if len(value) <= MAX_HOST_BYTES else None
    return match is not None and (match[1] is None or int(match[1]) <= 65_535)


def without_sessions(cookies: bytes) -> bytes:
    """A Cookie field without the dashboard's: under TLS browsers send it with every request to this host."""
    pairs = [pair.strip() for pair in cookies.split(b";")]
    return b"; ".join(pair for pair in pairs if SESSION not in pair.partition(b"=")[0])


def split_subprotocols(value: bytes) -> tuple[bytes, list[bytes]]:
    """The names in a Sec-WebSocket-Protocol field that are not credentials, and the credentials."""
    names, credentials = [], []
    for name in value.split(b","):
        name = name.strip(b" \t")
        if name.startswith(SUBPROTOCOL_KEY):
            credentials.append(name[len(SUBPROTOCOL_KEY) :])
        else:
            names.append(name)
    return b", ".join(names), credentials


def valid_request_id(value: bytes) -> bool:
    """1 to 200 visible characters of ASCII."""
    if len(value) <= 200 and value.replace(b"-", b"").isalnum():  # a UUID or the like, at half the cost
        return True
    return _REQUEST_ID.fullmatch(value) is not None


def split_absolute(target: bytes) -> tuple[bytes, bytes] | None:
    """(authority, origin form) of an absolute http(s) target; None if it is not one (or has userinfo)."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None or not valid_host(match[2]):
        return None
    rest = match[3]
    return match[2], rest if rest.startswith(b"/") else b"/" + rest


def tokens(values: Iterable[bytes]) -> list[bytes]:
    """The lower-cased members of comma-separated fields, empty ones left out."""
    found = [part.strip(b" \t").lower() for value in values for part in value.split(b",")]
    return [token for token in found if token]


def _dots(path: bytes) -> int:
    """How many of its segments are dots."""
    return sum(segment in (b".", b"..") for segment in path.split(b"/"))


def resolve(path: bytes) -> bytes | None:
    """``path`` with %2e decoded and dot segments resolved, for matching alone; None if it climbs above "/".

    None too where servers differ: some take ``%2f`` or a backslash for ``/``, ignore what follows ``;``, or take
    repeated slashes for one, so that the ".." of ``/a//..`` leads out of ``/a``, and that of ``/a%2fb/..`` to ``/a``.
    """
    if b"." not in path and b"%2" not in path:
        return path
    decoded = re.sub(rb"%2[eE]", b".", path)
    if b"." in decoded and _dots(_ODD_SEPARATOR.sub(b"/", decoded)) != _dots(decoded):
        return None
    if b"/." not in decoded:
        return decoded
    out: list[bytes] = []
    segments = decoded.split(b"/")[1:]
    for place, segment in enumerate(segments):
        last = place == len(segments) - 1
        if segment == b"..":
            left = out.pop() if out else b""
            if not left or _ODD_SEPARATOR.search(left):
                return None
            if last:
                out.append(b"")
        elif segment == b".":
            if last:
                out.append(b"")
        else:
            out.append(segment)
    return b"/" + b"/".join(out)


def date_line(now: float) -> bytes:
    """``date: …`` for local replies (RFC 9110 6.6.1); ``now``: seconds since the epoch."""
    return _date_line(int(now))


@lru_cache(maxsize=2)
def _date_line(second: int) -> bytes:
    return b"date: %b\r\n" % formatdate(second, usegmt=True).encode()


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Client Closed Request" if status == 499 else b"Status"


STATUS_LINES: Final[dict[int, bytes]] = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, _reason(status)) for status in range(100, 600)
}
"""Status lines with the registered reason: the backend's own may hold anything, so it is never relayed."""
