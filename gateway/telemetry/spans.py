"""From what was kept of a traced request to its spans, in the names of OpenTelemetry's semantic conventions.

https://opentelemetry.io/docs/specs/semconv/http/http-spans/ (stable); what is Turnout's own begins with
``turnout.``. What is alike between many requests is encoded once and remembered.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Final

from gateway.telemetry import otlp
from gateway.telemetry.context import Context
from gateway.telemetry.otlp import attribute, attributes, key, number, real, text
from gateway.telemetry.trace import Asked, Attempt, Refused, Served, Shadowing, Traced

LONGEST: Final = 1024
"""Most characters of a text that a client chose: a path, a user agent."""
REMOTE: Final = 0x300
"""Flags of a span whose parent is known to be elsewhere (``HAS_IS_REMOTE`` and ``IS_REMOTE``)."""
LOCAL: Final = 0x100
NO_ERRORS: Final = frozenset(("", "hedged", "hedge_lost", "client_left", "draining"))
"""Ends of an attempt that say nothing bad about the backend."""
_REQUEST_SIZE: Final = key("http.request.body.size")
_ANSWER_SIZE: Final = key("http.response.body.size")
_DECISION: Final = key("turnout.decision_id")
_REQUEST_ID: Final = key("turnout.request_id")
_GATEWAY_MS: Final = key("turnout.gateway_ms")
_BACKEND_MS: Final = key("turnout.backend_ms")
_FALLBACK: Final = attribute("turnout.fallback", True)
_PORTS: Final = {b"http": 80, b"https": 443}


def resource(service: str, further: Mapping[str, str]) -> bytes:
    """What the spans of this process come from; ``further`` may replace anything of it."""
    own: dict[str, str | int] = {
        "service.name": service,
        "service.version": version("turnout"),
        "service.instance.id": str(uuid.uuid4()),
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "turnout",
        "telemetry.sdk.version": version("turnout"),
    }
    return otlp.resource({**own, **further}.items())


def scope() -> bytes:
    return otlp.scope("turnout", version("turnout"))


def spans(record: Traced) -> list[bytes]:
    """All spans of one record, encoded."""
    if isinstance(record, Served):
        found = [_attempt(record, attempt, place) for place, attempt in enumerate(record.attempts)]
        return [_served(record), *found]
    return [_refused(record)] if isinstance(record, Refused) else [_shadow(record)]


# The request -------------------------------------------------------------------------------------------
def _served(record: Served) -> bytes:
    trace, o, asked = record.trace, record.outcome, record.asked
    bad = record.broken or o.status >= 500
    rest = [
        _asked(asked),
        _decided(
            o.route, o.policy, o.revision, o.epoch, o.assigned, o.served, o.propensity, o.forced, o.sticky
        ),
        _status(o.status),
        _text("http.route", record.prefix.decode("latin-1")),
        number(_REQUEST_SIZE, o.request_bytes),
        number(_ANSWER_SIZE, o.answer_bytes),
        text(_DECISION, o.decision.hex().encode()),
        text(_REQUEST_ID, o.request_id.encode()),
        real(_GATEWAY_MS, o.gateway_ms),
        real(_BACKEND_MS, o.backend_ms),
        _text("turnout.principal", o.principal) if o.principal else b"",
        _text("turnout.error", o.error) if o.error else b"",
        _FALLBACK if o.fallback else b"",
    ]
    if bad or o.status == 499:
        rest.append(attribute("error.type", (o.error or str(o.status)) if bad else "client_left"))
    return otlp.span(
        trace_id=trace.span.trace_id,
        span_id=trace.span.span_id,
        parent=trace.parent,
        state=trace.span.state,
        name=_name(asked.method, record.prefix),
        kind=otlp.SERVER,
        begun=_nano(record.begun, record.offset),
        ended=_nano(record.ended, record.offset),
        flags=trace.span.flags | (REMOTE if trace.parent else LOCAL),
        rest=[*rest, *_link(trace.link), otlp.ERROR if bad else b""],
    )


def _refused(record: Refused) -> bytes:
    trace, asked = record.trace, record.asked
    bad = record.status >= 500
    return otlp.span(
        trace_id=trace.span.trace_id,
        span_id=trace.span.span_id,
        parent=trace.parent,
        state=trace.span.state,
        name=_name(asked.method, b""),
        kind=otlp.SERVER,
        begun=_nano(record.begun, record.offset),
        ended=_nano(record.ended, record.offset),
        flags=trace.span.flags | (REMOTE if trace.parent else LOCAL),
        rest=[
            _asked(asked),
            _status(record.status),
            attribute("turnout.error", record.code),
            attribute("error.type", record.code) if bad else b"",
            *_link(trace.link),
            otlp.ERROR if bad else b"",
        ],
    )


def _link(context: Context | None) -> list[bytes]:
    if context is None:
        return []
    return [otlp.link(context.trace_id, context.span_id, context.flags | REMOTE, context.state)]


def _asked(asked: Asked) -> bytes:
    known = _target(asked.method, asked.path[:LONGEST], asked.host, asked.scheme, asked.old)
    known += _ends(asked.peer, asked.client)
    for line in asked.lines:
        if line[:11].lower() == b"user-agent:":
            return known + _text("user_agent.original", line[11:].strip()[:LONGEST].decode("latin-1"))
    return known


@lru_cache(maxsize=1024)
def _ends(peer: str, client: str) -> bytes:
    found = attribute("network.peer.address", peer) if peer else b""
    return found + attribute("client.address", client) if client else found


@lru_cache(maxsize=1024)
def _text(name: str, value: str) -> bytes:
    """An attribute whose value many requests share."""
    return attribute(name, value)


@lru_cache(maxsize=1024)
def _target(method: bytes, path: bytes, host: bytes, scheme: bytes, old: bool) -> bytes:
    name, port = _host(host, scheme)
    return attributes(
        (
            ("http.request.method", method.decode("latin-1")),
            ("url.path", path.decode("latin-1")),
            ("url.scheme", scheme.decode()),
            ("server.address", name),
            ("server.port", port),
            ("network.protocol.version", "1.0" if old else "1.1"),
        )
    )


def _host(host: bytes, scheme: bytes) -> tuple[str, int]:
    """(name, port) of a Host field."""
    name, colon, port = host.rpartition(b":")
    if not colon or b"]" in port:
        name, port = host, b""
    return name.strip(b"[]").decode("latin-1"), int(port) if port else _PORTS.get(scheme, 80)


@lru_cache(maxsize=4096)
def _decided(
    route: str, policy: str, revision: int, epoch: int, assigned: str, served: str, propensity: float,
    forced: bool, sticky: bool,
) -> bytes:  # fmt: skip
    return attributes(
        (
            ("turnout.route", route),
            ("turnout.policy", policy),
            ("turnout.revision", revision),
            ("turnout.epoch", epoch),
            ("turnout.variant.assigned", assigned),
            ("turnout.variant.served", served),
            ("turnout.propensity", float(propensity)),
            ("turnout.forced", forced),
            ("turnout.sticky", sticky),
        )
    )


@lru_cache(maxsize=600)
def _status(status: int) -> bytes:
    return attribute("http.response.status_code", status)


@lru_cache(maxsize=1024)
def _name(method: bytes, target: bytes) -> bytes:
    return b"%b %b" % (method, target) if target else method


# Attempts ----------------------------------------------------------------------------------------------
def _attempt(record: Served, attempt: Attempt, place: int) -> bytes:
    method, path = record.asked.method, record.asked.path
    rest = [
        _place(attempt, record.prefix, method, path[:LONGEST]),
        _text("turnout.attempt", attempt.kind),
        attribute("http.request.resend_count", place) if place else b"",
    ]
    return _client_span(attempt, record.trace.span.span_id, method, record.offset, rest)


def _shadow(record: Shadowing) -> bytes:
    link = record.link
    rest = [
        _place(record.attempt, record.prefix, record.method, record.path[:LONGEST]),
        attribute("turnout.attempt", "shadow"),
        attribute("turnout.route", record.route),
        attribute("turnout.decision_id", record.decision.hex()),
        otlp.link(link.trace_id, link.span_id, link.flags | LOCAL),
    ]
    return _client_span(record.attempt, b"", record.method, record.offset, rest)


def _client_span(attempt: Attempt, parent: bytes, method: bytes, offset: float, rest: list[bytes]) -> bytes:
    bad = attempt.result not in NO_ERRORS or attempt.status >= 400
    if attempt.status:
        rest.append(_status(attempt.status))
    if attempt.result:
        rest.append(attribute("turnout.result", attempt.result))
    if bad:
        rest.append(attribute("error.type", attempt.result or str(attempt.status)))
        rest.append(otlp.ERROR)
    if attempt.sent:
        rest.append(otlp.event(b"sent", _nano(attempt.sent, offset)))
    if attempt.head:
        rest.append(otlp.event(b"answer", _nano(attempt.head, offset)))
    span = attempt.span
    return otlp.span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent=parent,
        state=span.state,
        name=_name(method, attempt.plan.name.encode()),
        kind=otlp.CLIENT,
        begun=_nano(attempt.begun, offset),
        ended=_nano(attempt.ended, offset),
        flags=span.flags | LOCAL,
        rest=rest,
    )


def _place(attempt: Attempt, prefix: bytes, method: bytes, path: bytes) -> bytes:
    plan, address = attempt.plan, attempt.address
    own = plan.rewrite + path[len(prefix) :] if plan.rewrite is not None else path
    endpoint = address.endpoint if address is not None else None
    return _where(
        plan.name,
        plan.backend_name,
        method,
        plan.base_path + own,
        endpoint.scheme if endpoint is not None else "",
        endpoint.host if endpoint is not None else "",
        endpoint.port if endpoint is not None else 0,
    )


@lru_cache(maxsize=1024)
def _where(
    variant: str, backend: str, method: bytes, path: bytes, scheme: str, host: str, port: int
) -> bytes:
    """``host``: "" where no address could be named."""
    found = attributes(
        (
            ("http.request.method", method.decode("latin-1")),
            ("turnout.variant", variant),
            ("turnout.backend", backend),
        )
    )
    if not host:
        return found
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return found + attributes(
        (
            ("server.address", host),
            ("server.port", port),
            ("url.full", f"{scheme}://{authority}{path.decode('latin-1')}"),
            ("network.protocol.version", "1.1"),
        )
    )


def _nano(seconds: float, offset: float) -> int:
    """Nanoseconds since the epoch."""
    return int((seconds + offset) * 1e9)
