"""What is traced, and who delivers it, by the configuration in force."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter

from gateway.clock import Chance, Clock
from gateway.config.service import TracesConfig
from gateway.telemetry.tracing.exporter import Exporter
from gateway.telemetry.tracing.sampling import Tracing

log = logging.getLogger("turnout.traces")


class Traces:
    """The exporter of one process. It, and what waits in it, stay as long as their settings do."""

    def __init__(self, *, chance: Chance, wall: Clock) -> None:
        self.counts: Counter[str] = Counter()
        """Spans: offered | exported | rejected | failed | dropped."""
        self.exporter: Exporter | None = None
        self._chance = chance
        self._wall = wall
        self._tasks: dict[Exporter, asyncio.Task[None]] = {}
        """What each exporter is at: delivering, or its end."""

    def prepare(self, settings: TracesConfig | None) -> tuple[Exporter | None, Tracing | None]:
        """What delivers spans with ``settings``, and what the snapshot gets; changes nothing."""
        if settings is None:
            return None, None
        exporter = self.exporter
        if exporter is None or exporter.settings != settings:
            exporter = Exporter(settings, counts=self.counts, chance=self._chance)
        return exporter, Tracing(
            share=settings.sample,
            follow=settings.parent == "follow",
            propagate=settings.propagate,
            chance=self._chance,
            entropy=os.urandom,
            wall=self._wall,
            offer=exporter.offer,
        )

    def take(self, exporter: Exporter | None) -> None:
        """Puts in force what was prepared; an exporter with other settings delivers what it has, and ends."""
        if exporter is self.exporter:
            return
        if self.exporter is not None:
            self._retire(self.exporter)
        self.exporter = exporter
        if exporter is not None:
            running = asyncio.get_running_loop().create_task(exporter.run())
            running.add_done_callback(_tell)
            self._tasks[exporter] = running

    def _retire(self, exporter: Exporter) -> None:
        running = self._tasks.pop(exporter)
        running.cancel()
        ending = asyncio.get_running_loop().create_task(self._end(exporter, running))
        self._tasks[exporter] = ending
        ending.add_done_callback(lambda _: self._tasks.pop(exporter, None))

    async def _end(self, exporter: Exporter, running: asyncio.Task[None]) -> None:
        await asyncio.gather(running, return_exceptions=True)
        await exporter.close()

    async def close(self) -> None:
        """Delivers what waits, within the time that `Exporter.close` allows."""
        if self.exporter is not None:
            self._retire(self.exporter)
            self.exporter = None
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("the export of traces ended unexpectedly; the gateway continues", exc_info=task.exception())
