"""Failed attempts in the log."""

from __future__ import annotations

import logging

from gateway.telemetry.repeats import Repeats

log = logging.getLogger("turnout.dataplane")


class FailureLog:
    """What clients are not told: which backend failed, where, and how."""

    def __init__(self) -> None:
        self._repeats = Repeats()

    def tell(self, backend: str, code: str, detail: str, request_id: bytes) -> None:
        """Logs a failed attempt unless one like it was logged within the last minute."""
        more = self._repeats.suffix((backend, code))
        if more is None:
            return
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
