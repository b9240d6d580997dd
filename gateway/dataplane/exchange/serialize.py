"""The heads that the gateway writes: of requests to backends, and its own lines in responses to clients."""

from __future__ import annotations

import re
from typing import Final

from gateway.dataplane.request.body import Body
from gateway.dataplane.request.request import Request
from gateway.dataplane.variant import VariantPlan
from gateway.transport.address import Address

COMPARABLE_CODINGS: Final = b"accept-encoding: gzip, deflate\r\n"
_MODEL: Final = re.compile(
    rb"(/v[12]/models/(?!stats(?:/|$))[^/:]+)(?:/(?:versions|labels)/[^/:]+)?(?=[/:]|$)"
)
"""A model in a path of the Open Inference Protocol or of TensorFlow Serving, with the version if it names one."""


def request_head(
    request: Request, body: Body, plan: VariantPlan, address: Address, size: int, *, shadow: bool = False
) -> list[bytes]:
    """Returns the parts of the head that goes to ``address``.

    Args:
        request: Whose head it is.
        body: Its body.
        plan: The variant that it goes to.
        address: One of the variant's backend.
        size: Bytes of the body as ``plan`` wants it, if all of it is here.
        shadow: Whether it is a copy: it carries no credentials, and asks for a coding that the comparison reads.
    """
    head, route = request.head, request.route
    target = head.target
    if plan.rewrite is not None:
        target = with_prefix(target, route.prefix, plan.rewrite)
    if plan.version is not None:
        target = with_version(target, plan.version)
    if plan.base_path:
        target = plan.base_path + target
    lines = head.lines
    if route.forward_credentials and head.credentials is not None and not shadow:
        lines = lines + head.credentials.gateways_own()
    if plan.drops:
        # CGI and WSGI make one name of both, so that a client could set what the plan replaces.
        lines = [line for line in lines if not line.lower().replace(b"_", b"-").startswith(plan.drops)]
    if shadow:
        lines = [COMPARABLE_CODINGS if line[:16].lower() == b"accept-encoding:" else line for line in lines]
    host = plan.host or (head.host if plan.preserve_host else address.authority)
    return [
        b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (head.method, target, host),
        *lines,
        plan.lines,
        request.forwarded,
        b"x-request-id: %b\r\n%b\r\n" % (request.request_id, _framing(request, body, size)),
    ]


def with_prefix(target: bytes, prefix: bytes, other: bytes) -> bytes:
    """``target`` with ``other`` for ``prefix``, and exactly one slash between it and what follows."""
    rest = target[len(prefix) :]
    if not rest or rest.startswith(b"?"):
        return other + rest
    if prefix.endswith(b"/"):
        rest = b"/" + rest
    return other.rstrip(b"/") + rest


def with_version(target: bytes, version: bytes) -> bytes:
    """``target`` with ``version`` as the model's, whether the client names one or not."""
    path, mark, query = target.partition(b"?")
    return _MODEL.sub(lambda match: b"%b/versions/%b" % (match[1], version), path, count=1) + mark + query


def _framing(request: Request, body: Body, size: int) -> bytes:
    head = request.head
    if head.upgrade:
        return b"connection: upgrade\r\nupgrade: %b\r\n" % head.upgrade
    if body.complete:
        # RFC 9110 8.6: a method that expects no content announces none.
        return b"content-length: %d\r\n" % size if size or head.length >= 0 or head.chunked else b""
    if head.length >= 0:
        return b"content-length: %d\r\n" % head.length
    return b"transfer-encoding: chunked\r\n"
