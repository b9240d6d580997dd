"""Processes that start together on one file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from gateway.state.sqlite.connect import connect, keep_private
from gateway.state.sqlite.schema import migrate

STARTERS = 4


def test_those_that_meet_on_a_new_file_wait_for_one_another(tmp_path: Path) -> None:
    """SQLite lets none wait that turns on the write-ahead log: a worker ended, and was started again after 2 s."""
    together = Barrier(STARTERS)

    def start(name: str) -> None:
        path = tmp_path / name
        keep_private(path)
        together.wait(60)
        connection = connect(path)
        migrate(connection)
        connection.close()

    with ThreadPoolExecutor(STARTERS) as pool:
        for number in range(25):
            list(pool.map(start, [f"{number}.db"] * STARTERS))
