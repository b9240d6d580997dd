"""`POST …/infer`: from the bytes of a request to the bytes of its response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final

from backends.batching.entry import Entry, Outcome
from backends.errors import InvalidInput, ServerError, TooLarge, Unavailable
from backends.http.message import BINARY, JSON, Fields, Request, Response, error_response
from backends.http.request_head import RequestHead
from backends.json_process import JsonProcess
from backends.served import Served
from backends.wire.answer import Answer
from backends.wire.compression import pack, unpack
from backends.wire.request import MAX_JSON_BYTES, InferRequest, json_size, too_much_json

MAX_PAGE_BODY: Final = 1024 * 1024
"""Of requests that are not inferences."""
MAX_REMEMBERED_TARGETS: Final = 256
OFFLOAD_BYTES: Final = 256 * 1024
"""Bodies from this size, packed or not, are (de)compressed in a thread; zlib lets the event loop run meanwhile."""
LARGE_JSON_BYTES: Final = 64 * 1024
"""Beyond it, JSON is parsed in a process; here it would hold all other requests for 5 to 20 ms."""


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


class InferenceApi:
    """Takes inference requests for the models that ``find`` gives."""

    def __init__(self, find: Callable[[str, str], Served], max_body: int) -> None:
        self._find = find
        self._max_body = max_body
        self._json = JsonProcess()

    def handle(self, request: Request) -> None:
        """Queues ``request``. Raises ServerError."""
        unpacked(request, self._max_body, partial(self._submit, self._served(request), request))

    def _served(self, request: Request) -> Served:
        assert request.head.model is not None
        return self._find(*request.head.model)

    def _submit(self, served: Served, request: Request, body: bytes) -> None:
        length = request.head.header_length
        try:
            if len(body) > LARGE_JSON_BYTES and (size := json_size(length, len(body))) > LARGE_JSON_BYTES:
                request.spawn(self._submit_large(served, request, body, size))
                return
            parsed = served.plans.parse(body, length)
        except (InvalidInput, TooLarge):
            served.stats.invalid += 1
            raise
        _queue(served, request, parsed)

    async def _submit_large(self, served: Served, request: Request, body: bytes, size: int) -> None:
        whole, left = memoryview(body), asyncio.Event()
        served.pending.add(len(body))
        request.abandon = left.set
        try:
            plan = await self._json.plan_of(whole[:size], len(body) - size, served.signature)
            parsed = InferRequest(plan, plan.inputs(whole[size:]))
        except InvalidInput:
            served.stats.invalid += 1
            raise
        finally:
            served.pending.used -= len(body)
            request.abandon = None
        if left.is_set():
            return
        current = self._served(request)  # the model may have been loaded again meanwhile
        if current.signature != served.signature:
            raise Unavailable(f"model {served.name!r} was changed meanwhile; send the request again")
        _queue(current, request, parsed)


def unpacked(request: Request, limit: int, then: Callable[[bytes], None]) -> None:
    """Calls ``then`` with the body without its content encoding. Raises ServerError."""
    if request.head.content_encoding is None:
        then(request.body)
        return
    encoding = request.head.content_encoding.decode("latin-1")
    if len(request.body) <= OFFLOAD_BYTES:
        try:
            body = unpack(request.body, encoding, min(limit, OFFLOAD_BYTES))
        except TooLarge:
            pass  # 64 KiB may unfold to 64 MiB, which would hold the event loop for 0.2 s
        else:
            then(body)
            return

    async def unpack_in_thread() -> None:
        then(await asyncio.to_thread(unpack, request.body, encoding, limit))

    request.spawn(unpack_in_thread())


def _queue(served: Served, request: Request, parsed: InferRequest) -> None:
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
