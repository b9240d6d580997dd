"""The states of a request; what they mean and what moves a request between them: `gateway.dataplane.exchange`."""

from __future__ import annotations

from typing import Final

READING, QUEUED, CONNECTING, BACKOFF, WAITING, RELAYING, DONE = range(7)
NEVER: Final = float("inf")
"""The deadline of what has none."""
