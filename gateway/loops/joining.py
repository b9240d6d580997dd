"""A start while the store is unavailable: from the last state on the disk, until the store can be read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from gateway.ingest.sealing_keys import SEALING_KEYS
from gateway.loops.periodic import Step
from gateway.state.base import StoreUnavailable
from gateway.state.last_state import LastState
from gateway.state.outage import StoreOutage
from gateway.state.store import StartStore, Store

log = logging.getLogger("turnout.store")

_USER = "the start"


class Joining:
    """Whether a process has read its store yet, and the work that remains until it has."""

    def __init__(
        self,
        store: Store,
        last_state: LastState | None,
        outage: StoreOutage,
        read_store: Callable[[], Awaitable[object]],
    ) -> None:
        """``read_store`` replaces what the last state said; it raises StoreUnavailable."""
        self._store = store
        self._last_state = last_state
        self._outage = outage
        self._read_store = read_store
        self._lock = asyncio.Lock()
        self.state_time: float | None = None
        """When the last state was written that this process serves; None once it has read the store."""

    async def begin(self) -> StartStore:
        """Open the store and return what to start from: the store, or the memory that holds the last state.

        Raises StoreUnavailable if there is neither.
        """
        try:
            await self._store.open()
            await self._store.secrets(SEALING_KEYS)  # a read-only replica can be opened, but not used
            return self._store
        except StoreUnavailable as error:
            memory = self._store.memory
            if self._last_state is None or memory is None:
                raise
            self.state_time = await asyncio.to_thread(self._last_state.read)
            if self.state_time is None:
                raise StoreUnavailable(
                    f"{error} There is no last state to start from in {self._last_state.path} either."
                ) from error
            self._outage.failed(_USER, error)
            log.warning(
                "STARTING WITHOUT THE STORE, from its last state of %s (%s). The configuration, allocations and "
                "rollouts of that time are served until the store is available",
                datetime.fromtimestamp(self.state_time, UTC).isoformat(timespec="seconds"),
                self._last_state.path,
            )
            return memory

    async def join(self) -> None:
        """Read the store if the start could not. Raises StoreUnavailable while it is away."""
        async with self._lock:
            if self.state_time is None:  # several loops wait for the lock
                return
            await self._store.open()
            await self._read_store()
            self.state_time = None
            self._outage.worked(_USER)
            log.warning("the store has been read; its state replaces the one that this process started from")

    def before(self, step: Step) -> Step:
        """``step``, once the store was read: it must not act on the store by an outdated state."""

        async def joined() -> None:
            await self.join()
            await step()

        return joined
