"""From the lines that HAProxy logs to the rows that all engines report, and the count of those that were lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Self

from pydantic import NonNegativeInt, TypeAdapter

from gateway.engines.haproxy.config import ROW, TEXT, TEXTS
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
_WELL: Final = "--"
_NO_SERVER: Final = "<NOSRV>"
_STATE: Final = TypeAdapter(dict[str, tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt]])
_TURN: Final = 2**32
"""HAProxy counts rows in 32 bits: after five days of 10,000 requests/s it begins at zero again."""
_MAX_WORKERS: Final = 32
"""Workers that are counted one by one; each reload starts one."""
_MAX_RETIRED: Final = 1024
"""Workers before them whose last row is remembered: of an older one, all rows before its next would count as lost."""


class Row(NamedTuple):
    """One request."""

    worker: str
    number: int | None
    """Of the worker's rows, from 1; None for the last ones of a worker that is being replaced."""
    text: str
    """As `gateway.engines.rows` reads it."""


def parsed(worker: str, number: int | None, line: str) -> Row | None:
    """A row of `gateway.engines.haproxy.config.ROW`; None for a line that says nothing of a request to a variant."""
    fixed, *texts = line.replace(SEPARATOR, " ").split(TEXT)
    fields = fixed.split(" ")
    if len(fields) != len(ROW) or len(texts) != len(TEXTS) or ":" not in fields[2]:
        return None
    request_id, unit = texts
    (
        _, decision, backend, served, status, state, retries, received, queued, connected, responded, total,
        bytes_in, bytes_out, server,
    ) = fields  # fmt: skip
    error = _BY_STATE.get(state, _BY_STATE.get(state[0], "")) if state != _WELL else ""
    if error == "backend_connect" and server == _NO_SERVER:
        error = "backend_unhealthy"
    before = ABSENT
    if ABSENT not in f"{received}{queued}{connected}":  # -1: the request did not come to this
        before = f"{int(received) + int(queued) + int(connected)}000"
    row = (
        decision,
        backend.partition(":")[0],
        served,
        "0" if status == "-1" else status,
        error or ABSENT,
        "1" if retries == "0" else str(1 + int(retries.lstrip("+"))),
        _microseconds(total),
        before,
        _microseconds(responded),
        bytes_in,
        bytes_out,
        server,
        request_id,
        unit,
    )
    return Row(worker, number, SEPARATOR.join(row))


def _microseconds(milliseconds: str) -> str:
    return ABSENT if milliseconds.startswith("-") else f"{milliseconds}000"


@dataclass(slots=True)
class Worker:
    """The rows of one process of a node. They come in order but for those of different threads."""

    delivered: int = 0
    """Rows that a gateway has accepted."""
    lost: int = 0
    """Rows up to ``settled`` that never came, and those that no gateway accepts."""
    settled: int = 0
    """Rows up to this number came in time, or not at all."""
    mark: int = 0
    """What ``done`` was when rows were settled before."""
    done: int = 0
    """The last number that was delivered, or that no gateway accepts."""
    numbers: set[int] = field(default_factory=set)
    """Of the rows after ``settled`` that came."""

    def whole(self, number: int) -> int:
        """``number`` with the turns that HAProxy's counter has made."""
        return number + _TURN * max(0, round((self.settled - number) / _TURN))

    def missing(self, until: int) -> int:
        """Rows after ``settled``, up to ``until``, that did not come yet."""
        return until - self.settled - sum(number <= until for number in self.numbers)

    def settle(self) -> None:
        """Count what is missing of the rows that have had time to come since the last call."""
        self.lost += self.missing(self.mark)
        self.numbers = {number for number in self.numbers if number > self.mark}
        self.settled, self.mark = self.mark, self.done


class Ledger:
    """What a node has delivered and lost, over all its workers."""

    def __init__(self, state: Mapping[str, tuple[int, int, int]] | None = None) -> None:
        """``state``: what `state` returned before the agent ended. Rows that it held then are taken again."""
        self.workers = {
            name: Worker(delivered, lost, done, done, done)
            for name, (delivered, lost, done) in (state or {}).items()
        }
        self._retired: dict[str, Worker] = {}
        """Workers that are no longer counted by themselves, without their counts: a client may hold one for days."""

    @classmethod
    def restored(cls, path: Path) -> Self:
        """As `state` was written to ``path``; empty if it was not, or is of another form."""
        try:
            return cls(_STATE.validate_json(path.read_bytes()))
        except (OSError, ValueError):
            return cls()

    def whole(self, name: str, number: int) -> int:
        """Of a worker's row, the number that the worker logged with the turns of its counter."""
        worker = self.workers.get(name) or self._retired.get(name)
        return number if worker is None else worker.whole(number)

    def take(self, name: str, number: int) -> bool:
        """Note a row that came; False if it came before."""
        worker = self.workers.get(name)
        if worker is None:
            if len(self.workers) > _MAX_WORKERS:
                self._retire(next(name for name in self.workers if name))
            worker = self.workers[name] = self._retired.pop(name, Worker())
        if number <= worker.settled or number in worker.numbers:
            return False
        worker.numbers.add(number)
        return True

    def end(self, name: str, number: int) -> None:
        """Note the last number of a worker, all rows that could be taken having been delivered."""
        worker = self.workers.get(name)
        if worker is not None:
            worker.done = max(worker.done, worker.whole(number))

    def deliver(self, rows: Iterable[Row]) -> None:
        """Note that a gateway has accepted ``rows``."""
        for worker in self._done(rows):
            worker.delivered += 1

    def lose(self, rows: Iterable[Row]) -> None:
        """Note that no gateway will accept ``rows``."""
        for worker in self._done(rows):
            worker.lost += 1

    def _done(self, rows: Iterable[Row]) -> Iterator[Worker]:
        """The worker of each, or what stands for those that are gone."""
        for row in rows:
            worker = self.workers.get(row.worker)
            if worker is not None and row.number is not None:
                worker.done = max(worker.done, row.number)
            yield worker or self.workers.setdefault("", Worker())

    def _retire(self, name: str) -> None:
        worker, gone = self.workers.pop(name), self.workers.setdefault("", Worker())
        gone.delivered += worker.delivered
        gone.lost += worker.lost + worker.missing(worker.done)
        done, waiting = worker.done, {number for number in worker.numbers if number > worker.done}
        if len(self._retired) >= _MAX_RETIRED:
            del self._retired[next(iter(self._retired))]
        self._retired[name] = Worker(settled=done, mark=done, done=done, numbers=waiting)

    def settle(self) -> tuple[int, int]:
        """Rows delivered and lost in all, without those of the last seconds."""
        for worker in self.workers.values():
            worker.settle()
        workers = self.workers.values()
        return sum(worker.delivered for worker in workers), sum(worker.lost for worker in workers)

    def state(self) -> dict[str, tuple[int, int, int]]:
        """By worker: rows delivered, rows lost, and the last number of these."""
        return {
            name: (worker.delivered, worker.lost + worker.missing(worker.done), worker.done)
            for name, worker in self.workers.items()
        }
