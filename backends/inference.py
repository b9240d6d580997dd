"""`POST …/infer`: from the bytes of a request to the bytes of its answer."""

from __future__ import annotations

import asyncio
from typing import Final

import numpy as np

from backends.batching.entry import Entry, into
from backends.errors import ClientLeft, InvalidInput, TooLarge
from backends.http import BINARY, JSON, OFFLOAD, Headers, Receive, Response, header, read_body
from backends.registry import Registry
from backends.served import Served
from backends.wire.answer import Answer, render
from backends.wire.compression import pack
from backends.wire.request import MAX_JSON_BYTES, InferRequest, parse, too_much_json

LOOK: Final = 0.25
"""Seconds between looks for waiting clients that have left."""


class Inference:
    """Answers inference requests. One task per request runs through here; it waits for its batch only."""

    def __init__(self, registry: Registry, max_body: int) -> None:
        self._registry = registry
        self._max_body = max_body
        self._leavers = Leavers()

    async def answer(self, name: str, version: str, headers: Headers, receive: Receive) -> Response:
        """Raises a ServerError of any kind; ClientLeft when nobody waits for the answer any more."""
        self._registry.find(name, version)  # before a large body is read in vain
        header_length = header(headers, b"inference-header-content-length")
        limit = self._max_body
        if header_length is None and header(headers, b"content-encoding") is None:
            limit = min(limit, MAX_JSON_BYTES)
        try:
            body = await read_body(headers, receive, limit)
        except TooLarge as error:
            raise (too_much_json() if limit == MAX_JSON_BYTES else error) from None
        served = self._registry.find(name, version)
        try:
            request = parse(body, header_length, served.signature)
        except InvalidInput:
            served.stats.invalid += 1
            raise
        outputs = await self._wait(served, request, receive)
        answer = render(served.name, served.version, request.id, request.outputs, outputs)
        return await _respond(answer, header(headers, b"accept-encoding"))

    async def _wait(self, served: Served, request: InferRequest, receive: Receive) -> list[np.ndarray]:
        future: asyncio.Future[list[np.ndarray]] = asyncio.get_running_loop().create_future()
        entry = served.submit(request, into(future))
        self._leavers.add(served, entry, receive, future)
        try:
            return await future
        finally:
            self._leavers.remove(entry)
            served.abandon(entry)


class Leavers:
    """Finds clients that close the connection while their request waits, so that no work is done for them.

    ASGI tells of it only to who calls ``receive``, which takes a task. Few requests wait long enough to be
    worth one, so only those that a look, every `LOOK` seconds, finds for the second time get theirs.
    """

    def __init__(self) -> None:
        self._waiting: dict[Entry, tuple[Receive, asyncio.Future[list[np.ndarray]]]] = {}
        self._seen: set[Entry] = set()
        self._watchers: dict[Entry, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(
        self, served: Served, entry: Entry, receive: Receive, future: asyncio.Future[list[np.ndarray]]
    ) -> None:
        self._waiting[entry] = (receive, future)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def remove(self, entry: Entry) -> None:
        self._waiting.pop(entry, None)
        watcher = self._watchers.pop(entry, None)
        if watcher is not None:
            watcher.cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for entry in self._seen & self._waiting.keys():
            if entry not in self._watchers:
                self._watchers[entry] = loop.create_task(_watch(*self._waiting[entry]))
        self._seen = set(self._waiting)
        self._timer = loop.call_later(LOOK, self._look) if self._waiting else None


async def _watch(receive: Receive, future: asyncio.Future[list[np.ndarray]]) -> None:
    while (await receive())["type"] != "http.disconnect":  # noqa: ASYNC110  it is receive that waits
        await asyncio.sleep(LOOK)  # nothing else should come; should it, then not without end
    if not future.done():
        future.set_exception(ClientLeft())


async def _respond(answer: Answer, accept: bytes | None) -> Response:
    headers = [JSON if answer.header_length is None else BINARY]
    if answer.header_length is not None:
        headers.append((b"inference-header-content-length", b"%d" % answer.header_length))
    body, encoding = answer.body, ""
    if accept is not None:
        wish = accept.decode("latin-1")
        body, encoding = (
            await asyncio.to_thread(pack, body, wish) if len(body) > OFFLOAD else pack(body, wish)
        )
        headers.append((b"vary", b"accept-encoding"))
    if encoding:
        headers.append((b"content-encoding", encoding.encode()))
    return Response(body, headers=tuple(headers))
