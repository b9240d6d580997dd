"""Takes the rows that HAProxy logs, and delivers each until a gateway accepts it.

HAProxy's ring holds rows while this agent does not read, but ends with the first signal to stop or reload; datagrams
bring those of the requests that an old worker still serves, and of all that may outlast a signal. While no gateway can
be reached, rows wait here, then in the ring. What does not fit is lost, and counted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from typing import Final

import httpx

from gateway.engines.counters import COUNTERS_PATH
from gateway.engines.counters import export as export_counters
from gateway.engines.following import RETRY_S, reason, write
from gateway.engines.haproxy.bootstrap import Node
from gateway.engines.haproxy.config import DATAGRAM_SOCKET, ROWS_SOCKET
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
        self._readers: set[_Reader] = set()
        self._reached = True
        self._kept = True

    async def run(self) -> None:
        """Serve until cancelled."""
        ring, datagrams = self._node.folder / ROWS_SOCKET, self._node.folder / DATAGRAM_SOCKET
        ring.unlink(missing_ok=True)
        datagrams.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(
            lambda: _Datagrams(self), local_addr=str(datagrams), family=socket.AF_UNIX
        )
        server = await loop.create_unix_server(lambda: _Reader(self), ring)
        for path in (ring, datagrams):
            path.chmod(0o600)
        async with server, asyncio.TaskGroup() as group:
            group.create_task(self._report())
            while True:
                await self._send()

    def take(self, line: str) -> None:
        """Take a line that HAProxy logged, unless it came before."""
        worker, _, rest = line.partition(" ")
        number, _, _ = rest.partition(" ")
        if number.isdigit() and self._ledger.take(worker, int(number)):
            row = parsed(line)
            if row is not None:
                self._waiting.append(row)
                self._held += len(row.text)

    def opened(self, reader: _Reader) -> None:
        """Note a connection of the node."""
        self._readers.add(reader)

    def closed(self, reader: _Reader) -> None:
        """Note that a connection has ended."""
        self._readers.discard(reader)

    @property
    def full(self) -> bool:
        """Whether no more rows are to be read."""
        return self._held >= MAX_HELD

    async def _send(self) -> None:
        rows = self._batch()
        if len(rows) < MAX_ROWS:
            await asyncio.sleep(FLUSH_S)
            rows = self._batch()
        if not rows:
            return
        try:
            body = export(self._node.name, (row.text for row in rows))
            response = await self._control.post(ROWS_PATH, content=body)
            if response.status_code not in _REFUSED:
                response.raise_for_status()
        except httpx.HTTPError as error:
            if self._reached:
                log.warning("rows wait: %s", reason(error))
            self._reached = False
            await asyncio.sleep(RETRY_S)
            return
        self._reached = True
        del self._waiting[: len(rows)]
        self._held -= sum(len(row.text) for row in rows)
        if response.is_success:
            self._ledger.deliver(rows)
        else:
            self._ledger.lose(rows)
            log.warning("the gateway refuses %d rows, they are lost: %s", len(rows), response.text[:200])
        self._keep()
        for reader in self._readers:
            reader.resume()

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


class _Reader(asyncio.Protocol):
    """A connection of the ring: each row after its length in digits and a space."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._delivery.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._delivery.closed(self)

    def data_received(self, data: bytes) -> None:
        rest, place = self._rest + data, 0
        while (space := rest.find(b" ", place, place + 8)) >= 0:
            end = space + 1 + int(rest[place:space])
            if end > len(rest):
                break
            self._delivery.take(rest[space + 1 : end].decode("latin-1"))
            place = end
        self._rest = rest[place:]
        if self._delivery.full and self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on if there is place."""
        if not self._delivery.full and self._transport is not None:
            self._transport.resume_reading()


class _Datagrams(asyncio.DatagramProtocol):
    """Each a row; those that come while there is no place wait in the ring."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self._delivery.full:
            self._delivery.take(data.decode("latin-1").rstrip("\n"))
