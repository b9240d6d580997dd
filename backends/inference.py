"""`POST …/infer`: from the bytes of a request to the bytes of its response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np

from backends.batching.entry import Entry, Outcome
from backends.errors import InvalidInput, ServerError, TooLarge
from backends.http.message import BINARY, JSON, Request, Response, error_response, head
from backends.served import Served
from backends.wire.answer import Answer, render
from backends.wire.compression import pack, unpack
from backends.wire.request import MAX_JSON_BYTES, InferRequest, Plan, too_much_json

OFFLOAD_BYTES: Final = 256 * 1024
"""Bodies from this size are (de)compressed in a thread; zlib lets the event loop run meanwhile."""


class InferenceCall(Entry):
    """An inference request over HTTP."""

    __slots__ = ("_plan", "_request", "_served")

    def __init__(self, served: Served, request: Request, parsed: InferRequest) -> None:
        plan = parsed.plan
        super().__init__(parsed.inputs, plan.rows, plan.key, time.perf_counter_ns())
        self._served = served
        self._request = request
        self._plan = plan

    def finish(self, outcome: Outcome) -> None:
        """See `Entry`."""
        request = self._request
        request.abandon = None
        if isinstance(outcome, ServerError):
            request.respond(error_response(outcome))
            return
        if not (request.accept_encoding or request.close or request.http10):
            data = repeated(self._plan, outcome)
            if data is not None and not request.connection.draining:
                request.respond_raw(data)
                return
        try:
            self._respond(outcome)
        except ServerError as error:
            request.respond(error_response(error))

    def _respond(self, arrays: list[np.ndarray]) -> None:
        served, request, plan = self._served, self._request, self._plan
        answer = render(served.name, served.version, plan.id, plan.outputs, arrays)
        remember(plan, arrays, answer)
        if request.accept_encoding is None:
            request.respond(response(answer, answer.body, ""))
        elif len(answer.body) <= OFFLOAD_BYTES:
            request.respond(
                response(answer, *pack(answer.body, request.accept_encoding.decode("latin-1")), vary=True)
            )
        else:
            request.spawn(self._compress(answer, request.accept_encoding.decode("latin-1")))

    async def _compress(self, answer: Answer, accept: str) -> None:
        body, encoding = await asyncio.to_thread(pack, answer.body, accept)
        self._request.respond(response(answer, body, encoding, vary=True))


def repeated(plan: Plan, arrays: list[np.ndarray]) -> bytes | None:
    """The whole response if its head is as the last one's of ``plan``."""
    if not plan.head:
        return None
    chosen = [arrays[spec.index] for spec, _ in plan.outputs]
    if tuple([array.shape for array in chosen]) != plan.head_shapes:
        return None
    return b"".join([plan.head, *[array.tobytes() for array in chosen]])


def remember(plan: Plan, arrays: list[np.ndarray], answer: Answer) -> None:
    """Keeps the head of a response whose outputs are all numbers in binary form, for `repeated`."""
    if not plan.plain or answer.header_length is None:
        return
    if any(not binary or spec.datatype.kind == "bytes" for spec, binary in plan.outputs):
        return
    start = head(200, response(answer, b"", "").fields)
    plan.head = b"%bcontent-length: %d\r\n\r\n%b" % (
        start,
        len(answer.body),
        answer.body[: answer.header_length],
    )
    plan.head_shapes = tuple(arrays[spec.index].shape for spec, _ in plan.outputs)


def response(answer: Answer, body: bytes, encoding: str, *, vary: bool = False) -> Response:
    """The response to an inference request, with its ``body`` in ``encoding``."""
    fields = [JSON if answer.header_length is None else BINARY]
    if answer.header_length is not None:
        fields.append((b"inference-header-content-length", b"%d" % answer.header_length))
    if vary:
        fields.append((b"vary", b"accept-encoding"))
    if encoding:
        fields.append((b"content-encoding", encoding.encode()))
    return Response(body, fields=tuple(fields))


def infer(served: Served, request: Request, max_body: int) -> None:
    """Queues an inference request. Raises ServerError."""
    if request.content_encoding is not None:
        _unpacked(request, max_body, partial(_submit, served, request))
    else:
        _submit(served, request, request.body)


def _unpacked(request: Request, limit: int, then: Callable[[bytes], None]) -> None:
    """Calls ``then`` with the body without its content encoding."""
    assert request.content_encoding is not None
    encoding = request.content_encoding.decode("latin-1")
    if len(request.body) <= OFFLOAD_BYTES:
        then(unpack(request.body, encoding, limit))
        return

    async def unpack_in_thread() -> None:
        then(await asyncio.to_thread(unpack, request.body, encoding, limit))

    request.spawn(unpack_in_thread())


def _submit(served: Served, request: Request, body: bytes) -> None:
    try:
        parsed = served.plans.parse(body, request.header_length)
    except (InvalidInput, TooLarge):
        served.stats.invalid += 1
        raise
    call = InferenceCall(served, request, parsed)
    request.abandon = partial(served.abandon, call)
    served.submit(call, parsed.plan.timeout)


def body_limit(request: Request, max_body: int) -> int:
    """Maximum bytes of an inference request's body."""
    if request.header_length is None and request.content_encoding is None:
        return min(max_body, MAX_JSON_BYTES)
    return max_body


def too_large(request: Request, limit: int) -> TooLarge:
    """The error for an inference request beyond `body_limit`."""
    if limit == MAX_JSON_BYTES and request.header_length is None:
        return too_much_json()
    return TooLarge(f"the body has more than {limit} bytes; send fewer rows at a time")
