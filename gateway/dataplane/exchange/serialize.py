"""The heads that the gateway writes: of requests to backends, of answers to clients."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gateway.dataplane.snapshot import VariantPlan
from gateway.transport.address import Address
from gateway.transport.base import ResponseHead

if TYPE_CHECKING:
    from gateway.dataplane.exchange.exchange import Exchange

_MODEL: Final = re.compile(
    rb"(/v[12]/models/(?!stats(?:/|$))[^/:]+)(?:/(?:versions|labels)/[^/:]+)?(?=[/:]|$)"
)
"""A model in a path of the Open Inference Protocol or of TensorFlow Serving, with the version if it names one."""


def request_head(x: Exchange, plan: VariantPlan, address: Address, size: int) -> list[bytes]:
    """The parts of the head that goes to ``address``; ``size`` is the body's, where all of it is here."""
    head = x.head
    target = head.target
    if plan.rewrite is not None:
        target = with_prefix(target, x.route.prefix, plan.rewrite)
    if plan.version is not None:
        target = with_version(target, plan.version)
    if plan.base_path:
        target = plan.base_path + target
    lines = head.lines
    if head.credential_lines and x.route.forward_credentials:
        lines = lines + head.credential_lines
    if plan.drops:
        lines = [line for line in lines if not line.lower().replace(b"_", b"-").startswith(plan.drops)]
    host = plan.host or (head.host if plan.preserve_host else address.authority)
    return [
        b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (head.method, target, host),
        *lines,
        plan.lines,
        x.client.forwarded(head),
        b"x-request-id: %b\r\n%b\r\n" % (x.request_id, _request_framing(x, size)),
    ]


def with_prefix(target: bytes, prefix: bytes, other: bytes) -> bytes:
    """``target`` with ``other`` in place of ``prefix``, and exactly one slash between it and what follows."""
    rest = target[len(prefix) :]
    if not rest or rest.startswith(b"?"):
        return other + rest
    if prefix.endswith(b"/"):
        rest = b"/" + rest
    return other.rstrip(b"/") + rest


def with_version(target: bytes, version: bytes) -> bytes:
    """``target`` with ``version`` as the model's, whether the client names one or not."""
    path, mark, query = target.partition(b"?")
    return _MODEL.sub(lambda found: b"%b/versions/%b" % (found[1], version), path, count=1) + mark + query


def _request_framing(x: Exchange, size: int) -> bytes:
    head = x.head
    if head.upgrade:
        return b"connection: upgrade\r\nupgrade: %b\r\n" % head.upgrade
    if x.complete:
        return b"content-length: %d\r\n" % size if size or head.length >= 0 or head.chunked else b""
    if head.length >= 0:
        return b"content-length: %d\r\n" % head.length
    return b"transfer-encoding: chunked\r\n"


def our_lines(x: Exchange) -> bytes:
    """The fields that every answer of a route carries."""
    return (
        b"x-decision-id: %b\r\n%bx-request-id: %b\r\nserver-timing: gateway;dur=%.3f, backend;dur=%.3f\r\n"
        % (
            x.worker.seal(x.decision, x.unit, x.choice.static(x.served, x.forced)),
            x.plan.answer_line if x.served else x.choice.variant.answer_line,
            x.request_id,
            x.head_ms,
            x.backend_ms,
        )
    )


def answer_framing(x: Exchange, response: ResponseHead) -> bytes:
    """How the client learns where the answer ends; sets ``chunked_out`` and the head's ``close``."""
    if response.bodiless:
        keep = response.length >= 0 and response.status != 204
        return b"content-length: %d\r\n" % response.length if keep else b""
    if response.length >= 0:
        return b"content-length: %d\r\n" % response.length
    if x.head.old:
        x.head.close = True
        return b""
    x.chunked_out = True
    return b"transfer-encoding: chunked\r\n"
