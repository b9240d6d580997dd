"""Takes the rows that HAProxy logs, and delivers each until a gateway accepts it.

While no gateway can be reached, rows wait here, then in HAProxy's ring. What does not fit is lost, and counted.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import Final

import httpx

from gateway.engines.counters import COUNTERS_PATH
from gateway.engines.counters import export as export_counters
from gateway.engines.following import RETRY_S, reason, write
from gateway.engines.haproxy.bootstrap import Node
from gateway.engines.haproxy.rows import Ledger, Row, parsed
from gateway.engines.otlp import export
from gateway.engines.rows import ROWS_PATH

log = logging.getLogger("turnout.agent")

MAX_ROWS: Final = 2000
"""Rows of one export."""
MAX_CHARACTERS: Final = 500_000
"""Of the rows of one export, but for one row alone: the gateway limits a body."""
MAX_HELD: Final = 32 * 1024 * 1024
"""Characters of the rows that wait here; above it, those that follow wait in HAProxy's ring."""
FLUSH_S: Final = 0.25
LAST_S: Final = 5.0
"""For the rows that are held when the agent ends."""
SETTLE_S: Final = 5.0
"""Between two reports of the counters, in which rows that are out of order arrive."""
_STATE: Final = "rows.json"
_REFUSED: Final = (413, 422)
"""Statuses of an export that no gateway accepts when it is repeated."""


class Delivery:
    """The rows of one node."""

    def __init__(self, node: Node, control: httpx.AsyncClient) -> None:
        self._node = node
        self._control = control
        self._state = node.folder / _STATE
        self._ledger = Ledger.restored(self._state)
        self._waiting: list[Row] = []
        self._held = 0
        self._reached = True
        self._kept = True
        self.room = asyncio.Event()
        """Set while rows may be taken."""
        self.room.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._report())
                while True:
                    await self._serve()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_S):
                    while self._waiting and await self._send(self._batch()):
                        pass

    def take(self, worker: str, line: str) -> None:
        """Take a line that a worker logged, unless it came before."""
        text, _, _ = line.partition(" ")
        number = self._ledger.whole(worker, int(text)) if text.isdecimal() else None
        if number is not None and not self._ledger.take(worker, number):
            return
        row = parsed(worker, number, line)
        if row is None:
            if number is not None:
                self.end(worker, number)  # else the numbers of malformed requests would pile up
        else:
            self._waiting.append(row)
            self._held += len(row.text)
            if self._held >= MAX_HELD:
                self.room.clear()

    def end(self, worker: str, number: int) -> None:
        """Note the number of a worker's last row, all that its ring held having been taken."""
        if not self._waiting:
            self._ledger.end(worker, number)

    async def _serve(self) -> None:
        rows = self._batch()
        if len(rows) < MAX_ROWS:
            await asyncio.sleep(FLUSH_S)
            rows = self._batch()
        if rows and not await self._send(rows):
            await asyncio.sleep(RETRY_S)

    async def _send(self, rows: list[Row]) -> bool:
        """Send the first of those that wait; False if no gateway can be reached."""
        try:
            body = export(self._node.name, (row.text for row in rows))
            response = await self._control.post(ROWS_PATH, content=body)
            if response.status_code not in _REFUSED:
                response.raise_for_status()
        except httpx.HTTPError as error:
            if self._reached:
                log.warning("rows wait: %s", reason(error))
            self._reached = False
            return False
        self._reached = True
        del self._waiting[: len(rows)]
        self._held -= sum(len(row.text) for row in rows)
        if response.is_success:
            self._ledger.deliver(rows)
        else:
            self._ledger.lose(rows)
            log.warning("the gateway refuses %d rows, they are lost: %s", len(rows), response.text[:200])
        self._keep()
        if self._held < MAX_HELD:
            self.room.set()
        return True

    def _keep(self) -> None:
        """Note on the disk what was delivered, for the next start's count of lost rows."""
        try:
            write({self._state: json.dumps(self._ledger.state()).encode()})
            self._kept = True
        except OSError as error:
            if self._kept:
                log.warning("rows that are lost at the agent's next start will not be counted: %s", error)
            self._kept = False

    def _batch(self) -> list[Row]:
        rows, room = self._waiting[:MAX_ROWS], MAX_CHARACTERS
        for place, row in enumerate(rows):
            room -= len(row.text)
            if room < 0:
                # One at least: a long one would hold up all that follow without end.
                return rows[: max(1, place)]
        return rows

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_S)
            body = export_counters(*self._ledger.settle())
            try:
                await self._control.post(COUNTERS_PATH, content=body)
            except httpx.HTTPError:
                continue  # the next report says the same and more
