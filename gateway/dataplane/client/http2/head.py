"""From a header list of HTTP/2 to the head that the data plane knows."""

from __future__ import annotations

from typing import Final

from gateway.dataplane.request.head import Head
from gateway.dataplane.snapshot import Snapshot
from gateway.errors import TurnoutError
from gateway.http.fields import HOST, KEEP, PASS
from gateway.http.grpc import is_grpc, parse_timeout
from gateway.http2.fields import Field, RequestFields

GRPC: Final = b"application/grpc"
ADDRESS_SEPARATOR: Final = b","
"""In the authority of a gRPC client that was given a list of addresses, such as ``ipv4:10.0.0.1:80,10.0.0.2:80``."""


def fill(head: Head, fields: RequestFields, snapshot: Snapshot, *, end: bool) -> None:
    """Fill ``head`` from a well-formed list; ``end``: no body follows.

    Raises:
        TurnoutError: The head is not one that may be served.
    """
    head.method = fields.method
    if len(fields.path) > snapshot.limits.target:
        raise TurnoutError("target_too_long")
    if fields.authority:
        head.take(HOST, b"host", fields.authority)
    actions = snapshot.actions
    lines = head.lines
    named = not fields.authority
    cookies: list[Field] = []
    for field in fields.regular:
        try:
            action = actions.known[field.name]
        except KeyError:
            action = actions.find(field.name)
        if action == PASS:
            lines.append(field.line)
        elif action == HOST:
            if named or field.value.lower() != fields.authority.lower():
                head.take(HOST, b"host", field.value)  # two that differ are refused (RFC 9113 8.3.1)
            named = True
        elif action == KEEP and field.name == b"cookie":
            cookies.append(field)
        else:
            head.take(action, field.name, field.value)
    if cookies:  # RFC 9113 8.2.3: pieces of one field
        head.take(KEEP, b"cookie", b"; ".join([field.value for field in cookies]))
    if fields.content_type.startswith(GRPC) and is_grpc(fields.content_type):
        head.grpc = True
        first = head.host.find(ADDRESS_SEPARATOR)
        if first > 0:
            head.host = head.host[:first]
        if fields.timeout is not None:
            _take_timeout(head, fields.timeout)
    if not end and head.length < 0:
        head.chunked = True
    head.settle("1.1", fields.method, fields.path, upgrades=False, keep_alive=True)


def _take_timeout(head: Head, value: bytes) -> None:
    """The deadline of a gRPC call; some servers fail for later calls if they are handed an invalid one."""
    seconds = parse_timeout(value)
    if seconds < 0:
        raise TurnoutError("bad_request", "The 'grpc-timeout' is not valid; send one, such as '200m'.")
    head.grpc_timeout = max(seconds, 1e-9)
