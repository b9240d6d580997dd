"""What the tests of traces share: a configuration, and how to read what a backend was told."""

from __future__ import annotations

from tests.support.backend import Request
from tests.telemetry.collector import Span

CONFIG = """
telemetry: {traces: {endpoint: "http://127.0.0.1:@COLLECTOR@", sample: 100%, flush: 50ms}}
trusted_proxies: [127.0.0.1/32]
backends:
  a: {url: "http://127.0.0.1:@A@", ejection: null}
  b: {url: "http://127.0.0.1:@B@/base", ejection: null}
  pair: {urls: ["http://127.0.0.1:@A@", "http://127.0.0.1:@B@"], ejection: null}
  dead: {url: "http://127.0.0.1:@DEAD@", ejection: null}
  narrow: {url: "http://127.0.0.1:@A@", limit: {in_flight: 1, waiting: 1, wait: 100ms}, ejection: null}
routes:
  plain:
    match: {path: /plain}
    variants: {v1: {backend: a}, v2: {backend: a}}
    policy: {type: split, weights: {v1: 3, v2: 1}}
    unit: {header: x-user}
    timeouts: {first_byte: 300ms}
  rescued:
    match: {path: /rescued}
    variants: {new: {backend: dead}, old: {backend: b, rewrite: {path: /models/old}}}
    policy: {type: single, variant: new}
    fallback: [old]
  retried:
    match: {path: /retried}
    variants: {v1: {backend: pair}}
    policy: {type: single, variant: v1}
    retry: {attempts: 3, replayable: true, backoff: {base: 1ms, max: 1ms}}
  hedged:
    match: {path: /hedged}
    variants: {v1: {backend: pair}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1, replayable: true}
    hedge: {after: 50ms, max_share: 100%}
  shadowed:
    match: {path: /shadowed}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: shadow, primary: v1, shadows: {v2: 100%}}
  narrow:
    match: {path: /narrow}
    variants: {v1: {backend: narrow}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
"""
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
NOT_SAMPLED = f"00-{TRACE}-{SPAN}-00"
MILLISECOND = 0.001


def told(found: Request) -> tuple[str, str, int]:
    """(trace id, span id, flags) of the one traceparent that a backend got."""
    (value,) = found.all("traceparent")
    version, trace, span, flags = value.decode().split("-")
    assert version == "00"
    return trace, span, int(flags, 16)


def by_kind(spans: list[Span]) -> tuple[Span, list[Span]]:
    """The request's span, and those of its attempts in the order in which they began."""
    (server,) = [span for span in spans if span.kind == "server"]
    found = sorted((span for span in spans if span.kind == "client"), key=lambda span: span.begun)
    for span in found:
        assert (span.trace_id, span.parent) == (server.trace_id, server.span_id)
        assert span.begun >= server.begun - MILLISECOND / 10
    return server, found


def sent(lines: str) -> bytes:
    return b"".join(line.strip().encode() + b"\r\n" for line in lines.split("|") if line)
