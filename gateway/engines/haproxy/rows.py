"""From the lines that HAProxy logs to the rows that all engines report, and the count of those that were lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Self

from pydantic import NonNegativeInt, TypeAdapter

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
_START: Final = 64
"""A worker that has logged more rows than this does not log its first one."""
_FORGOTTEN: Final = 100_000
"""A row that is further behind than a ring can hold is another worker's, with the same process id."""
_STATE: Final = TypeAdapter(dict[str, tuple[NonNegativeInt, NonNegativeInt]])
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
    """The rows of one process of a node. Some come twice, by the ring and by a datagram."""

    delivered: int = 0
    """Rows that a gateway has accepted."""
    lost: int = 0
    """Rows up to ``settled`` that never came, and those that no gateway accepts."""
    settled: int = 0
    """Rows up to this number came in time, or not at all."""
    mark: int = 0
    """The last number when rows were settled before."""
    last: int = 0
    numbers: set[int] = field(default_factory=set)
    """Of the rows after ``settled`` that came."""

    @property
    def missing(self) -> int:
        """Rows after ``settled`` that did not come yet."""
        return self.last - self.settled - len(self.numbers)

    def settle(self) -> None:
        """Count what is missing of the rows that have had time to come since the last call."""
        later = {number for number in self.numbers if number > self.mark}
        self.lost += self.mark - self.settled - (len(self.numbers) - len(later))
        self.settled, self.mark, self.numbers = self.mark, self.last, later


class Ledger:
    """What a node has delivered and lost, over all its workers."""

    def __init__(self, state: Mapping[str, tuple[int, int]] | None = None) -> None:
        """``state``: what `state` returned before the agent ended; what was not delivered by then is lost."""
        self.workers = {
            name: Worker(delivered, last - delivered, last, last, last)
            for name, (delivered, last) in (state or {}).items()
        }

    @classmethod
    def restored(cls, path: Path) -> Self:
        """As `state` was written to ``path``; empty if it was not, or is of another form."""
        try:
            return cls(_STATE.validate_json(path.read_bytes()))
        except (OSError, ValueError):
            return cls()

    def take(self, name: str, number: int) -> bool:
        """Note a row that came; False if it came before."""
        worker = self.workers.get(name)
        if worker is not None and (
            number + _FORGOTTEN < worker.settled or (number == 1 and worker.settled > _START)
        ):
            self._retire(name)
            worker = None
        if worker is None:
            if len(self.workers) > _MAX_WORKERS:
                self._retire(next(name for name in self.workers if name))
            worker = self.workers[name] = Worker()
        if number <= worker.settled or number in worker.numbers:
            return False
        worker.numbers.add(number)
        worker.last = max(worker.last, number)
        return True

    def deliver(self, rows: list[Row]) -> None:
        """Note that a gateway has accepted ``rows``."""
        for row in rows:
            self.workers[row.worker if row.worker in self.workers else ""].delivered += 1

    def lose(self, rows: list[Row]) -> None:
        """Note that no gateway will accept ``rows``."""
        for row in rows:
            self.workers[row.worker if row.worker in self.workers else ""].lost += 1

    def _retire(self, name: str) -> None:
        worker, gone = self.workers.pop(name), self.workers.setdefault("", Worker())
        gone.delivered += worker.delivered
        gone.lost += worker.lost + worker.missing
        gone.last = gone.settled = gone.mark = gone.last + worker.last

    def settle(self) -> tuple[int, int]:
        """Rows delivered and lost in all, without those of the last seconds."""
        for worker in self.workers.values():
            worker.settle()
        workers = self.workers.values()
        return sum(worker.delivered for worker in workers), sum(worker.lost for worker in workers)

    def state(self) -> dict[str, tuple[int, int]]:
        """By worker: rows delivered, and the last number."""
        return {name: (worker.delivered, worker.last) for name, worker in self.workers.items()}
