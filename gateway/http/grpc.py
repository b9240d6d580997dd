"""gRPC over HTTP/2: its statuses and those of HTTP, its deadlines, its errors."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

OK: Final = 0
UNKNOWN: Final = 2
RESOURCE_EXHAUSTED: Final = 8

_TO_HTTP: Final[tuple[int, ...]] = (
    200, 499, 500, 400, 504, 404, 409, 403, 503, 400, 409, 400, 404, 500, 503, 500, 401
)  # fmt: skip
"""The HTTP status by which a gRPC status is judged and recorded: 5xx is the backend's fault, 4xx the client's."""
_FROM_HTTP: Final = {
    400: 3, 401: 16, 403: 7, 404: 12, 405: 12, 408: 4, 409: 10, 412: 9, 413: 8, 414: 8, 417: 3, 422: 3, 429: 8,
    431: 8, 499: 4, 500: 13, 501: 12, 502: 14, 503: 14, 504: 4, 505: 13,
}  # fmt: skip
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_TOO_LARGE: Final = re.compile(
    rb"grpc-message: .*"
    rb"((?<!client: )received message larger than max|message exceeds maximum size|metadata size exceeds)",
    re.IGNORECASE,
)
"""How the servers of gRPC in C, Go and Java refuse what a client sent: RESOURCE_EXHAUSTED, but the client's fault.

``CLIENT:`` is what C says of a response: the backend called another server, and passed the error on.
"""
_UNSAFE: Final = re.compile(rb"[^ -$&-~]")


def is_grpc(content_type: bytes) -> bool:
    """Whether a message with this type is gRPC, and not gRPC-Web."""
    return content_type == b"application/grpc" or content_type.startswith(
        (b"application/grpc+", b"application/grpc;")
    )


def parse_timeout(value: bytes) -> float:
    """The seconds of a ``grpc-timeout``; below zero if it is not valid."""
    match = _TIMEOUT.fullmatch(value)
    return int(match[1]) * _UNITS[match[2]] if match is not None else -1.0


def judged_status(lines: Sequence[bytes], otherwise: int) -> int:
    """The HTTP status that ``grpc-status`` among whole field lines stands for; ``otherwise`` if it is absent."""
    for line in lines:
        if line.startswith(b"grpc-status: "):
            value = line[13:].strip()
            code = int(value) if value.isdigit() and len(value) < 3 else UNKNOWN
            if code == RESOURCE_EXHAUSTED and any(map(_TOO_LARGE.match, lines)):
                return 413
            return _TO_HTTP[code] if code < len(_TO_HTTP) else 500
    return otherwise


def judged_head(lines: Sequence[bytes], status: int, *, over: bool) -> tuple[int, bool]:
    """The HTTP status that the head of a response to a gRPC request stands for, and whether its status is to follow.

    ``over``: the response has ended, and no status followed.

    A response that is not gRPC is UNKNOWN to the client (https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md).
    """
    if status >= 400:
        return status, False
    grpc, due = False, True
    for line in lines:
        if line.startswith(b"grpc-status: "):
            due = False
        elif not grpc and line[:14].lower() == b"content-type: ":
            if status != 200 or not is_grpc(line[14:].strip()):
                return 500, False
            grpc = True
    return (500 if due and over else status, due) if grpc else (500, False)


def judged_end(trailers: bytes, status: int, *, due: bool) -> int:
    """``status``, or what the gRPC status in ``trailers`` stands for: UNKNOWN if it is ``due`` and absent."""
    if not trailers and not due:
        return status
    return judged_status(trailers.split(b"\r\n"), 500 if due else status)


def error_fields(status: int, body: bytes) -> list[tuple[bytes, bytes]]:
    """The fields that stand for an HTTP response without gRPC: the gateway's own error, or a backend's."""
    message = b"the response is not gRPC (HTTP status %d)" % status
    try:
        error = json.loads(body)["error"]
        message = f"{error['code']}: {error['message']}".encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    code = _FROM_HTTP.get(status, UNKNOWN)
    return [
        (b"grpc-status", b"%d" % code),
        (b"grpc-message", _UNSAFE.sub(lambda found: b"%%%02X" % found[0][0], message)),
    ]


def error_lines(status: int, body: bytes) -> bytes:
    """`error_fields` as whole field lines."""
    return b"".join(b"%b: %b\r\n" % field for field in error_fields(status, body))
