"""`POST …/infer`: from the bytes of a request to the bytes of its response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final

from backends.batching.entry import Entry, Outcome
from backends.errors import InvalidInput, ServerError, TooLarge
from backends.http.message import BINARY, JSON, Fields, Request, Response, error_response
from backends.http.request_head import RequestHead
from backends.served import Served
from backends.wire.answer import Answer
from backends.wire.compression import pack, unpack
from backends.wire.request import MAX_JSON_BYTES, InferRequest, too_much_json

MAX_PAGE_BODY: Final = 1024 * 1024
"""Of requests that are not inferences."""
MAX_REMEMBERED_TARGETS: Final = 256
OFFLOAD_BYTES: Final = 256 * 1024
"""Bodies from this size are (de)compressed in a thread; zlib lets the event loop run meanwhile."""


class InferenceCall(Entry):
    """An inference request over HTTP."""

    __slots__ = ("_identity", "_plan", "_request")

    def __init__(self, identity: bytes, request: Request, parsed: InferRequest) -> None:
        """``identity``: see `backends.wire.answer.identity_of`."""
        plan = parsed.plan
        super().__init__(parsed.inputs, plan.rows, plan.key, time.perf_counter_ns())
        self._identity = identity
        self._request = request
        self._plan = plan

    def finish(self, outcome: Outcome) -> None:
        """See `Entry`."""
        request = self._request
        request.abandon = None
        if not isinstance(outcome, ServerError):
            try:
                answer = self._plan.answer(self._identity, outcome)
            except ServerError as error:
                outcome = error
            else:
                self._respond(answer)
                return
        request.respond(error_response(outcome))

    def _respond(self, answer: Answer) -> None:
        request = self._request
        accept = request.head.accept_encoding
        if accept is None:
            request.respond(response(answer, answer.body, ""))
        elif len(answer.body) <= OFFLOAD_BYTES:
            request.respond(response(answer, *pack(answer.body, accept.decode("latin-1")), vary=True))
        else:
            request.spawn(self._compress(answer, accept.decode("latin-1")))

    async def _compress(self, answer: Answer, accept: str) -> None:
        body, encoding = await asyncio.to_thread(pack, answer.body, accept)
        self._request.respond(response(answer, body, encoding, vary=True))


def response(answer: Answer, body: bytes, encoding: str, *, vary: bool = False) -> Response:
    """The response to an inference request, with its ``body`` in ``encoding``."""
    return Response(body, fields=_fields(answer.header_length, encoding, vary))


@lru_cache(256)
def _fields(header_length: int | None, encoding: str, vary: bool) -> Fields:
    fields = [JSON if header_length is None else BINARY]
    if header_length is not None:
        fields.append((b"inference-header-content-length", b"%d" % header_length))
    if vary:
        fields.append((b"vary", b"accept-encoding"))
    if encoding:
        fields.append((b"content-encoding", encoding.encode()))
    return tuple(fields)


def infer(served: Served, request: Request, max_body: int) -> None:
    """Queues an inference request. Raises ServerError."""
    unpacked(request, max_body, partial(_submit, served, request))


def unpacked(request: Request, limit: int, then: Callable[[bytes], None]) -> None:
    """Calls ``then`` with the body without its content encoding. Raises ServerError."""
    if request.head.content_encoding is None:
        then(request.body)
        return
    encoding = request.head.content_encoding.decode("latin-1")
    if len(request.body) <= OFFLOAD_BYTES:
        then(unpack(request.body, encoding, limit))
        return

    async def unpack_in_thread() -> None:
        then(await asyncio.to_thread(unpack, request.body, encoding, limit))

    request.spawn(unpack_in_thread())


def _submit(served: Served, request: Request, body: bytes) -> None:
    try:
        parsed = served.plans.parse(body, request.head.header_length)
    except (InvalidInput, TooLarge):
        served.stats.invalid += 1
        raise
    request.body = b""  # tensors in binary form are views of it, those out of JSON need it no longer
    call = InferenceCall(served.identity, request, parsed)
    request.abandon = partial(served.abandon, call)
    served.submit(call, parsed.plan.timeout)


class BodyLimits:
    """How long a body each request may have; see `backends.http.host.Application`."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body

    def body_limit(self, head: RequestHead) -> int:
        """See `backends.http.host.Application`."""
        head.model = _inference_target(head.target)
        if head.model is None:
            return min(self._max_body, MAX_PAGE_BODY)
        if head.header_length is None and head.content_encoding is None:
            return min(self._max_body, MAX_JSON_BYTES)
        return self._max_body

    def too_large(self, head: RequestHead, limit: int) -> ServerError:
        """See `backends.http.host.Application`."""
        if head.model is None:
            return TooLarge(f"the body has more than {limit} bytes; send less")
        if limit == MAX_JSON_BYTES and head.header_length is None:
            return too_much_json()
        return TooLarge(f"the body has more than {limit} bytes; send fewer rows at a time")


@lru_cache(MAX_REMEMBERED_TARGETS)
def _inference_target(target: bytes) -> tuple[str, str] | None:
    """Model and version ("": the newest) of an inference request."""
    match target.partition(b"?")[0].decode("latin-1").split("/")[1:]:
        case ["v2", "models", name, "infer"]:
            return name, ""
        case ["v2", "models", name, "versions", version, "infer"] if version:
            return name, version
    return None
