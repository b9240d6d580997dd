"""Connections that have nothing to say: the memory of each, and what they do to the others' latency."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import traffic
from benchmarks.bench import Bench, Options, bench, rss
from benchmarks.load.answers import complete
from benchmarks.result import Column, Result, Section
from benchmarks.rounds import Sample, interleave

CONNECTIONS = 5000
_BUSY = 8
_SETTLE_SECONDS = 1.0

_COLUMNS = (
    Column("kB each, silent", "silent_kb", 1, 1),
    Column("kB each, after a request", "used_kb", 1, 1),
    Column("still open", "open", 1, 0),
    Column("p99 ms without", "p99_us", 1e-3, 2),
    Column("p99 ms with them", "p99_beside_us", 1e-3, 2),
)


def run(options: Options) -> Result:
    """One round of each peer: memory does not vary as times do."""
    with bench(options) as made:
        names = [name for name in made.names if name != "direct"]
        requests = made.requests(traffic.INFER, traffic.INFER_BODY)
        series = interleave(names, 1, lambda name: _one(made, name, requests), title="idle", before=made.only)
        title = f"{CONNECTIONS:,} idle connections".replace(",", " ")
        return Result("idle", options, [Section(title, _COLUMNS, series)], made.missing)


def _one(made: Bench, name: str, requests: Path) -> Sample:
    running = made.running[name]
    alone = made.closed(name, requests, _BUSY)
    start = rss(running)
    with _connections(running.port) as opened:
        time.sleep(_SETTLE_SECONDS)
        silent = rss(running)
        for number, each in enumerate(opened):
            _ask(each, number)
        time.sleep(_SETTLE_SECONDS)
        used = rss(running)
        beside = made.closed(name, requests, _BUSY)
        alive = sum(1 for each in opened if _is_open(each))
    return {
        "silent_kb": (silent - start) / CONNECTIONS / 1e3,
        "used_kb": (used - start) / CONNECTIONS / 1e3,
        "open": alive,
        "p99_us": alone["p99_us"],
        "p99_beside_us": beside["p99_us"],
        "errors": alone["errors"] + beside["errors"],
    }


@contextmanager
def _connections(port: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(CONNECTIONS)
        ]


def _ask(each: socket.socket, number: int) -> None:
    each.sendall(traffic.request(number=number))
    data = b""
    while complete(data) is None:
        piece = each.recv(65536)
        if not piece:
            raise RuntimeError(f"connection {number} was closed instead of answered")
        data += piece


def _is_open(each: socket.socket) -> bool:
    each.setblocking(False)
    try:
        return each.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
