"""Error codes of HTTP/2 (RFC 9113 7) and the two exceptions that carry them."""

from __future__ import annotations

from typing import Final

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
SETTINGS_TIMEOUT: Final = 0x4
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
CONNECT_ERROR: Final = 0xA
ENHANCE_YOUR_CALM: Final = 0xB
INADEQUATE_SECURITY: Final = 0xC
HTTP_1_1_REQUIRED: Final = 0xD


class ConnectionFault(Exception):
    """An error of the peer that ends the connection."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class StreamFault(Exception):
    """An error of the peer that ends one stream."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def window_fault(increment: int) -> ConnectionFault:
    """What is wrong with the ``increment`` of a WINDOW_UPDATE: zero, or too large."""
    if increment:
        return ConnectionFault(FLOW_CONTROL_ERROR, "a window grows too large")
    return ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE of zero")
