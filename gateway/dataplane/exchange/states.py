"""The states of a request; what they mean and what moves a request between them:
`gateway.dataplane.exchange.exchange`."""

from __future__ import annotations

from typing import Final

READING: Final = 0
QUEUED: Final = 1
CONNECTING: Final = 2
BACKOFF: Final = 3
WAITING: Final = 4
RELAYING: Final = 5
DONE: Final = 6
NEVER: Final = float("inf")
"""The deadline of what has none."""
