"""What has arrived of a connection in part: the preface, a frame, a header block; and in which order these may come."""

from __future__ import annotations

from collections.abc import Collection

from gateway.http2 import frames
from gateway.http2.errors import PROTOCOL_ERROR, ConnectionFault


class PartialInput:
    """See the module."""

    __slots__ = ("_since", "awaits_head", "block", "buffer", "greeted")

    def __init__(self, *, greeted: bool) -> None:
        """``greeted``: no preface is to come."""
        self.greeted = greeted
        """Whether the client's preface was read."""
        self.buffer = b""
        """Bytes that were not handled."""
        self._since = 0.0
        """When the first bytes of the incomplete frame in the buffer came; 0.0: there is none."""
        self.block: frames.HeaderBlock | None = None
        """The one that is not complete."""
        self.awaits_head = True
        """Whether the preface, the first frame or a header block is incomplete."""

    def greet(self, data: bytes) -> int:
        """Where the first frame begins if the preface is complete. Raises ConnectionFault if it is none."""
        if data.startswith(frames.PREFACE):
            self.greeted = True
            return len(frames.PREFACE)
        if not frames.PREFACE.startswith(data):
            raise ConnectionFault(PROTOCOL_ERROR, "no connection preface")
        return 0

    def keep(self, data: bytes, place: int, now: float) -> None:
        """Keep ``data`` from ``place`` on, which was not handled."""
        self.buffer = data[place:] if place < len(data) else b""
        if place or not self._since:  # bytes of a frame that drip in must not renew its time
            self._since = now if self.buffer else 0.0

    def check_order(self, kind: int, flags: int, stream_id: int) -> None:
        """Only SETTINGS may come first, and only the rest of a header block within it: else raises ConnectionFault."""
        if self.block is None:
            if kind != frames.SETTINGS or flags & frames.ACK:
                raise ConnectionFault(PROTOCOL_ERROR, "the first frame is not SETTINGS")
        elif kind != frames.CONTINUATION or stream_id != self.block.stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "a frame within a header block")

    def frame_is_late(self, since: float, streams: Collection[int]) -> bool:
        """Whether the first bytes of an incomplete frame came before ``since``; open ``streams`` time their bodies."""
        if not self._since or self._since >= since:
            return False
        return not streams or len(self.buffer) < frames.HEADER_BYTES or self.buffer[3] != frames.DATA
