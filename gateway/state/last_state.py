"""The last state of a shared store, on the local disk: a process that starts while the store is unavailable serves it.

The file holds the key that seals decision ids and the configuration, so only its owner may read it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from hashlib import blake2b
from pathlib import Path
from typing import Final

from gateway.clock import Clock
from gateway.state.memory import Memory

log = logging.getLogger("turnout.store")

LAST_STATE_S: Final = 1.0
"""Seconds between two looks whether there is something to write."""
_KINDS: Final = frozenset({"route"})
"""Documents that a start needs: the states of rollouts, guardrails and stop rules."""


class LastState:
    """The file of one store in a directory; processes of one machine share it."""

    def __init__(self, directory: Path, store: str, memory: Memory, clock: Clock) -> None:
        """``store``: the address without credentials; each store has a file of its own."""
        name = blake2b(store.encode(), digest_size=8).hexdigest()
        self.path = directory / f"last-state-{name}.json"
        self._store = store
        self._memory = memory
        self._clock = clock
        self._written = 0
        self._failure = ""

    def read(self) -> float | None:
        """Put the file's contents into the memory; return when they were written (seconds since the epoch).

        None if there is no file, or (with a line in the log) it can't be read.
        """
        try:
            data = json.loads(self.path.read_bytes())
            if data["store"] != self._store:
                raise ValueError(f"it is of the store {data['store']}")
            time = float(data["time"])
            Memory().unpack(data)  # first, so that a part of a bad file is not taken for what the store had
            self._memory.unpack(data)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            log.error("the last state in %s can't be used: %s: %s", self.path, type(error).__name__, error)
            return None
        self._written = self._memory.version
        return time

    async def step(self) -> None:
        """Write the memory if it has changed. A failure is logged, and tried again at the next change."""
        version = self._memory.version
        if version == self._written:
            return
        data = {"store": self._store, "time": self._clock(), **self._memory.packed(_KINDS)}
        try:
            await asyncio.to_thread(self._write, data)
            self._failure = ""
        except OSError as error:
            if str(error) != self._failure:
                self._failure = str(error)
                log.warning(
                    "the last state can't be written to %s: %s. A start while the store is unavailable would fail; "
                    "name a writable directory under 'record.spool'",
                    self.path,
                    error,
                )
        self._written = version  # also after a failure: the next change tries again

    def _write(self, data: dict[str, object]) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not the process id alone: containers that share a volume have the same.
        new = self.path.with_suffix(f".{os.getpid()}-{os.urandom(4).hex()}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(new, flags, 0o600), "w", encoding="utf-8") as file:
                json.dump(data, file, separators=(",", ":"))
                file.flush()
                # Before the rename: after a power cut the name must not lead to an empty file.
                os.fsync(file.fileno())
            new.replace(self.path)
        finally:
            new.unlink(missing_ok=True)
