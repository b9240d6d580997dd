"""The values of SETTINGS frames (RFC 9113 6.5)."""

from __future__ import annotations

from gateway.http2 import frames
from gateway.http2.errors import (
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    ConnectionFault,
)
from gateway.http2.limits import MAX_SETTINGS


class PeerSettings:
    """What the peer's SETTINGS say, and whether it has confirmed ours."""

    __slots__ = ("streams", "unconfirmed", "window")

    def __init__(self) -> None:
        self.window = frames.DEFAULT_WINDOW
        """SETTINGS_INITIAL_WINDOW_SIZE."""
        # Until it says; RFC 9113 6.5.2 recommends no fewer.
        self.streams = 100
        """How many streams it permits at the same time."""
        self.unconfirmed = 0
        """Frames of ours that it has not confirmed."""

    def confirm(self, payload: bytes) -> None:
        """It has confirmed ours. Raises ConnectionFault if ``payload`` is not empty, or none was sent."""
        if payload:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a confirmation of SETTINGS has no payload")
        if not self.unconfirmed:
            raise ConnectionFault(PROTOCOL_ERROR, "a confirmation of SETTINGS that were not sent")
        self.unconfirmed -= 1


def parse_settings(payload: bytes, *, client: bool) -> list[tuple[int, int]]:
    """The (identifier, value) pairs of a payload, checked.

    Raises:
        ConnectionFault: A value is not valid; ``client``: for one that a server sent.
    """
    if len(payload) % 6:
        raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS has entries of six bytes")
    # A frame has room for 2,730; six are defined.
    if len(payload) > 6 * MAX_SETTINGS:
        raise ConnectionFault(ENHANCE_YOUR_CALM, "SETTINGS has too many entries")
    values = []
    for start in range(0, len(payload), 6):
        name = payload[start] << 8 | payload[start + 1]
        value = int.from_bytes(payload[start + 2 : start + 6], "big")
        if name == frames.INITIAL_WINDOW_SIZE and value > frames.MAX_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is too large")
        if name == frames.MAX_FRAME_SIZE and not 16_384 <= value <= 16_777_215:
            raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of range")
        if name == frames.ENABLE_PUSH and (value > 1 or (client and value)):
            raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is out of range")
        values.append((name, value))
    return values
