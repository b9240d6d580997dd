"""One stream: its state table, its flow control, and what waits to be sent on it."""

from __future__ import annotations

from typing import Final

from gateway.http2 import frames
from gateway.http2.errors import FLOW_CONTROL_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, StreamFault
from gateway.http2.fields import Field
from gateway.http2.limits import Limits
from gateway.http2.settings import PeerSettings

IDLE: Final = 0
OPEN: Final = 1
HALF_CLOSED_REMOTE: Final = 2
"""The peer has sent its last frame."""
HALF_CLOSED_LOCAL: Final = 3
"""We have sent our last frame."""
CLOSED: Final = 4

RECV_HEADERS: Final = 0
RECV_DATA: Final = 1
RECV_END: Final = 2
SEND_HEADERS: Final = 3
SEND_DATA: Final = 4
SEND_END: Final = 5
SEND_MESSAGE: Final = 6
"""SEND_HEADERS and SEND_END."""
RESET: Final = 7
"""RST_STREAM in either direction."""

_REFUSED: Final = -1
_MISUSED: Final = -2

# The lengths are left open: mypyc copies a tuple of a known length whenever it is indexed.
TRANSITIONS: Final[tuple[tuple[int, ...], ...]] = (
    # RECV_HEADERS        RECV_DATA           RECV_END             SEND_HEADERS        SEND_DATA
    # SEND_END            SEND_MESSAGE        RESET
    (OPEN, _MISUSED, _MISUSED, OPEN, _MISUSED, _MISUSED, HALF_CLOSED_LOCAL, _MISUSED),  # IDLE
    (OPEN, OPEN, HALF_CLOSED_REMOTE, OPEN, OPEN, HALF_CLOSED_LOCAL, HALF_CLOSED_LOCAL, CLOSED),  # OPEN
    (_REFUSED, _REFUSED, _REFUSED, HALF_CLOSED_REMOTE, HALF_CLOSED_REMOTE, CLOSED, CLOSED, CLOSED),
    (HALF_CLOSED_LOCAL, HALF_CLOSED_LOCAL, CLOSED, _MISUSED, _MISUSED, _MISUSED, _MISUSED, CLOSED),
    (_REFUSED, _REFUSED, _REFUSED, _MISUSED, _MISUSED, _MISUSED, _MISUSED, CLOSED),  # CLOSED
)
"""The state after an event, by state and event (RFC 9113 5.1). Below zero: an error of the peer, or a misuse."""

MIN_ACKNOWLEDGED_BYTES: Final = 4096
"""A stream gives back the connection's window in parts of at least this size, and with its end.

All streams together must never keep so much that the connection stands still.
"""
MAX_PENDING_BYTES: Final = 16_384
"""Bytes waiting to be sent from which on `Stream.on_blocked` asks for no more."""


class StreamOwner:
    """A connection as its streams use it."""

    __slots__ = ("limits", "peer", "send_window", "write_paused")

    limits: Limits
    peer: PeerSettings
    send_window: int
    write_paused: bool
    """Whether data waits because the transport has enough."""

    def send(self, data: bytes) -> None:
        """Put bytes into the next write."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write what was sent, as one piece."""
        raise NotImplementedError

    def flush_soon(self) -> None:
        """`flush`, together with what other streams send in the same turn of the loop."""
        raise NotImplementedError

    def earned(self, size: int, pieces: int) -> None:
        """``size`` bytes were sent, with the ends of ``pieces``: the peer may confirm them."""
        raise NotImplementedError

    def wait(self, stream: Stream) -> None:
        """``stream`` has pending data: send what there is room for."""
        raise NotImplementedError

    def acknowledge(self, size: int) -> None:
        """Give the peer back ``size`` bytes of the connection's window."""
        raise NotImplementedError

    def widened(self, window: int) -> int:
        """The size to which the receive window of a stream may grow from ``window``."""
        raise NotImplementedError

    def forget(self, stream: Stream) -> None:
        """``stream`` has closed."""
        raise NotImplementedError

    def note_reset(self, stream_id: int) -> None:
        """Frames of ``stream_id`` may still be in flight."""
        raise NotImplementedError


class Stream:
    """One stream. Subclasses override the methods ``on_…``, called as the peer's frames arrive."""

    __slots__ = (
        "blocked",
        "connection",
        "expected",
        "head_done",
        "held",
        "id",
        "pending",
        "pending_bytes",
        "pending_end",
        "pending_trailers",
        "receive_window",
        "received",
        "send_window",
        "sent",
        "state",
        "unacknowledged",
        "window",
    )

    def __init__(self, connection: StreamOwner, stream_id: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.state = IDLE
        self.send_window = connection.peer.window
        self.window = self.receive_window = connection.limits.stream_window
        self.received = 0
        """Bytes of the message's body so far."""
        self.expected = -1
        """Its Content-Length; -1 if absent."""
        self.head_done = False
        """Whether the head of the request, or of the final response, came."""
        self.held = False
        """Whether received bytes are not acknowledged, which stops the peer after a window of them."""
        self.unacknowledged = 0
        self.pending: list[bytes] = []
        """Data that the peer's windows do not permit yet."""
        self.pending_bytes = 0
        self.pending_end = False
        self.pending_trailers = b""
        self.blocked = False
        self.sent = 0
        """Bytes of data that the windows permitted."""

    # What arrives: for subclasses -------------------------------------------------------------------
    def on_data(self, data: bytes) -> None:
        """Take a piece of the body."""

    def on_end(self, trailers: list[Field]) -> None:
        """The peer's message is complete."""

    def on_reset(self, code: int) -> None:
        """The stream has ended early, by the peer or by its fault."""

    def on_fault(self, fault: StreamFault) -> None:
        """The stream has ended by an error of the peer that was found here."""
        self.on_reset(fault.code)

    def on_blocked(self) -> None:
        """Send no more: what was given waits for the peer."""

    def on_drained(self) -> None:
        """What waited is out."""

    def on_batch_end(self) -> None:
        """Everything that came in the same read has been taken."""

    # States -----------------------------------------------------------------------------------------
    def advance(self, event: int) -> None:
        """Apply ``event``. Raises StreamFault if the peer must not do this now."""
        after = TRANSITIONS[self.state][event]
        if after >= 0:
            self.state = after
            if after == CLOSED:
                self.connection.forget(self)
        elif after == _REFUSED:
            raise StreamFault(STREAM_CLOSED, "a frame after the end of the stream")
        else:
            raise RuntimeError(f"stream {self.id}: event {event} in state {self.state}")

    @property
    def remote_open(self) -> bool:
        """Whether the peer may still send."""
        return self.state == OPEN or self.state == HALF_CLOSED_LOCAL

    @property
    def local_open(self) -> bool:
        """Whether we may still send."""
        return self.state == OPEN or self.state == HALF_CLOSED_REMOTE

    # Receiving --------------------------------------------------------------------------------------
    def take_data(self, data: bytes, counted: int) -> None:
        """A DATA frame; ``counted``: its size with the padding, which flow control counts.

        Raises:
            StreamFault: It exceeds the stream's window or its Content-Length, or comes outside the body.
        """
        self.unacknowledged += counted  # first: a stream that ends here gives its part of the window back
        if not self.head_done:
            raise StreamFault(PROTOCOL_ERROR, "data before its head")
        if self.state != OPEN and self.state != HALF_CLOSED_LOCAL:
            self.advance(RECV_DATA)
        self.receive_window -= counted
        if self.receive_window < 0:
            raise StreamFault(FLOW_CONTROL_ERROR, "more data than the stream's window permits")
        self.received += len(data)
        if self.expected >= 0 and self.received > self.expected:
            raise StreamFault(PROTOCOL_ERROR, "more data than content-length says")
        if data:
            self.on_data(data)
        if self.unacknowledged >= MIN_ACKNOWLEDGED_BYTES and not self.held:
            self._acknowledge(taken=True)

    def take_end(self, trailers: list[Field]) -> None:
        """The END_STREAM flag; what came with it may have ended the stream already.

        Raises:
            StreamFault: The body is shorter than its Content-Length.
        """
        if self.state != OPEN and self.state != HALF_CLOSED_LOCAL:
            return
        # A message that is not as long as it says could be cut elsewhere by the next hop (RFC 9113 8.1.1).
        if 0 <= self.expected != self.received:
            raise StreamFault(PROTOCOL_ERROR, "less data than content-length says")
        self.advance(RECV_END)
        self.on_end(trailers)

    def hold(self, *, full: bool) -> None:
        """Let the peer send no more than its window while we are ``full``."""
        before, self.held = self.held, full
        if before and not full:
            self._acknowledge(taken=False)
            self.connection.flush()

    def _acknowledge(self, *, taken: bool) -> None:
        """Give the peer back the window of what has come; ``taken``: it did not have to wait."""
        size, self.unacknowledged = self.unacknowledged, 0
        if not size:
            return
        connection = self.connection
        connection.acknowledge(size)  # even of a closed stream: the window is that of all
        # From a quarter on, so that the peer need not wait.
        if self.remote_open and self.receive_window <= self.window * 3 // 4:
            if taken:  # a peer that is far away needs more, or it waits for this update most of the time
                self.window = connection.widened(self.window)
            connection.send(frames.window_update(self.id, self.window - self.receive_window))
            self.receive_window = self.window

    # Sending ----------------------------------------------------------------------------------------
    def send_head(self, block: bytes, *, end: bool) -> None:
        """Send a header block; `Connection.flush` writes it."""
        self.connection.send(frames.header_frames(self.id, block, end_stream=end))
        self.advance(SEND_MESSAGE if end else SEND_HEADERS)

    def send_message(self, block: bytes, data: bytes, trailers: bytes = b"") -> None:
        """Send a whole message; ``trailers``: a header block too."""
        connection = self.connection
        size = len(data)
        if (
            not 0 < size <= frames.MAX_FRAME_BYTES
            or len(block) > frames.MAX_FRAME_BYTES
            or not self._has_room(size)
        ):
            self.send_head(block, end=not size and not trailers)
            if size:
                self.send_data(data, end=not trailers)
            if trailers:
                self.send_trailers(trailers)
            return
        self.sent += size
        self.send_window -= size
        connection.send_window -= size
        connection.earned(size, 1)
        head = frames.header(len(block), frames.HEADERS, frames.END_HEADERS, self.id)
        flags = 0 if trailers else frames.END_STREAM
        message = head + block + frames.header(size, frames.DATA, flags, self.id) + data
        if trailers:
            message += frames.header_frames(self.id, trailers, end_stream=True)
        connection.send(message)
        self.advance(SEND_MESSAGE)

    def _has_room(self, size: int) -> bool:
        """Whether data of ``size`` bytes can be sent now."""
        connection = self.connection
        return not (
            self.blocked
            or size > self.send_window
            or size > connection.send_window
            or connection.write_paused
        )

    def send_data(self, data: bytes, *, end: bool = False) -> None:
        """Send data as far as the windows permit; the rest waits."""
        connection = self.connection
        size = len(data)
        if not self._has_room(size):
            self._wait(data, end=end)
            return
        self.sent += size
        self.send_window -= size
        connection.send_window -= size
        connection.earned(size, 1)
        if size <= frames.MAX_FRAME_BYTES:
            flags = frames.END_STREAM if end else 0
            connection.send(frames.header(size, frames.DATA, flags, self.id) + data)
        else:
            self._send_pieces(data, end=end)
        if end:
            self.advance(SEND_END)

    def send_trailers(self, block: bytes) -> None:
        """Send trailers after all data, which ends the message."""
        if self.blocked:
            self.pending_trailers = block
            self.pending_end = True
        else:
            self.send_head(block, end=True)

    def _send_pieces(self, data: bytes, *, end: bool) -> None:
        size = len(data)
        for start in range(0, size, frames.MAX_FRAME_BYTES):
            piece = data[start : start + frames.MAX_FRAME_BYTES]
            last = end and start + len(piece) == size
            flags = frames.END_STREAM if last else 0
            self.connection.send(frames.header(len(piece), frames.DATA, flags, self.id) + piece)
        self.connection.flush()  # a transport that has enough says so before the next large piece

    def _wait(self, data: bytes, *, end: bool) -> None:
        if data:
            self.pending.append(data)
            self.pending_bytes += len(data)
        self.pending_end = end
        if not self.blocked:
            self.blocked = True
            self.connection.wait(self)
        if self.blocked and self.pending_bytes > MAX_PENDING_BYTES:  # `wait` may have sent all of it
            self.on_blocked()

    def send_pending(self, limit: int) -> bool:
        """Send up to ``limit`` bytes of what waits; True if nothing waits any more."""
        room = min(self.send_window, limit)
        sent = pieces = 0
        while self.pending and sent < room:
            piece = self.pending[0]
            part = piece[: min(room - sent, frames.MAX_FRAME_BYTES)]
            if len(part) == len(piece):
                del self.pending[0]
                pieces += 1
            else:
                self.pending[0] = piece[len(part) :]
            sent += len(part)
            last = self.pending_end and not self.pending and not self.pending_trailers  # or these end it
            flags = frames.END_STREAM if last else 0
            self.connection.send(frames.header(len(part), frames.DATA, flags, self.id) + part)
        self.sent += sent
        self.send_window -= sent
        self.pending_bytes -= sent
        self.connection.send_window -= sent
        self.connection.earned(sent, pieces)
        if self.pending:
            return False
        self.blocked = False
        self._finish_pending(sent)
        return True

    def _finish_pending(self, sent: int) -> None:
        if self.pending_trailers:
            trailers, self.pending_trailers = self.pending_trailers, b""
            self.send_trailers(trailers)
        elif self.pending_end:
            if not sent:  # else the last frame has carried the flag
                self.connection.send(frames.header(0, frames.DATA, frames.END_STREAM, self.id))
            self.advance(SEND_END)
        else:
            self.on_drained()

    def reset(self, code: int) -> None:
        """End the stream early."""
        if self.state != CLOSED:
            self.connection.send(frames.rst_stream(self.id, code))
            self.connection.note_reset(self.id)
            self.drop()

    def drop(self) -> None:
        """Forget what waits, and close."""
        self.pending.clear()
        self.pending_bytes = 0
        self.blocked = False
        self.advance(RESET)
