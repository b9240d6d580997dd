"""Times as a client may write them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def parse_timestamp(value: Any) -> float:
    """Return seconds since the epoch, from a number or RFC 3339 text (UTC if it names no zone). Raises ValueError."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = _from_text(str(value))
    if not math.isfinite(seconds) or not 0 <= seconds < 1e11:
        raise ValueError("this is not a time; write seconds since the epoch or 2026-01-31T12:00:00Z")
    return seconds


def _from_text(text: str) -> float:
    try:
        # A '+' in a query string arrives as a space.
        parsed = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text.strip())
    except ValueError:
        return math.nan
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


Timestamp = Annotated[
    float,
    BeforeValidator(parse_timestamp),
    Field(description="Seconds since the epoch, or RFC 3339 text such as 2026-01-31T12:00:00Z."),
]
