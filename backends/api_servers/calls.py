"""The main process's side: the calls of one API server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from backends.api_servers.messages import FromApiServer, FromMain, Message, Work
from backends.api_servers.shared import SharedMemory
from backends.app import App
from backends.batching.entry import Entry, Outcome, Part
from backends.errors import ServerError
from backends.http.host import handle
from backends.http.message import Fields, Request, Response, error_response, failure_response, guarded
from backends.http.request_head import RequestHead
from backends.served import Served

Send = Callable[..., None]


class ForwardedEntry(Entry):
    """An inference request that an API server has checked."""

    __slots__ = ("_calls", "_number", "served")

    def __init__(self, calls: Calls, number: int, served: Served, work: Work) -> None:
        arrived, _, rows, key, values = work
        super().__init__(calls.inputs(served, rows, key, values), rows, key, arrived)
        self._calls = calls
        self._number = number
        self.served = served

    def finish(self, outcome: Outcome) -> None:
        """See `Entry`."""
        self._calls.finish(self._number, self.served, outcome)

    def abandon(self) -> None:
        """The client has left."""
        self.served.abandon(self)


class ForwardedRequest(Request):
    """Any other request."""

    __slots__ = ("number",)

    def __init__(self, calls: Calls, number: int, head: RequestHead, body: bytes) -> None:
        super().__init__(calls, head, body)
        self.number = number


class Calls:
    """Serves the requests of one API server; see `backends.http.message.ResponseWriter`."""

    def __init__(self, app: App, send: Send, memory: SharedMemory) -> None:
        self._app = app
        self._send = send
        self._memory = memory
        self._open: dict[int, ForwardedEntry | ForwardedRequest] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def received(self, message: Message) -> None:
        """Serves ``message``."""
        kind, number, *rest = message
        if kind == FromApiServer.INFER:
            self._infer(number, *rest)
        elif kind == FromApiServer.CALL:
            self._call(number, *rest)
        elif kind == FromApiServer.ABANDON:
            self._abandon(number)

    def abandon_all(self) -> None:
        """The API server has gone, and its clients with it."""
        for number in list(self._open):
            self._abandon(number)

    def finish(self, number: int, served: Served, outcome: Outcome) -> None:
        """Sends the outcome of an inference."""
        del self._open[number]
        if isinstance(outcome, ServerError):
            self._reply(number, error_response(outcome))
            return
        outputs = zip(outcome, served.config.output, strict=True)
        values_of = self._memory.values_of
        values = [(array.shape, values_of(array, tensor.datatype)) for array, tensor in outputs]
        self._send(FromMain.OUTPUTS, number, values)

    def respond(self, request: Request, response: Response) -> None:
        """See `backends.http.message.ResponseWriter`."""
        if (number := self._number(request)) is not None:
            del self._open[number]
            self._reply(number, response)

    def spawn(self, request: Request, work: Coroutine[None, None, None]) -> None:
        """See `backends.http.message.ResponseWriter`."""
        task = asyncio.get_running_loop().create_task(guarded(request, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def start(self, request: Request, fields: Fields) -> None:
        """See `backends.http.message.ResponseWriter`."""
        if (number := self._number(request)) is not None:
            self._send(FromMain.START, number, fields)

    def send(self, request: Request, data: bytes) -> None:
        """See `backends.http.message.ResponseWriter`."""
        if (number := self._number(request)) is not None:
            self._send(FromMain.PIECE, number, data)

    def end(self, request: Request) -> None:
        """See `backends.http.message.ResponseWriter`."""
        if (number := self._number(request)) is not None:
            del self._open[number]
            self._send(FromMain.END, number)

    def inputs(
        self, served: Served, rows: int, key: tuple[tuple[int, ...], ...], values: list[Any]
    ) -> tuple[Part, ...]:
        """The inputs of an inference, of which a message has the ``values``."""
        memory = self._memory
        return tuple(
            memory.array_of(given, tensor.datatype, (rows, *dims) if served.config.max_batch_size else dims)
            if tensor.datatype.kind == "bytes"
            else memory.bytes_of(given)
            for given, tensor, dims in zip(values, served.config.input, key, strict=True)
        )

    def _infer(self, number: int, name: str, version: str, serial: int, work: Work | None) -> None:
        try:
            served = self._app.registry.find(name, version)
            if served.serial != serial:
                description = served.serial, served.found.number, served.config.model_dump_json()
                self._send(FromMain.DESCRIPTION, number, *description)
            elif work is None:
                served.stats.invalid += 1
                self._send(FromMain.REFUSED, number)
            else:
                entry = self._open[number] = ForwardedEntry(self, number, served, work)
                served.submit(entry, work[1])
        except Exception as error:  # noqa: BLE001  whatever it is, the client gets a response
            self._open.pop(number, None)
            self._reply(number, failure_response(f"an inference of {name}", error))

    def _call(
        self, number: int, method: bytes, target: bytes, encoding: bytes | None, of_page: bool, body: bytes
    ) -> None:
        head = RequestHead()
        head.method, head.target, head.content_encoding, head.of_page = method, target, encoding, of_page
        self._app.body_limit(head)
        request = self._open[number] = ForwardedRequest(self, number, head, body)
        handle(self._app, request)

    def _abandon(self, number: int) -> None:
        call = self._open.pop(number, None)
        if call is not None and call.abandon is not None:
            call.abandon()

    def _number(self, request: Request) -> int | None:
        """The number of ``request``, unless its client has left."""
        assert isinstance(request, ForwardedRequest)
        return request.number if request.number in self._open else None

    def _reply(self, number: int, response: Response) -> None:
        self._send(FromMain.RESPONSE, number, response.status, response.fields, response.body)
