"""Every error of the gateway itself in one table, and the JSON form that all of them share.

An error has a code (snake_case, stable, what programs match on), an HTTP status, and a message that
says what happened and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from gateway.json_text import compact

Blame = Literal["client", "gateway", "backend"]
Phase = Literal["", "connect", "timeout", "reset", "status"]


class MissingExtra(Exception):
    """A package that is not installed is needed; the message says how to install it."""


@dataclass(frozen=True, slots=True)
class Code:
    """One row of the table."""

    name: str
    status: int
    message: str
    """Default message, for errors raised without a more specific one."""
    blame: Blame
    """Who caused it; only what a backend caused counts against a variant."""
    phase: Phase = ""
    """The kind of failure that `retry.on` and `fallback_on` name; "" where the response had begun."""
    sent: bool = True
    """Of a failed attempt: whether the backend may have had a byte of the request."""
    retryable: bool = True
    """Of a failed attempt: whether another one at the same backend may succeed."""


Row = tuple[str, int, str]


def _rows(blame: Blame, *rows: Row) -> list[Code]:
    return [Code(name, status, message, blame) for name, status, message in rows]


def _attempt(phase: Phase, *rows: Row, sent: bool = True, retryable: bool = True) -> list[Code]:
    """Ends of an attempt; told apart because what is safe to do next differs."""
    return [Code(name, status, message, "backend", phase, sent, retryable) for name, status, message in rows]


_CLIENT: Final = _rows(
    "client",
    ("bad_request", 400, "The request is not valid HTTP/1.1; send it again in a valid form."),
    ("bad_host", 400, "Exactly one valid Host field is needed; send one."),
    ("bad_target", 400, "The request target is not valid; send an absolute path."),
    ("bad_framing", 400, "The length of the body is ambiguous; send one Content-Length, or chunked alone."),
    ("bad_json", 400, "The body is not valid JSON; send a JSON document."),
    ("unauthenticated", 401, "No valid credential; send 'authorization: Bearer KEY' or 'x-api-key: KEY'."),
    ("forbidden", 403, "The key may not do this; use one with the scope that the call needs."),
    (
        "unknown_route",
        404,
        "No route matches this path and method; see 'match' of the routes in the configuration.",
    ),
    ("not_found", 404, "The requested resource does not exist; GET /-/openapi.json lists what does."),
    ("method_not_allowed", 405, "The method is not supported here."),
    ("request_timeout", 408, "The request did not arrive in time; send it faster, or raise the limit."),
    ("conflict", 409, "The resource has changed since you read it; read it again and repeat your change."),
    (
        "precondition_failed",
        412,
        "The resource has changed since you read it; read it again and repeat your change.",
    ),
    (
        "body_too_large",
        413,
        "The body is larger than this route accepts; send less, or raise its body limit.",
    ),
    ("target_too_long", 414, "The request target is too long; send a shorter one."),
    ("unsupported_media_type", 415, "The content type is not the one that this call takes; send that one."),
    ("expectation_failed", 417, "The expectation is not supported; only 'expect: 100-continue' is."),
    ("invalid", 422, "The values are not valid; GET /-/openapi.json describes those of each call."),
    ("unknown_variant", 422, "The route has no such variant; GET /-/routes lists those it has."),
    ("precondition_required", 428, "Send If-Match with the ETag that you read."),
    ("rate_limited", 429, "The key's rate limit is exceeded; wait for the time in Retry-After."),
    ("head_too_large", 431, "The request head is too large; send fewer or smaller fields."),
    ("client_left", 499, "The client closed the connection before the response was complete."),
)
_GATEWAY: Final = _rows(
    "gateway",
    ("internal", 500, "An error inside the gateway; its log has the details under this request id."),
    (
        "gateway_overloaded",
        503,
        "Too many large bodies wait to be read; retry after the time in Retry-After.",
    ),
    ("not_implemented", 501, "The transfer coding is not supported; send 'chunked' or a Content-Length."),
    ("store_unavailable", 503, "The store can't be reached; retry after the time in Retry-After."),
    ("not_ready", 503, "The gateway can't serve requests yet; retry after the time in Retry-After."),
    ("draining", 503, "The gateway is shutting down; retry to reach another instance."),
    (
        "too_many_connections",
        503,
        "The gateway has too many connections; retry after the time in Retry-After.",
    ),
    ("too_many_websockets", 503, "The gateway has too many WebSockets; retry after the time in Retry-After."),
    ("http_version", 505, "The HTTP version is not supported; only HTTP/1.0 and HTTP/1.1 are."),
)
_BACKEND: Final = [
    *_attempt(
        "connect",
        ("backend_connect", 502, "The backend could not be reached; the gateway's log has the details."),
        ("backend_connect_timeout", 504, "Connecting to the backend took too long."),
        ("backend_tls", 502, "The TLS handshake with the backend failed; see 'tls' of the backend."),
        sent=False,
    ),
    *_attempt(
        "connect",
        (
            "backend_overloaded",
            503,
            "The backend has reached its limit of requests; retry after the time in Retry-After.",
        ),
        (
            "backend_unhealthy",
            503,
            "No address of the backend is healthy; retry after the time in Retry-After.",
        ),
        sent=False,
        retryable=False,
    ),
    *_attempt(
        "timeout",
        ("backend_first_byte_timeout", 504, "The backend did not start to respond in time."),
        ("backend_stalled", 504, "The backend has stopped responding; see its health."),
        ("backend_total_timeout", 504, "The backend did not finish its response in time."),
    ),
    *_attempt(
        "reset",
        ("backend_reset", 502, "The backend closed the connection before it sent a response."),
        ("backend_protocol", 502, "The backend's response is not valid HTTP."),
    ),
    *_attempt(
        "status",
        ("backend_status", 502, "The backend responded with an error status."),
    ),
    *_attempt(
        "",
        ("backend_idle_timeout", 504, "The backend's response stalled."),
        ("backend_truncated", 502, "The backend's response broke off."),
    ),
]
CODES: Final[dict[str, Code]] = {code.name: code for code in (*_CLIENT, *_GATEWAY, *_BACKEND)}


def codes_of(phase: Phase) -> frozenset[str]:
    """The names of the failures of one phase of an attempt."""
    return frozenset(code.name for code in CODES.values() if code.phase == phase)


class TurnoutError(Exception):
    """An error with a row in the table; what reaches the client is `render`'s doing."""

    def __init__(self, code: str, message: str = "", *, retry_after: float | None = None) -> None:
        row = CODES[code]
        super().__init__(message or row.message)
        self.code = code
        self.status = row.status
        self.message = message or row.message
        self.retry_after = retry_after


def render(code: str, message: str = "", *, request_id: str = "") -> bytes:
    """The body of an error response, canonical JSON in UTF-8."""
    error: dict[str, str] = {"code": code, "message": message or CODES[code].message}
    if request_id:
        error["request_id"] = request_id
    return compact({"error": error})
