"""A request for the control application: an ASGI call, one task each. Speed does not matter here; care does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from gateway.dataplane.base import ClientConnection, PipelinedRequest
from gateway.dataplane.exchange.local_reply import send_refusal
from gateway.dataplane.request.head import Head
from gateway.errors import TurnoutError
from gateway.http.fields import FORWARDED, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, date_line

Message = MutableMapping[str, Any]

log = logging.getLogger("turnout.control")

# What the port of the data plane serves too when the control API has one of its own.
MODELS: Final = b"/v1/models"
DISCOVERY: Final = frozenset((b"/v3/discovery:clusters", b"/v3/discovery:routes"))
"""Paths that Envoy asks for; they are part of its protocol."""
PUBLIC: Final = frozenset((b"/-/decide", b"/-/feedback", b"/-/healthz", b"/-/readyz", MODELS))
MAX_BUFFERED_BYTES: Final = 1 << 20
_FORWARDING: Final = {
    FORWARDED: b"forwarded",
    FORWARDED_FOR: b"x-forwarded-for",
    FORWARDED_HOST: b"x-forwarded-host",
    FORWARDED_PROTO: b"x-forwarded-proto",
}


class ControlCall(PipelinedRequest):
    """A request below ``/-/``: one ASGI call in a task of its own."""

    def __init__(self, client: ClientConnection, head: Head) -> None:
        self.client = client
        self.head = head
        self.body_limit = client.snapshot.limits.control_body
        self._complete = False
        self._chunks: list[bytes] = []
        self._size = 0
        self._handed_over = False
        """Whether the application has the whole body."""
        self._changed = asyncio.Event()
        """Set when more of the body came, or the call has nothing more to wait for."""
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = False
        self._refused: TurnoutError | None = None
        self._task: asyncio.Task[None] | None = None
        self._status = 0
        self._lines: list[bytes] = []
        self._length = -1
        self._started = False
        self._responded = False
        self._held = False

    @property
    def complete(self) -> bool:
        return self._complete

    # The request ------------------------------------------------------------------------------------
    def on_request_data(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > MAX_BUFFERED_BYTES and not self._held:
            self._held = True
            self.client.pause_body()
        self._changed.set()

    def on_request_end(self) -> None:
        self._complete = True
        self._changed.set()

    def advance(self) -> None:
        if self._task is None and not self._responded:
            if self._refused is not None:
                self._responded = True
                send_refusal(self, self._refused)
                return
            if self.client.role == "data" and self.head.path not in PUBLIC:
                self._refuse_path()
                return
            runtime = self.client.runtime
            self._task = runtime.loop.create_task(self._run())
            runtime.control_tasks.add(self._task)
            self._task.add_done_callback(runtime.control_tasks.discard)

    def _refuse_path(self) -> None:
        if self.complete:
            self._responded = True
            error = TurnoutError("not_found", "The control API has a port of its own; see 'control'.")
            send_refusal(self, error)

    def refuse(self, error: TurnoutError) -> None:
        if self._task is None:
            self._refused = error
        elif not self._started:
            self._task.cancel()
            self._responded = True
            send_refusal(self, error)
        else:
            self.client_lost()
            self.client.abort()

    def client_lost(self) -> None:
        self._gone = True
        self._changed.set()
        self._writable.set()
        if self._started and not self._responded and self._task is not None:
            self._task.cancel()  # a stream; what has not responded yet may be changing state

    def pause_response(self) -> None:
        self._writable.clear()

    def resume_response(self) -> None:
        self._writable.set()

    # The application --------------------------------------------------------------------------------
    def _scope(self) -> dict[str, Any]:
        head, peer = self.head, self.client.forwarding.peer
        path, _, query = head.target.partition(b"?")
        headers = [(b"host", head.host)] if head.host else []
        for line in head.lines:
            name, _, value = line[:-2].partition(b": ")
            headers.append((name.lower(), value))
        credentials = head.credentials
        if credentials is not None and credentials.authorization is not None:
            headers.append((b"authorization", credentials.authorization))
        if credentials is not None and credentials.key is not None:
            headers.append((b"x-api-key", credentials.key))
        if head.length >= 0:
            headers.append((b"content-length", b"%d" % head.length))
        if head.request_id:
            headers.append((b"x-request-id", head.request_id))
        if head.variant is not None:
            headers.append((b"x-variant", head.variant))
        # As they came: the application must see that a caller is behind a proxy, and so not local.
        headers += [(_FORWARDING[kind], value) for kind, value in head.proxy_fields if kind in _FORWARDING]
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.0" if head.http10 else "1.1",
            "method": head.method.decode(),
            "scheme": self.client.forwarding.scheme.decode(),
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": (peer, 0) if peer else None,
            "server": None,
            "state": {"proxied": bool(head.proxy_fields)},
        }

    async def _run(self) -> None:
        try:
            await self.client.runtime.application(self._scope(), self._receive, self._send)
            if not self._responded:
                raise RuntimeError("the application returned without a response")
        except asyncio.CancelledError:
            if not self._responded and not self._gone:
                self._give_up()
        except Exception:
            if self._gone:
                return  # a stream hears in this way that its client has gone
            log.exception("control call failed: %s", self.head.path.decode("latin-1"))
            if not self._responded:
                self._give_up()

    def _give_up(self) -> None:
        self._responded = True
        if self._started:
            self.client.abort()
        else:
            send_refusal(self, TurnoutError("internal"))

    def _over(self) -> bool:
        return self._gone or self._responded

    async def _receive(self) -> Message:
        while not (self._chunks or self.complete or self._gone):
            self._changed.clear()
            await self._changed.wait()
        if self._over():
            return {"type": "http.disconnect"}
        if self._handed_over:
            while not self._over():  # only the client's leaving is left to wait for
                self._changed.clear()
                await self._changed.wait()
            return {"type": "http.disconnect"}
        body, self._chunks = b"".join(self._chunks), []
        if self._held:
            self._held = False
            self.client.resume_body()
        if self.complete:
            self._handed_over = True
            return {"type": "http.request", "body": body, "more_body": False}
        self._size = 0
        return {"type": "http.request", "body": body, "more_body": True}

    async def _send(self, message: Message) -> None:
        await self._writable.wait()
        if self._gone:
            raise OSError("the client has gone")  # as the specification 2.4 asks: it ends a stream
        if self._responded:
            return
        if message["type"] == "http.response.start":
            self._start(message)
        else:
            self._body(message.get("body", b""), more=message.get("more_body", False))

    def _start(self, message: Message) -> None:
        self._status = message["status"]
        self._lines.append(date_line(self.client.runtime.wall()))
        named = False
        for name, value in message.get("headers", ()):
            lowered = name.lower()
            if lowered == b"content-length":
                self._length = int(value)
            # The framing of this connection is the writer's.
            elif lowered not in (b"connection", b"transfer-encoding"):
                named = named or lowered == b"x-request-id"
                self._lines.append(b"%b: %b\r\n" % (name, value))
        if not named:
            runtime = self.client.runtime
            request_id = self.head.request_id or runtime.new_decision(runtime.wall()).hex().encode()
            self._lines.append(b"x-request-id: %b\r\n" % request_id)

    def _body(self, body: bytes, *, more: bool) -> None:
        client = self.client
        if more and self._length < 0 and client.surplus:  # a stream would stay
            self._responded = self._gone = True
            send_refusal(self, TurnoutError("too_many_connections", retry_after=1.0))
            raise OSError("there are too many connections")
        if not self._started:
            self._start_response(len(body), more=more)
        client.send([body] if body else [], not more)
        if not more:
            self._responded = True
            self._changed.set()
            client.responded(self)

    def _start_response(self, size: int, *, more: bool) -> None:
        self._started = True
        # Before its end the body may still be on its way; what follows would be taken for it.
        if not self._complete:
            self.head.close = True
        if self._length < 0 and not more:
            self._length = size
        bodiless = self.head.method == b"HEAD" or self._status in (204, 304)
        self.client.begin_response(self, self._status, self._lines, self._length, bodiless)
