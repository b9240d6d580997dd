"""The background tasks of a process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

RECANCEL_S: Final = 1.0
"""Seconds after which a task that goes on is cancelled again."""

log = logging.getLogger("turnout")


class Tasks:
    """Keeps tasks until they end, logs those that fail, and cancels the rest at the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start ``work``."""
        task = self._loop.create_task(work)
        self.running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel what runs and wait for its end."""
        tasks = set(self.running)
        while tasks:
            for task in tasks:
                task.cancel()
            # Again: a step may swallow it. Seen with redis-py, in a stop right after the start.
            _, tasks = await asyncio.wait(tasks, timeout=RECANCEL_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a background task failed: %s", task.get_coro(), exc_info=task.exception())
