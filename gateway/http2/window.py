"""The receive window of a connection (RFC 9113 5.2)."""

from __future__ import annotations

from gateway.http2 import frames
from gateway.http2.errors import FLOW_CONTROL_ERROR, ConnectionFault
from gateway.http2.limits import Limits


class ReceiveWindow:
    """What the peer may still send on all streams together."""

    __slots__ = ("_limits", "_size", "_unacknowledged", "left")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._size = self.left = limits.connection_window
        self._unacknowledged = 0

    def take(self, size: int) -> None:
        """Bytes came. Raises ConnectionFault if they are too many."""
        self.left -= size
        if self.left < 0:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more data than the connection's window permits")

    def acknowledge(self, size: int) -> bytes:
        """Bytes were taken on: the frame that gives their window back, or b"" until there are more."""
        self._unacknowledged += size
        # One update for many streams; the sixteenth is far less than what a peer may still send.
        if self._unacknowledged < self._limits.connection_window // 16:
            return b""
        size, self._unacknowledged = self._unacknowledged, 0
        self.left += size
        return frames.window_update(0, size)

    def widened(self, stream_window: int) -> tuple[int, bytes]:
        """The size to which the window of a stream may grow, and the frame that lets this window grow with it."""
        limits = self._limits
        multiple = 2 * stream_window // limits.stream_window
        if multiple > limits.growth:
            return stream_window, b""
        extra = multiple * limits.connection_window - self._size
        if extra <= 0:
            return 2 * stream_window, b""
        self._size += extra
        self.left += extra
        return 2 * stream_window, frames.window_update(0, extra)
