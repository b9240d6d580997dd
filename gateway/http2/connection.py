"""One connection: frames, settings, flow control, limits; for both roles."""

from __future__ import annotations

from gateway.http2 import frames
from gateway.http2.base import ConnectionBase
from gateway.http2.errors import (
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    ConnectionFault,
    StreamFault,
    window_fault,
)
from gateway.http2.fields import trailer_fault
from gateway.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER_BYTES,
    HEADERS,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    PADDED,
    WRAPPED,
    parse_header,
)
from gateway.http2.hpack import Decoder, HeaderList
from gateway.http2.limits import MAX_CONTINUATIONS, OVERSIZED_COST, UNIT_BYTES, Limits
from gateway.http2.partial_input import PartialInput
from gateway.http2.settings import parse_settings
from gateway.http2.stream import HALF_CLOSED_LOCAL, OPEN, RECV_HEADERS, Stream


class Connection(ConnectionBase):
    """See the module. Subclasses define `write`, and `on_head` for streams that the peer opens."""

    __slots__ = (
        "_decoder",
        "_grown",
        "_touched",
        "now",
        "partial",
    )

    def __init__(self, limits: Limits, *, client: bool) -> None:
        super().__init__(limits, client=client)
        self._decoder = Decoder(limits.max_list_bytes, limits.max_fields)
        self.partial = PartialInput(greeted=client)
        self._grown = False
        """Whether a window of the peer has grown since pending data was last sent."""
        self._touched: dict[Stream, None] = {}
        """Streams that the current read brought something of."""
        self.now = 0.0
        """``now`` of the last `receive`."""

    # For subclasses ---------------------------------------------------------------------------------
    def on_head(self, stream_id: int, headers: HeaderList, *, end: bool) -> Stream:
        """Make the stream of a new request and `adopt` it. Raises StreamFault if the request is malformed."""
        raise NotImplementedError

    def on_response_head(self, stream: Stream, headers: HeaderList, *, end: bool) -> None:
        """A header list on a stream that we opened."""
        raise NotImplementedError

    def on_goaway(self, last_stream: int, code: int) -> None:
        """The peer serves no stream after ``last_stream``."""

    def on_settings(self) -> None:
        """The peer's settings are in force."""

    # What ends early -------------------------------------------------------------------------------
    def _fail_stream(self, stream_id: int, fault: StreamFault) -> None:
        stream = self.streams.get(stream_id)
        self.costs.spend_reset(1.0 if fault.code == REFUSED_STREAM else 2.0, self.now)
        self.send(frames.rst_stream(stream_id, fault.code))
        self.note_reset(stream_id)
        if stream is not None:
            stream.drop()
            stream.on_fault(fault)

    # Input ------------------------------------------------------------------------------------------
    def receive(self, data: bytes, now: float) -> None:
        """Parse what the peer sent; ``now``: seconds of a monotonic clock."""
        if self.ended:
            return
        self.now = now
        partial = self.partial
        if partial.buffer:
            data = partial.buffer + data
        try:
            place = 0 if partial.greeted else partial.greet(data)
            if partial.greeted:
                place = self._frames(data, place)
            partial.keep(data, place, now)
        except ConnectionFault as fault:
            partial.buffer = b""  # nothing behind a fault may be parsed
            self.end(fault)
            return
        if self._touched:  # once a read: handlers write several small pieces in one
            touched, self._touched = self._touched, {}
            for stream in touched:
                stream.on_batch_end()
        if self._grown:
            self._grown = False
            self.pump()
        else:
            self.flush()

    def _frames(self, data: bytes, place: int) -> int:
        """Handle every complete frame; return where the next one begins."""
        size, turn, partial = len(data), self.limits.turn_frames, self.partial
        while turn > 0 and not self.ended:
            start = place + HEADER_BYTES
            if start > size:
                break
            word, flags, stream_id = parse_header(data, place)
            length, kind = word >> 8, word & 0xFF
            if length > MAX_FRAME_BYTES:  # before it is buffered
                raise ConnectionFault(FRAME_SIZE_ERROR, "a frame is too large")
            stream_id &= MAX_WINDOW
            end = start + length
            if partial.awaits_head:
                partial.check_order(kind, flags, stream_id)  # before all of it is read
                partial.awaits_head = end > size
            if end > size:
                break
            payload, place = data[start:end], end
            turn -= 1
            try:
                if kind == DATA:
                    self._on_data(flags, stream_id, payload)
                    continue
                turn -= length // UNIT_BYTES
                if kind == HEADERS:
                    self._on_headers(flags, stream_id, payload)
                else:
                    self._on_other(kind, flags, stream_id, payload)
            except StreamFault as fault:
                self._fail_stream(stream_id, fault)
        self.behind = turn <= 0
        return place

    def _on_other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.CONTINUATION:
            self._on_continuation(flags, stream_id, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._on_window_update(stream_id, payload)
        elif kind == frames.RST_STREAM:
            self._on_rst_stream(stream_id, payload)
        else:
            self.costs.spend_overhead(self.now)
            if kind == frames.SETTINGS:
                self._on_settings(flags, stream_id, payload)
            elif kind == frames.PING:
                self._on_ping(flags, stream_id, payload)
            elif kind == frames.PRIORITY:
                self._on_priority(stream_id, payload)
            elif kind == frames.GOAWAY:
                self._on_goaway(stream_id, payload)
            elif kind == frames.PUSH_PROMISE:
                raise ConnectionFault(PROTOCOL_ERROR, "PUSH_PROMISE is not permitted")

    def _is_idle(self, stream_id: int) -> bool:
        """Whether the stream was never opened (those of the other parity never are)."""
        return stream_id > self.highest or stream_id % 2 == 0

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        counted = len(payload)
        data = frames.unpad(payload) if flags & PADDED else payload  # only windows count padding
        self.receive_window.take(counted)
        end = flags & END_STREAM
        stream = self.streams.get(stream_id)
        if stream is None:
            self._reject_late(stream_id)
            self.costs.spend_overhead(self.now)
            self.acknowledge(counted)  # or late frames would use up the window for good (RFC 9113 6.9)
            return
        if data:
            self.costs.overhead.earned += 2.0
        elif not end:
            self.costs.spend_overhead(self.now)
        self._touched[stream] = None
        stream.take_data(data, counted)
        if end:
            stream.take_end([])

    def _reject_late(self, stream_id: int) -> None:
        """A frame of a stream that is not open: ignored if the peer may not know yet that we have reset it.

        A client remembers none: a server that stood still responds to any number of requests given up since.
        """
        if self._is_idle(stream_id):
            raise ConnectionFault(PROTOCOL_ERROR, "a frame of a stream that was never opened")
        if not self.client and stream_id not in self.costs.recent_resets:
            raise ConnectionFault(STREAM_CLOSED, "a frame of a closed stream")

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id % 2 == 0:
            raise ConnectionFault(PROTOCOL_ERROR, "HEADERS of a stream that no client may open")
        block = frames.unwrap(flags, payload) if flags & WRAPPED else payload
        end = flags & END_STREAM != 0
        if flags & END_HEADERS:
            self._on_block(stream_id, block, end=end)
            return
        self.partial.awaits_head = True
        self.partial.block = frames.HeaderBlock(stream_id, end, block)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        partial = self.partial
        block = partial.block
        if block is None:
            raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        pieces = block.pieces
        pieces.append(payload)
        # Their number alone: if a large block ended the connection, one call would fail all others on it.
        if len(pieces) > 1 + MAX_CONTINUATIONS:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a header block is too large")
        partial.awaits_head = not flags & END_HEADERS
        if not partial.awaits_head:
            partial.block = None
            self._on_block(stream_id, b"".join(pieces), end=block.end)

    def _on_block(self, stream_id: int, block: bytes, *, end: bool) -> None:
        headers = self._decoder.decode(block)  # also of a closed stream: the table is shared with the peer
        if headers.oversized:
            self.costs.spend_reset(OVERSIZED_COST, self.now)
        stream = self.streams.get(stream_id)
        if stream is None and (self.client or stream_id <= self.highest):
            self._reject_late(stream_id)
            self.costs.spend_overhead(self.now)
            return
        self.costs.overhead.earned += 2.0
        if stream is not None:
            self._on_later_block(stream, headers, end=end)
        else:
            self._open(stream_id, headers, end=end)

    def _open(self, stream_id: int, headers: HeaderList, *, end: bool) -> None:
        self.highest = stream_id  # before a refusal: a refused stream is not idle any more
        if self.closing or len(self.streams) >= self.limits.streams:
            raise StreamFault(REFUSED_STREAM, "too many streams")
        stream = self.on_head(stream_id, headers, end=end)
        self._touched[stream] = None
        if end:
            stream.take_end([])

    def adopt(self, stream: Stream) -> None:
        """Count a stream that the peer opened among the open ones."""
        self.streams[stream.id] = stream
        stream.state, stream.head_done = OPEN, True

    def _on_later_block(self, stream: Stream, headers: HeaderList, *, end: bool) -> None:
        self._touched[stream] = None
        if stream.state != OPEN and stream.state != HALF_CLOSED_LOCAL:
            stream.advance(RECV_HEADERS)
        if self.client and not stream.head_done:  # unset after a 1xx: another head may follow
            self.on_response_head(stream, headers, end=end)
            if end:
                stream.take_end([])
            return
        fault = trailer_fault(headers.fields)
        if fault or not end or headers.oversized:
            raise StreamFault(PROTOCOL_ERROR, fault or "trailers that do not end the stream")
        stream.take_end(headers.fields)

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "WINDOW_UPDATE has four bytes")
        self.costs.spend_overhead(self.now)
        increment = int.from_bytes(payload, "big") & MAX_WINDOW
        self._grown = True  # pumped once after the read, not for each update
        if stream_id == 0:
            self.send_window += increment
            if not increment or self.send_window > MAX_WINDOW:
                raise window_fault(increment)
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that was never opened")
            return
        stream.send_window += increment
        if not increment or stream.send_window > MAX_WINDOW:
            fault = window_fault(increment)
            raise StreamFault(fault.code, fault.message)

    def _on_rst_stream(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "RST_STREAM has four bytes")
        if stream_id == 0 or self._is_idle(stream_id):  # of a closed one it may have crossed with our end
            raise ConnectionFault(PROTOCOL_ERROR, "RST_STREAM of a stream that was never opened")
        stream = self.streams.get(stream_id)
        if stream is None:
            self.costs.spend_overhead(self.now)
            return
        stream.drop()
        stream.on_reset(int.from_bytes(payload, "big"))
        if not self.client:  # only a client can open streams to cancel them (CVE-2023-44487)
            self.costs.spend_reset(2.0, self.now)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & frames.ACK:
            self.peer.confirm(payload)
            return
        window = self.peer.window
        for name, value in parse_settings(payload, client=self.client):
            if name == frames.INITIAL_WINDOW_SIZE:
                window = value
            elif name == frames.MAX_CONCURRENT_STREAMS:
                self.peer.streams = value
        if window != self.peer.window:
            self._resize_windows(window)
        self.send(frames.SETTINGS_ACK)
        self.on_settings()

    def _resize_windows(self, window: int) -> None:
        change = window - self.peer.window
        self.peer.window = window
        self._grown = True
        for stream in self.streams.values():
            stream.send_window += change  # may become negative (RFC 9113 6.9.2)
            if stream.send_window > MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "a window grows too large")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "PING has eight bytes")
        if not flags & frames.ACK:  # or two peers would ping one another without end
            self.send(frames.ping(payload, ack=True))

    def _on_priority(self, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY of no stream")
        if len(payload) != 5:
            raise ConnectionFault(FRAME_SIZE_ERROR, "PRIORITY has five bytes")

    def _on_goaway(self, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "GOAWAY has eight bytes")
        last = int.from_bytes(payload[:4], "big") & MAX_WINDOW
        if self.client:
            self.closing = True
        self.on_goaway(last, int.from_bytes(payload[4:8], "big"))
