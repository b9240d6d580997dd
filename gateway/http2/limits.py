"""What a peer may hold and cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_TURN_FRAMES: Final = 256
"""Frames of a connection that are handled before it is the turn of others: a few milliseconds of the smallest ones."""
UNIT_BYTES: Final = 256
"""A frame counts as one more for each of these in its payload, unless it is DATA: headers cost by the byte."""
MAX_SETTINGS: Final = 32
"""Entries of one SETTINGS frame."""
MAX_CONTINUATIONS: Final = 16
"""CONTINUATION frames of one header block."""
REMEMBERED_RESETS: Final = 512
"""Streams of a client that we have reset whose late frames are ignored instead of being errors.

Several times the limit on open streams, which a client may fill again before it hears of the first reset.
"""
OVERHEAD_BURST: Final = 2000.0
OVERHEAD_RATE: Final = 200.0
"""Frames per second that may carry no part of a message, besides one for each that does."""
RESET_BURST: Final = 400.0
RESET_RATE: Final = 20.0
"""Streams per second that may end early, besides one for each that ends well."""
OVERSIZED_COST: Final = 20.0
"""Resets that a header list over the limit counts for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may hold."""

    streams: int = 100
    """Open at the same time."""
    stream_window: int = 262_144
    """Bytes of one body that may wait to be taken, at first."""
    connection_window: int = 1_048_576
    """The same for all streams together."""
    growth: int = 8
    """The multiple of these to which windows grow while what comes is taken."""
    max_list_bytes: int = 65_536
    """Of a header list, as SETTINGS_MAX_HEADER_LIST_SIZE counts it."""
    max_fields: int = 128
    turn_frames: int = 2**31
    """Frames that are handled in one call."""
