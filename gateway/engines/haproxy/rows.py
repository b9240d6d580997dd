"""From the lines that HAProxy logs to the rows that all engines report, and the count of those that were lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway.engines.rows import ABSENT, SEPARATOR

_BY_STATE: Final = {
    "SC": "backend_connect",
    "sC": "backend_connect",
    "sQ": "backend_overloaded",
    "SQ": "backend_unhealthy",
    "PR": "backend_overloaded",
    "SH": "backend_reset",
    "sH": "backend_first_byte_timeout",
    "PH": "backend_protocol",
    "SD": "backend_truncated",
    "SL": "backend_truncated",
    "sD": "backend_idle_timeout",
    "sL": "backend_idle_timeout",
    "PD": "backend_truncated",
    "D": "backend_unhealthy",
    "R": "backend_overloaded",
    "I": "backend_reset",
    "K": "backend_reset",
    "C": "client_left",
    "c": "client_left",
}
"""HAProxy's state at the end of a request: both letters, or the first alone → the gateway's error."""
_REORDERED: Final = 64
"""How many rows of several threads may be out of order."""
_FORGOTTEN: Final = 10_000
"""A row that is this far behind is another worker's, to which the system gave the same process id."""
_MAX_WORKERS: Final = 32
"""Workers that are counted one by one; each reload starts one."""


class Row(NamedTuple):
    """One request."""

    worker: str
    number: int
    """Of the worker's rows, from 1."""
    text: str
    """As `gateway.engines.rows` reads it."""


def parsed(line: str) -> Row | None:
    """A row of `gateway.engines.haproxy.config.ROW`; None for a line that says nothing of a request."""
    fields = line.split(" ")
    if len(fields) != 18 or not fields[1].isdigit() or fields[2] == ABSENT:
        return None
    (
        worker, number, decision, route, served, status, state, retries, received, queued, connected, responded, total,
        bytes_in, bytes_out, address, request_id, unit,
    ) = fields  # fmt: skip
    error = _BY_STATE.get(state, _BY_STATE.get(state[0], ""))
    if error == "backend_connect" and address.startswith(ABSENT):
        error = "backend_unhealthy"
    before = [int(part) for part in (received, queued, connected)]
    row = (
        decision,
        route,
        served,
        "0" if status == "-1" else status,
        error or ABSENT,
        str(1 + int(retries.lstrip("+"))),
        _microseconds(int(total)),
        _microseconds(sum(before)) if min(before) >= 0 else ABSENT,
        _microseconds(int(responded)),
        bytes_in,
        bytes_out,
        address,
        _text(request_id),
        _text(unit),
    )
    return Row(worker, int(number), SEPARATOR.join(row))


def _microseconds(milliseconds: int) -> str:
    return ABSENT if milliseconds < 0 else str(1000 * milliseconds)


def _text(hexadecimal: str) -> str:
    """A field as it came, a character for each byte."""
    return bytes.fromhex(hexadecimal).decode("latin-1") if hexadecimal != ABSENT else ABSENT


@dataclass(slots=True)
class Worker:
    """The rows of one process of a node."""

    delivered: int = 0
    """Rows that a gateway has accepted."""
    read: int = 0
    """Rows up to ``settled`` that were read."""
    later: int = 0
    """Rows after it."""
    settled: int = 0
    """Rows up to this number are there, or lost."""
    last: int = 0

    def settle(self) -> int:
        """Rows lost of those that have had time to arrive since the last call."""
        lost = self.settled - self.read
        self.settled, self.read, self.later = self.last, self.read + self.later, 0
        return max(0, lost)


class Ledger:
    """What a node has delivered and lost, over all its workers."""

    def __init__(self, state: dict[str, list[int]] | None = None) -> None:
        """``state``: what `state` returned before the agent ended; what was not delivered by then is lost."""
        self.workers = {
            name: Worker(delivered, delivered, 0, last, last)
            for name, (delivered, last) in (state or {}).items()
        }

    def take(self, row: Row) -> None:
        """Note a row that was read."""
        if row.worker not in self.workers and len(self.workers) > _MAX_WORKERS:
            self._retire(next(name for name in self.workers if name))
        worker = self.workers.setdefault(row.worker, Worker())
        if row.number + _FORGOTTEN < worker.last or (row.number == 1 and worker.last > _REORDERED):
            self._retire(row.worker)
            worker = self.workers[row.worker] = Worker()
        if row.number > worker.settled:
            worker.later += 1
        else:
            worker.read += 1
        worker.last = max(worker.last, row.number)

    def deliver(self, rows: list[Row]) -> None:
        """Note that a gateway has accepted ``rows``."""
        for row in rows:
            self.workers[row.worker].delivered += 1

    def lose(self, rows: list[Row]) -> None:
        """Note that no gateway will accept ``rows``."""
        for row in rows:
            self.workers[row.worker].read -= 1

    def _retire(self, name: str) -> None:
        worker = self.workers.pop(name)
        gone = self.workers.setdefault("", Worker())
        gone.delivered += worker.delivered
        gone.read += worker.read + worker.later
        gone.last += worker.last
        gone.settled = gone.last

    def settle(self) -> tuple[int, int]:
        """Rows delivered and lost in all, without those of the last seconds."""
        lost = sum(worker.settle() for worker in self.workers.values())
        return sum(worker.delivered for worker in self.workers.values()), lost

    def state(self) -> dict[str, list[int]]:
        """By worker: rows delivered, and the last number."""
        return {name: [worker.delivered, worker.last] for name, worker in self.workers.items()}
