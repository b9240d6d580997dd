"""Times and numbers as they are typed on the command line."""

from __future__ import annotations

import argparse
import math
from datetime import UTC, datetime

from gateway.clock import wall
from gateway.config.units import duration


def moment(text: str) -> float:
    """Seconds since the epoch of ``1h`` (ago), ``2026-11-28``, ``2026-11-28T16:00`` (UTC) or a number.

    Raises argparse.ArgumentTypeError.
    """
    try:
        seconds = float(text)
        if math.isfinite(seconds):  # no time is after "nan": a file would be empty, and look like a success
            return seconds
    except ValueError:
        pass
    try:
        return wall() - duration(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time; write 1h (ago), 2026-11-28T16:00 (UTC) or seconds since the epoch"
        ) from None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def count(text: str) -> int:
    """A whole number from 1 on. Raises argparse.ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 16 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def positive(text: str) -> float:
    """A finite number above 0. Raises argparse.ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def clock_time(seconds: float) -> str:
    """Local date and time, for people."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
