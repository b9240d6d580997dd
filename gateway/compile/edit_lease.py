"""The lease that lets one edit of the configuration at a time through, among all processes that share the store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from gateway.clock import Clock
from gateway.errors import TurnoutError
from gateway.state.base import StoreUnavailable
from gateway.state.store import LeaseStore

_LEASE: Final = "config-edit"
_LEASE_TTL_S: Final = 15.0
_PATIENCE: Final = 0.05, 400
"""Seconds between two tries for the lease, and how many: a little longer than a dead holder keeps it."""


@asynccontextmanager
async def edit_lease(store: LeaseStore, clock: Clock) -> AsyncIterator[None]:
    """No other edit, here or in another process that shares the store, while this is held.

    Raises TurnoutError (conflict) if another edit takes too long.
    """
    owner = os.urandom(8).hex()
    pause, tries = _PATIENCE
    for _ in range(tries):
        if await store.lease(_LEASE, owner, ttl=_LEASE_TTL_S, now=clock()) is not None:
            break
        await asyncio.sleep(pause)
    else:
        raise TurnoutError("conflict", "Another edit of the configuration is in progress; try again.")
    try:
        yield
    finally:
        with suppress(StoreUnavailable):  # the lease ends by itself, and the edit is made
            await store.release(_LEASE, owner)
