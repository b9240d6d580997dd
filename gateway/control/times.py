"""Points in time as a caller may write them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def moment(value: Any) -> float:
    """Seconds since the epoch, from a number or from RFC 3339 text (UTC where it names no zone)."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = _written(str(value))
    if not math.isfinite(seconds) or not 0 <= seconds < 1e11:
        raise ValueError("this is no point in time; write seconds since the epoch or 2026-01-31T12:00:00Z")
    return seconds


def _written(text: str) -> float:
    try:
        # A '+' in a query string arrives as a space.
        found = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text.strip())
    except ValueError:
        return math.nan
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


Moment = Annotated[
    float,
    BeforeValidator(moment),
    Field(description="Seconds since the epoch, or RFC 3339 text such as 2026-01-31T12:00:00Z."),
]
