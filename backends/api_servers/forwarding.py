"""The API server's side: requests are checked here, and forwarded to the process that has the models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from backends.api_servers.messages import FromApiServer, FromMain, Message
from backends.api_servers.shared import SharedMemory
from backends.batching.pending import PendingBytes
from backends.config import ModelConfig
from backends.errors import InvalidInput, TooLarge
from backends.http.message import Request, Response, error_response
from backends.inference import BodyLimits, InferenceCall, unpacked
from backends.wire.answer import identity_of
from backends.wire.request import Plans
from backends.wire.signature import Signature


class KnownVersion:
    """A version of a model, as the main process has described it."""

    def __init__(self, serial: int, number: int, config: ModelConfig) -> None:
        self.serial = serial
        self.identity = identity_of(config.name, str(number))
        self.inputs = [tensor.datatype for tensor in config.input]
        self.outputs = [tensor.datatype for tensor in config.output]
        self.plans = Plans(Signature.of(config))


class Inference:
    """An inference request on its way."""

    __slots__ = ("body", "entry", "error", "request", "version")

    def __init__(self, request: Request, body: bytes) -> None:
        self.request = request
        self.body = body
        self.version: KnownVersion | None = None
        """What the request was checked against last."""
        self.entry: InferenceCall | None = None
        self.error: InvalidInput | TooLarge | None = None
        """Why the request does not match `version`."""


class Forwarder(BodyLimits):
    """See `backends.http.host.Application`."""

    def __init__(
        self, max_body: int, pending: PendingBytes, send: Callable[..., None], memory: SharedMemory
    ) -> None:
        super().__init__(max_body)
        self._pending = pending
        self._send = send
        self._memory = memory
        self._versions: dict[tuple[str, str], KnownVersion] = {}
        """By what requests name: the main process finds the version of each request, and says if this is old."""
        self._numbers = count()
        self._open: dict[int, Inference | Request] = {}

    def handle(self, request: Request) -> None:
        """See `backends.http.host.Application`."""
        head = request.head
        if head.model is not None and head.method == b"POST":
            unpacked(request, self._max_body, partial(self._infer, request))
            return
        number = self._add(request, request)
        self._send(
            FromApiServer.CALL,
            number,
            head.method,
            head.target,
            head.content_encoding,
            head.of_page,
            request.body,
        )

    def received(self, message: Message) -> None:
        """Takes a message of the main process about a request."""
        kind, number, *rest = message
        call = self._open.get(number)
        if call is None:  # the client has left
            return
        if isinstance(call, Inference):
            self._take(kind, number, call, rest)
        elif kind == FromMain.START:
            call.start(*rest)
        elif kind == FromMain.PIECE:
            call.send(*rest)
        else:
            self._remove(number)
            call.abandon = None
            if kind == FromMain.END:
                call.end()
            else:
                call.respond(_response(*rest))

    def _infer(self, request: Request, body: bytes) -> None:
        self._pending.add(len(body))
        inference = Inference(request, body)
        self._attempt(self._add(request, inference), inference)

    def _attempt(self, number: int, inference: Inference) -> None:
        """Checks the request against the version that is known, and forwards it."""
        request = inference.request
        assert request.head.model is not None
        version = inference.version = self._versions.get(request.head.model)
        work = None
        if version is not None:
            try:
                parsed = version.plans.parse(inference.body, request.head.header_length)
            except (InvalidInput, TooLarge) as error:
                # Its frames would hold the body until the main process has responded.
                inference.error = error.with_traceback(None)
            else:
                entry = inference.entry = InferenceCall(version.identity, request, parsed)
                values = list(map(self._memory.values_of, parsed.inputs, version.inputs))
                work = entry.arrived, parsed.plan.timeout, entry.rows, entry.key, values
        serial = 0 if version is None else version.serial
        self._send(FromApiServer.INFER, number, *request.head.model, serial, work)

    def _take(self, kind: int, number: int, inference: Inference, rest: list[Any]) -> None:
        request = inference.request
        if kind == FromMain.DESCRIPTION:
            serial, version, config = rest
            assert request.head.model is not None
            known = KnownVersion(serial, version, ModelConfig.model_validate_json(config))
            self._versions[request.head.model] = known
            self._attempt(number, inference)
            return
        self._remove(number)
        request.abandon = None
        if kind == FromMain.OUTPUTS:
            assert inference.entry is not None
            assert inference.version is not None
            outputs = zip(rest[0], inference.version.outputs, strict=True)
            array_of = self._memory.array_of
            inference.entry.settle([array_of(values, type_, shape) for (shape, values), type_ in outputs])
        elif kind == FromMain.REFUSED:
            assert inference.error is not None
            request.respond(error_response(inference.error))
        else:
            request.respond(_response(*rest))

    def _add(self, request: Request, call: Inference | Request) -> int:
        number = next(self._numbers)
        self._open[number] = call
        request.abandon = partial(self._abandon, number)
        return number

    def _remove(self, number: int) -> Inference | Request | None:
        call = self._open.pop(number, None)
        if isinstance(call, Inference):
            self._pending.used -= len(call.body)
        return call

    def _abandon(self, number: int) -> None:
        if self._remove(number) is not None:
            self._send(FromApiServer.ABANDON, number)


def _response(status: int, fields: Any, body: bytes) -> Response:
    return Response(body, status, fields)
