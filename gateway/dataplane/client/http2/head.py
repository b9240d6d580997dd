"""From a header list of HTTP/2 to the head that the data plane knows."""

from __future__ import annotations

from typing import Final

from gateway.dataplane.request.head import Head
from gateway.dataplane.snapshot import Snapshot
from gateway.errors import TurnoutError
from gateway.http.fields import HOST, KEEP, PASS, Actions, valid_host
from gateway.http.grpc import is_grpc, parse_timeout
from gateway.http2.fields import Field, RequestFields

GRPC: Final = b"application/grpc"
ADDRESS_SEPARATOR: Final = b","
"""In the authority of a gRPC client that was given a list of addresses, such as ``ipv4:10.0.0.1:80,10.0.0.2:80``."""


def fill(head: Head, fields: RequestFields, snapshot: Snapshot, *, oversized: bool) -> None:
    """Fill ``head`` from a well-formed list; ``oversized``: only its beginning is here.

    Raises:
        TurnoutError: The head is not one that may be served.
    """
    head.method = fields.method
    head.grpc = fields.content_type.startswith(GRPC) and is_grpc(fields.content_type)
    if oversized:
        raise TurnoutError("head_too_large")
    if len(fields.path) > snapshot.limits.target:
        raise TurnoutError("target_too_long")
    _take_fields(head, fields, snapshot.actions)
    if head.grpc:
        first = head.host.find(ADDRESS_SEPARATOR)
        if first > 0:
            head.host = head.host[:first]
        if fields.timeout is not None:
            _take_timeout(head, fields.timeout)
    head.settle("1.1", fields.method, fields.path, upgrades=False, keep_alive=True)
    if not valid_host(head.host):
        raise TurnoutError("bad_host")


def _take_fields(head: Head, fields: RequestFields, actions: Actions) -> None:
    if fields.authority:
        head.take(HOST, b"host", fields.authority)
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


def again(known: Head, started: float, *, end: bool) -> Head:
    """The head of another request whose fields are those of ``known``, which `fill` has filled.

    Args:
        known: Nothing but what its fields say is taken from it; it stays as it is.
        started: `perf_counter` when the request came.
        end: Whether no body follows.
    """
    head = Head(started)
    head.method = known.method
    head.target = known.target
    head.path = known.path
    head.host = known.host
    head.length = known.length
    head.chunked = not end and known.length < 0
    head.expect = known.expect
    head.credentials = known.credentials
    head.variant = known.variant
    head.request_id = known.request_id
    head.kept = known.kept
    head.grpc = known.grpc
    head.grpc_timeout = known.grpc_timeout
    head.proxy_fields = known.proxy_fields
    head.lines = known.lines
    return head


def _take_timeout(head: Head, value: bytes) -> None:
    """The deadline of a gRPC call; some servers fail for later calls if they are handed an invalid one."""
    seconds = parse_timeout(value)
    if seconds < 0:
        raise TurnoutError("bad_request", "The 'grpc-timeout' is not valid; send one, such as '200m'.")
    head.grpc_timeout = max(seconds, 1e-9)
