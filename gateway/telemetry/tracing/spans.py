"""From what was kept of a traced request to its spans, in the names of OpenTelemetry's semantic conventions.

https://opentelemetry.io/docs/specs/semconv/http/http-spans/ (stable); what is Turnout's own begins with
``turnout.``. Spans are the SDK's, made with both their ends: the SDK's way of starting and ending them
while a request runs would cost it more than all the rest does.
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Final

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from gateway.record.events import BLAMELESS
from gateway.telemetry.tracing.context import Context
from gateway.telemetry.tracing.trace import Asked, AttemptSpan, Refused, Served, Shadowing, Trace, Traced

log = logging.getLogger("turnout.traces")

LONGEST: Final = 1024
"""Most characters of a text that a client chose: a path, a user agent."""
NO_ERRORS: Final = BLAMELESS | {"hedged", "hedge_lost"}
"""Ends of an attempt that say nothing bad about the backend."""
_PORTS: Final = {b"http": 80, b"https": 443}
_GOOD: Final = Status(StatusCode.UNSET)
_BAD: Final = Status(StatusCode.ERROR)

Attributes = dict[str, str | bool | int | float]


class Spans:
    """Makes the spans of one process."""

    def __init__(self, service: str, further: Mapping[str, str]) -> None:
        """``further``: of the resource that the spans come from; it may replace anything of our own."""
        own: dict[str, str | int] = {
            "service.name": service,
            "service.version": version("turnout"),
            "service.instance.id": str(uuid.uuid4()),
            "host.name": socket.gethostname(),
            "process.pid": os.getpid(),
        }
        self._resource = Resource.create({**own, **further})
        self._scope = InstrumentationScope("turnout", version("turnout"))

    def encoded(self, records: Sequence[Traced]) -> tuple[bytes, int]:
        """An OTLP request (protobuf) with the spans of the records, and how many these are."""
        made: list[ReadableSpan] = []
        for record in records:
            try:
                made += self.of(record)
            except Exception:
                log.exception("a span could not be built; the others are")
        return encode_spans(made).SerializeToString(), len(made)

    def of(self, record: Traced) -> list[ReadableSpan]:
        """All spans of one record."""
        if isinstance(record, Served):
            found = [self._attempt(record, attempt, place) for place, attempt in enumerate(record.attempts)]
            return [self._served(record), *found]
        return [self._refused(record)] if isinstance(record, Refused) else [self._shadow(record)]

    # The request --------------------------------------------------------------------------------------
    def _served(self, record: Served) -> ReadableSpan:
        o, asked = record.outcome, record.asked
        bad = record.broken or o.status >= 500
        attributes: Attributes = {
            **_asked(asked),
            "turnout.route": o.route,
            "turnout.policy": o.policy,
            "turnout.revision": o.revision,
            "turnout.epoch": o.epoch,
            "turnout.variant.assigned": o.assigned,
            "turnout.variant.served": o.served,
            "turnout.propensity": float(o.propensity),
            "turnout.forced": o.forced,
            "turnout.sticky": o.sticky,
            "http.response.status_code": o.status,
            "http.route": record.prefix.decode("latin-1"),
            "http.request.body.size": o.request_bytes,
            "http.response.body.size": o.answer_bytes,
            "turnout.decision_id": o.decision.hex(),
            "turnout.request_id": o.request_id,
            "turnout.gateway_ms": o.gateway_ms,
            "turnout.backend_ms": o.backend_ms,
        }
        if o.fallback:
            attributes["turnout.fallback"] = True
        if o.error:
            attributes["turnout.error"] = o.error
        if o.principal:
            attributes["turnout.principal"] = o.principal
        if bad or o.status == 499:
            attributes["error.type"] = (o.error or str(o.status)) if bad else "client_left"
        name = _name(asked.method, record.prefix)
        return self._server(record, record.trace, name, attributes, bad=bad)

    def _refused(self, record: Refused) -> ReadableSpan:
        bad = record.status >= 500
        attributes = _asked(record.asked)
        attributes["http.response.status_code"] = record.status
        attributes["turnout.error"] = record.code
        if bad:
            attributes["error.type"] = record.code
        return self._server(record, record.trace, _name(record.asked.method, b""), attributes, bad=bad)

    def _server(
        self, record: Served | Refused, trace: Trace, name: str, attributes: Attributes, *, bad: bool
    ) -> ReadableSpan:
        own = trace.span
        return ReadableSpan(
            name,
            context=_context(own),
            parent=_context(own._replace(span_id=trace.parent), remote=True) if trace.parent else None,
            resource=self._resource,
            attributes=attributes,
            links=[Link(_context(trace.link, remote=True))] if trace.link is not None else (),
            kind=SpanKind.SERVER,
            instrumentation_scope=self._scope,
            status=_BAD if bad else _GOOD,
            start_time=_nano(record.begun, record.offset),
            end_time=_nano(record.ended, record.offset),
        )

    # Attempts -----------------------------------------------------------------------------------------
    def _attempt(self, record: Served, attempt: AttemptSpan, place: int) -> ReadableSpan:
        asked = record.asked
        attributes = _where(attempt, record.prefix, asked.method, asked.path[:LONGEST])
        attributes["turnout.attempt"] = attempt.kind
        if place:
            attributes["http.request.resend_count"] = place
        return self._client(attempt, _context(record.trace.span), asked.method, record.offset, attributes)

    def _shadow(self, record: Shadowing) -> ReadableSpan:
        attributes = _where(record.attempt, record.prefix, record.method, record.path[:LONGEST])
        attributes["turnout.attempt"] = "shadow"
        attributes["turnout.route"] = record.route
        attributes["turnout.decision_id"] = record.decision.hex()
        links = (Link(_context(record.link)),)
        return self._client(record.attempt, None, record.method, record.offset, attributes, links)

    def _client(
        self,
        attempt: AttemptSpan,
        parent: SpanContext | None,
        method: bytes,
        offset: float,
        attributes: Attributes,
        links: Sequence[Link] = (),
    ) -> ReadableSpan:
        bad = attempt.result not in NO_ERRORS or attempt.status >= 400
        if attempt.status:
            attributes["http.response.status_code"] = attempt.status
        if attempt.result:
            attributes["turnout.result"] = attempt.result
        if bad:
            attributes["error.type"] = attempt.result or str(attempt.status)
        return ReadableSpan(
            _name(method, attempt.target.variant.encode()),
            context=_context(attempt.span),
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            events=list(_events(attempt, offset)),
            links=links,
            kind=SpanKind.CLIENT,
            instrumentation_scope=self._scope,
            status=_BAD if bad else _GOOD,
            start_time=_nano(attempt.begun, offset),
            end_time=_nano(attempt.ended, offset),
        )


def _events(attempt: AttemptSpan, offset: float) -> Iterator[Event]:
    if attempt.sent:
        yield Event("sent", timestamp=_nano(attempt.sent, offset))
    if attempt.head:
        yield Event("answer", timestamp=_nano(attempt.head, offset))


def _context(context: Context, *, remote: bool = False) -> SpanContext:
    return SpanContext(
        int.from_bytes(context.trace_id, "big"),
        int.from_bytes(context.span_id, "big"),
        is_remote=remote,
        trace_flags=TraceFlags(context.flags),
        trace_state=TraceState.from_header([context.state.decode("latin-1")]) if context.state else None,
    )


def _asked(asked: Asked) -> Attributes:
    name, port = _host(asked.host, asked.scheme)
    found: Attributes = {
        "http.request.method": asked.method.decode("latin-1"),
        "url.path": asked.path[:LONGEST].decode("latin-1"),
        "url.scheme": asked.scheme.decode(),
        "server.address": name,
        "server.port": port,
        "network.protocol.version": "1.0" if asked.old else "1.1",
    }
    if asked.peer:
        found["network.peer.address"] = asked.peer
    if asked.client:
        found["client.address"] = asked.client
    user_agent = next((line for line in asked.lines if line[:11].lower() == b"user-agent:"), b"")[11:].strip()
    if user_agent:
        found["user_agent.original"] = user_agent[:LONGEST].decode("latin-1")
    return found


def _host(host: bytes, scheme: bytes) -> tuple[str, int]:
    """(name, port) of a Host field."""
    name, colon, port = host.rpartition(b":")
    if not colon or b"]" in port:
        name, port = host, b""
    return name.strip(b"[]").decode("latin-1"), int(port) if port else _PORTS.get(scheme, 80)


def _where(attempt: AttemptSpan, prefix: bytes, method: bytes, path: bytes) -> Attributes:
    """Where an attempt went."""
    target, address = attempt.target, attempt.address
    found: Attributes = {
        "http.request.method": method.decode("latin-1"),
        "turnout.variant": target.variant,
        "turnout.backend": target.backend,
    }
    if address is None or not address.endpoint.host:
        return found
    end = address.endpoint
    own = target.rewrite + path[len(prefix) :] if target.rewrite is not None else path
    authority = f"[{end.host}]:{end.port}" if ":" in end.host else f"{end.host}:{end.port}"
    found["server.address"] = end.host
    found["server.port"] = end.port
    found["url.full"] = f"{end.web_scheme}://{authority}{(target.base_path + own).decode('latin-1')}"
    found["network.protocol.version"] = "2" if address.http2 else "1.1"
    return found


def _name(method: bytes, target: bytes) -> str:
    return (b"%b %b" % (method, target) if target else method).decode("latin-1")


def _nano(seconds: float, offset: float) -> int:
    """Nanoseconds since the epoch."""
    return int((seconds + offset) * 1e9)
