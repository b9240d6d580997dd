"""What goes to the client of a backend's response, counted and kept as far as needed."""

from __future__ import annotations

from gateway.dataplane.base import ClientConnection, PipelinedRequest
from gateway.dataplane.exchange.attempt import ResponseSink
from gateway.dataplane.exchange.stream_end import TAIL_BYTES, is_whole
from gateway.http.grpc import judged_end
from gateway.record.usage import UsageReader
from gateway.transport.base import ResponseHead


class Relay(ResponseSink):
    """One response, on its way."""

    __slots__ = (
        "_limit", "_out", "_status_due", "_tail", "backend_ms", "backend_request_id", "captured", "client", "head_ms",
        "lines", "served", "size", "status", "usage", "whole",
    )  # fmt: skip

    lines: list[bytes]
    """The backend's field lines; set with ``captured``."""
    status: int
    size: int
    """Bytes of the body."""
    served: str
    """The variant whose response it is; "" for a local reply."""
    backend_ms: float
    """Milliseconds until the backend's head."""
    backend_request_id: bytes
    """X-Request-Id of the backend's response; b"" for none."""
    whole: bool
    """Whether the client was sent everything that the backend had to send."""
    captured: list[bytes] | None
    """The body, where a shadow's is compared with it; None if it is not kept."""
    usage: UsageReader | None
    """Takes the body where token counts are read from it."""
    _tail: bytes
    """The last bytes of the body that `flush` has sent, at least `TAIL_BYTES` if there are as many."""
    head_ms: float
    """Milliseconds from the request to the response's head that were the gateway's own; set when it is complete."""

    def __init__(self, client: ClientConnection) -> None:
        self.client = client
        self.status = 0
        self._status_due = False
        self.size = 0
        self.served = ""
        self.head_ms = 0.0
        self.backend_ms = 0.0
        self.backend_request_id = b""
        self.whole = False
        self.captured = None
        self.usage = None
        self._out: list[bytes] = []
        self._tail = b""

    def capture(self, limit: int) -> None:
        """Keeps the response, if its body has at most ``limit`` bytes."""
        self.captured = []
        self.lines = []
        self._limit = limit

    def begin(self, request: PipelinedRequest, response: ResponseHead, lines: bytes) -> None:
        """Passes on the head of a backend's response, with the gateway's own ``lines``."""
        self.status, self._status_due = response.judged, response.status_due
        self.backend_request_id = response.request_id
        if self.captured is not None:
            # The connection adds its own lines to the list.
            self.lines = response.lines.copy()
        if self.usage is not None:
            self.usage.begin(response.lines)
        response.lines.append(lines)
        self.client.begin_response(
            request, response.status, response.lines, response.length, response.bodiless
        )

    def on_data(self, data: bytes) -> None:
        self.size += len(data)
        self._out.append(data)
        if self.usage is not None:
            self.usage.feed(data)
        if self.captured is not None:
            if self.size <= self._limit:
                self.captured.append(data)
            else:
                # A part of a body cannot be compared.
                self.captured = None

    def flush(self) -> bool:
        out, self._out = self._out, []
        if out:
            last = out[-1]
            self._tail = last if len(last) >= TAIL_BYTES else b"".join((self._tail, *out))[-TAIL_BYTES:]
        self.client.send(out, False)
        return not self.client.write_paused

    def end(self, trailers: bytes) -> bool:
        """Sends what is left, and these field lines behind the body; returns whether they changed the status."""
        self.whole = True
        if not trailers:
            self.client.send(self._out, True)
            if not self._status_due:
                return False
        else:
            self.client.send_trailers(self._out, trailers)
        before, self.status = self.status, judged_end(trailers, self.status, due=self._status_due)
        return self.status != before

    @property
    def held(self) -> bool:
        """Whether pieces wait for `flush`."""
        return bool(self._out)

    def cut(self) -> None:
        """The client left while the response was relayed; it had everything if a stream's last event was sent."""
        self.whole = is_whole(self._tail)
