"""Lines of the log that would repeat themselves: the first of each kind, then at most one a minute."""

from __future__ import annotations

from time import monotonic
from typing import Final

INTERVAL_S: Final = 60.0
MAX_KINDS: Final = 1000
"""More are forgotten together, so that a line may come before its time."""


class Repeats:
    """What was said lately, and how often it was left out since."""

    def __init__(self) -> None:
        self._muted: dict[tuple[str, str], tuple[float, int]] = {}
        """By kind: until when, and how many were left out."""

    def suffix(self, kind: tuple[str, str]) -> str | None:
        """Return what to append to a line of this kind, which is then taken as said; None: do not say it now."""
        now = monotonic()
        until, left_out = self._muted.get(kind, (0.0, 0))
        if now < until:
            self._muted[kind] = (until, left_out + 1)
            return None
        if len(self._muted) >= MAX_KINDS:
            self._muted.clear()
        self._muted[kind] = (now + INTERVAL_S, 0)
        return f"; {left_out} more like it since the last line" if left_out else ""
