"""Failed attempts in the log: the first of each kind, then at most one line a minute."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final

log = logging.getLogger("turnout.dataplane")

INTERVAL_S: Final = 60.0


class FailureLog:
    """What clients are not told: which backend failed, where, and how."""

    def __init__(self) -> None:
        self._muted: dict[tuple[str, str], tuple[float, int]] = {}
        """By backend and error code: until when, and how many were left out."""

    def tell(self, backend: str, code: str, detail: str, request_id: bytes) -> None:
        """Logs a failed attempt unless one like it was logged within the last minute."""
        now = monotonic()
        until, left_out = self._muted.get((backend, code), (0.0, 0))
        if now < until:
            self._muted[backend, code] = (until, left_out + 1)
            return
        self._muted[backend, code] = (now + INTERVAL_S, 0)
        more = f"; {left_out} more like it since the last line" if left_out else ""
        request = request_id.decode("latin-1")
        log.warning(
            "backend %s: %s: %s (request %s)%s",
            backend,
            code,
            detail,
            request,
            more,
            extra={"request_id": request},
        )
