"""Moments as they are typed: a time ago, a date, or seconds since the epoch."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from gateway.clock import wall
from gateway.config.units import duration


def moment(text: str) -> float:
    """Seconds since the epoch of ``1h`` (ago), ``2026-11-28``, ``2026-11-28T16:00`` (UTC) or a number.

    Raises argparse.ArgumentTypeError.
    """
    try:
        return float(text)
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


def clock_time(seconds: float) -> str:
    """Local date and time, for people."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
