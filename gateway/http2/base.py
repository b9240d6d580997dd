"""What a connection has besides its input: the streams, the windows, and what it sends."""

from __future__ import annotations

from collections.abc import Callable

from gateway.http2 import frames
from gateway.http2.allowance import Costs
from gateway.http2.errors import NO_ERROR, ConnectionFault
from gateway.http2.limits import Limits
from gateway.http2.settings import PeerSettings
from gateway.http2.stream import Stream, StreamOwner
from gateway.http2.window import ReceiveWindow


class ConnectionBase(StreamOwner):
    """See the module; `gateway.http2.connection.Connection` adds the input."""

    __slots__ = (
        "_flushing",
        "_out",
        "_waiting",
        "behind",
        "client",
        "closing",
        "costs",
        "ended",
        "highest",
        "receive_window",
        "streams",
    )

    def __init__(self, limits: Limits, *, client: bool) -> None:
        self.limits = limits
        self.client = client
        self.streams: dict[int, Stream] = {}
        """Those that are open, by their number."""
        self.highest = 0
        """The number of the last stream that the client opened."""
        self.peer = PeerSettings()
        self.send_window = frames.DEFAULT_WINDOW
        self.receive_window = ReceiveWindow(limits)
        self.write_paused = False
        self.closing = False
        """A GOAWAY was sent or received: no further streams."""
        self.ended = False
        """Nothing is parsed or sent any more."""
        self.behind = False
        """Whether `receive` stopped at `Limits.turn_frames`: call it again, with no data, in a later turn."""
        self._out: list[bytes] = []
        self._flushing = False
        """Whether a flush is due."""
        self._waiting: list[Stream] = []
        """Streams with pending data, in turn."""
        self.costs = Costs()

    # For subclasses ---------------------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        """Send ``data`` to the peer."""
        raise NotImplementedError

    def _call_soon(self, work: Callable[[], None]) -> None:
        """Call ``work`` when the events that have arrived are handled; immediately by default."""
        work()

    def on_ended(self, fault: ConnectionFault | None) -> None:
        """The connection ends, by an error of the peer or by ours."""

    def on_idle(self) -> None:
        """The last open stream has ended."""

    # Beginning and end ------------------------------------------------------------------------------
    def start(self) -> None:
        """Send the preface and the settings."""
        limits = self.limits
        values = [
            (frames.INITIAL_WINDOW_SIZE, limits.stream_window),
            (frames.MAX_HEADER_LIST_SIZE, limits.max_list_bytes),
        ]
        if self.client:
            # A pushed response would belong to no request.
            values.append((frames.ENABLE_PUSH, 0))
            self.send(frames.PREFACE)
        else:
            values.append((frames.MAX_CONCURRENT_STREAMS, limits.streams))
        self.send(frames.settings(values))
        self.peer.unconfirmed += 1
        extra = limits.connection_window - frames.DEFAULT_WINDOW
        # SETTINGS cannot set the window of the connection (RFC 9113 6.9.2).
        if extra > 0:
            self.send(frames.window_update(0, extra))
        self.flush()

    def announce_end(self) -> None:
        """Send a first GOAWAY: the peer opens no further streams; those in flight are still served."""
        # The highest number: streams that are on their way are still served (RFC 9113 6.8).
        self.send(frames.goaway(frames.MAX_WINDOW, NO_ERROR))
        self.flush()

    def close(self) -> None:
        """Send the final GOAWAY: open streams go on, further ones are refused."""
        if not self.closing and not self.ended:
            self.closing = True
            self.send(frames.goaway(self.highest, NO_ERROR))
            self.flush()

    def end(self, fault: ConnectionFault | None) -> None:
        """End the connection with all its streams; ``fault``: the peer's error."""
        if self.ended:
            return
        code, message = (fault.code, fault.message) if fault is not None else (NO_ERROR, "")
        self.send(frames.goaway(self.highest, code, message))
        self.flush()
        # After the flush: `send` drops everything from here on.
        self.ended = True
        self.drop_streams(code)
        self.on_ended(fault)

    def drop_streams(self, code: int) -> None:
        """Tell every open stream that it has ended."""
        self.ended = True
        for stream in tuple(self.streams.values()):
            stream.drop()
            stream.on_reset(code)
        self._waiting.clear()

    # Output -----------------------------------------------------------------------------------------
    def send(self, data: bytes) -> None:
        if not self.ended:
            self._out.append(data)

    def flush(self) -> None:
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self.write(data)

    def flush_soon(self) -> None:
        """Send what waits at the end of this turn of the loop, together with what other streams add to it."""
        if not self._flushing:
            self._flushing = True
            self._call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        self.flush()

    def earned(self, size: int, pieces: int) -> None:
        # A client confirms what it takes by WINDOW_UPDATEs, some of them of small parts.
        self.costs.overhead.earned += 2.0 * pieces + size / 512.0

    def wait(self, stream: Stream) -> None:
        self._waiting.append(stream)
        if self.send_window > 0 and not self.write_paused:
            self.pump()

    def pump(self) -> None:
        """Send pending data, one frame of each stream in turn, as far as windows and transport permit."""
        idle = 0
        waiting = self._waiting
        while waiting and idle < len(waiting) and not self.write_paused:
            stream = waiting.pop(0)
            # It was reset while it waited.
            if not stream.blocked:
                continue
            before = stream.pending_bytes
            if stream.send_pending(min(self.send_window, frames.MAX_FRAME_BYTES)):
                idle = 0
                continue
            waiting.append(stream)
            idle = 0 if stream.pending_bytes < before else idle + 1
        self.flush()

    def pause_writing(self) -> None:
        """The transport has enough."""
        self.write_paused = True

    def resume_writing(self) -> None:
        """The transport takes more."""
        self.write_paused = False
        self.pump()

    def acknowledge(self, size: int) -> None:
        update = self.receive_window.acknowledge(size)
        if update:
            self.send(update)

    def widened(self, window: int) -> int:
        window, update = self.receive_window.widened(window)
        if update:
            self.send(update)
        return window

    # Streams ----------------------------------------------------------------------------------------
    def forget(self, stream: Stream) -> None:
        # A drop and a reset may both end it.
        if self.streams.pop(stream.id, None) is None:
            return
        if stream.unacknowledged:
            self.acknowledge(stream.unacknowledged)
            stream.unacknowledged = 0
        # Whatever its end: of a stream that was open, a reset takes two and has this one back.
        self.costs.resets.earned += 1.0
        if not self.streams:
            self.on_idle()

    def note_reset(self, stream_id: int) -> None:
        self.costs.note_reset(stream_id)
