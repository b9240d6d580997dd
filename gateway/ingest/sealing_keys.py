"""The keys of decision ids as the store has them, read again for an id whose key is not known."""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import Final

from gateway.record.decision_id import BadDecisionId, Opened, Sealer
from gateway.state.base import StoreUnavailable
from gateway.state.store import DocumentStore

SEALING_KEYS: Final = "decision-id"
"""Name of the sealing keys in the store."""
RELOAD_INTERVAL_S: Final = 1.0
STARTING_S: Final = 10.0
"""Seconds of a process in which ids wait for their keys. Replicas that went on write these back into a store that was
emptied, as soon as they notice; one that has just started does not have them."""


class SealingKeys:
    """Renews the keys of a sealer, at most once in `RELOAD_INTERVAL_S`."""

    def __init__(self, store: DocumentStore, sealer: Sealer, starting_s: float) -> None:
        """``starting_s``: seconds from now in which other replicas may still write keys back."""
        self._store = store
        self._sealer = sealer
        self._started = monotonic() + starting_s
        self._read = -inf
        """`monotonic` when the last read of the keys began that has ended."""
        self._failure: StoreUnavailable | None = None
        """Why that read failed."""
        self._reading = asyncio.Lock()

    async def open(self, identity: str, since: float) -> Opened:
        """Open a decision id with the keys of ``since`` (`monotonic`) or later.

        Raises:
            BadDecisionId: The id is not one of this gateway's.
            StoreUnavailable: Its key is not known here, and could not be looked up.
        """
        while True:
            try:
                return self._sealer.open(identity)
            except BadDecisionId as error:
                if error.code != "unknown_key":
                    raise
            if self._read >= since:
                if self._failure is not None:
                    raise StoreUnavailable(*self._failure.args) from self._failure
                if monotonic() >= self._started:
                    raise BadDecisionId("unknown_key")
                since = monotonic()
            await self._renew(since)

    async def _renew(self, since: float) -> None:
        """Read the keys if that was before ``since``."""
        async with self._reading:
            # Another caller may have read them while this one waited for the lock.
            if self._read < since:
                await asyncio.sleep(self._read + RELOAD_INTERVAL_S - monotonic())
                # Before the read, which may miss keys that are written while it runs.
                begun = monotonic()
                try:
                    self._sealer.renew(await self._store.secrets(SEALING_KEYS))
                    self._failure = None
                except StoreUnavailable as error:
                    self._failure = error
                self._read = begun
