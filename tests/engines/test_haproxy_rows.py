"""Lines of HAProxy become rows, and numbers that are missing become a count of lost rows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from gateway.engines.haproxy.bootstrap import Node
from gateway.engines.haproxy.deliver import Delivery
from gateway.engines.haproxy.rows import Ledger, Row, parsed
from gateway.engines.rows import SEPARATOR
from tests.support.http_server import Handler, HttpServer

LINE = "7 STAMP.1.UUID digits:v1 v1 200 -- 0 1 0 2 30 33 98 229 127.0.0.1:9101\rr1\rann\xff"


def test_a_line_becomes_a_row() -> None:
    row = parsed("41-1", 7, LINE)
    assert row is not None
    assert (row.worker, row.number) == ("41-1", 7)
    fields = ["STAMP.1.UUID", "digits", "v1", "200", "-", "1", "33000", "3000", "30000", "98", "229"]
    assert row.text.split(SEPARATOR) == [*fields, "127.0.0.1:9101", "r1", "ann\xff"]


@pytest.mark.parametrize(
    ("status", "state", "server", "error"),
    [
        ("503", "SC", "127.0.0.1:1", "backend_connect"),
        ("503", "SC", "<NOSRV>", "backend_unhealthy"),
        ("504", "sH", "127.0.0.1:1", "backend_first_byte_timeout"),
        ("503", "PR", "<NOSRV>", "backend_overloaded"),
        ("200", "SD", "127.0.0.1:1", "backend_truncated"),
        ("-1", "CH", "127.0.0.1:1", "client_left"),
    ],
)
def test_what_failed(status: str, state: str, server: str, error: str) -> None:
    line = LINE.replace("200 --", f"{status} {state}").replace("127.0.0.1:9101", server)
    row = parsed("41-1", 7, line.replace(" 0 1 0 2 30 33 ", " +1 1 0 -1 -1 33 "))
    assert row is not None
    fields = row.text.split(SEPARATOR)
    assert fields[3:9] == ["0" if status == "-1" else status, error, "2", "33000", "-", "-"]


def test_what_a_client_wrote_moves_no_field() -> None:
    row = parsed("41-1", 7, LINE.replace("r1", "a b\x1fc").replace("ann\xff", " digits:v2 - \x1f"))
    assert row is not None
    fields = row.text.split(SEPARATOR)
    assert (len(fields), fields[2], fields[12:]) == (14, "v1", ["a b c", " digits:v2 -  "])


@pytest.mark.parametrize(
    "line",
    ["", "3 events dropped", LINE.replace("digits:v1", "turnout"), f"{LINE}\r", LINE.replace(" v1", "  v1")],
)
def test_other_lines_are_none(line: str) -> None:
    assert parsed("41-1", 7, line) is None


def rows(worker: str, *numbers: int) -> list[Row]:
    return [Row(worker, number, "") for number in numbers]


def take(ledger: Ledger, worker: str, *numbers: int) -> list[bool]:
    new = [ledger.take(worker, number) for number in numbers]
    ledger.deliver([row for row, is_new in zip(rows(worker, *numbers), new, strict=True) if is_new])
    return new


def test_lost_rows_are_counted_once_those_behind_them_have_settled() -> None:
    ledger = Ledger()
    assert take(ledger, "a", 1, 2, 2, 5, 1) == [True, True, False, True, False]
    assert ledger.settle() == (3, 0)
    assert take(ledger, "a", 4, 6, 5) == [True, True, False]  # 4 comes late, from another thread
    assert ledger.settle() == (5, 1)
    take(ledger, "a", 8)
    assert take(ledger, "a", 3) == [False], "it is counted as lost already"
    assert [ledger.settle(), ledger.settle()] == [(6, 1), (6, 2)]
    assert ledger.take("a", 9)
    ledger.lose(rows("a", 9))
    assert [ledger.settle(), ledger.settle()][1] == (6, 3)


async def test_rows_are_taken_after_haproxy_s_counter_of_32_bits_begins_again(tmp_path: Path) -> None:
    last = 2**32 - 1
    (tmp_path / "rows.json").write_text(json.dumps({"41-1": (last - 2, 0, last - 2)}))
    async with httpx.AsyncClient() as control:
        delivery = Delivery(Node("edge", "h1", "t", "http://127.0.0.1:1", str(tmp_path), None), control)
    for number in (last - 1, last, 0, 2, last, 1, 1):
        delivery.take("41-1", LINE.replace("7", str(number), 1))
    rows, ledger = delivery._waiting, delivery._ledger
    assert [row.number for row in rows] == [last - 1, last, 2**32, 2**32 + 2, 2**32 + 1]
    ledger.deliver(rows)
    ledger.end("41-1", 3)
    assert [ledger.settle() for _ in range(2)][1] == (last + 3, 1)
    ledger.end("41-1", 4)
    assert [Ledger(ledger.state()).settle()] == [(last + 3, 2)]


def test_rows_are_lost_though_none_follows_them() -> None:
    ledger = Ledger()
    take(ledger, "a", 1, 2)
    ledger.end("a", 5)
    ledger.end("unknown", 5)
    assert [ledger.settle(), ledger.settle()] == [(2, 0), (2, 3)]
    assert Ledger(ledger.state()).settle() == (2, 3)


def test_what_an_agent_held_when_it_ended_is_taken_again() -> None:
    ledger = Ledger()
    take(ledger, "a", *range(1, 9), 10)
    for number in (11, 13):
        assert ledger.take("a", number)
        assert [ledger.settle(), ledger.settle()][1] == (9, 1), "what waits is neither delivered nor lost"
    again = Ledger(ledger.state())
    assert take(again, "a", *range(8, 15)) == [False] * 3 + [True] * 4
    assert [again.settle(), again.settle()][1] == (13, 1)


def test_rows_without_a_number_are_delivered() -> None:
    ledger = Ledger()
    take(ledger, "a", 1)
    ledger.deliver([Row("a", None, "")] * 2)
    assert [ledger.settle(), ledger.settle()][1] == (3, 0)
    assert Ledger(ledger.state()).settle() == (3, 0)


def test_a_worker_that_outlives_many_reloads_has_not_lost_its_first_rows() -> None:
    ledger = Ledger()
    take(ledger, "old", *range(1, 101))
    assert ledger.take("old", 101)
    for reload in range(40):
        take(ledger, f"new{reload}", 1)
    assert take(ledger, "old", 7, 102) == [False, True]
    ledger.deliver(rows("old", 101))
    assert [ledger.settle() for _ in range(3)] == [(142, 0)] * 3


def test_workers_are_counted_each_and_together_once_there_are_many() -> None:
    ledger = Ledger()
    take(ledger, "8", *range(1, 101))
    take(ledger, "9", 2)
    ledger.settle()
    assert ledger.settle() == (101, 1)
    for worker in range(1000, 5000):
        take(ledger, str(worker), 1)
    ledger.settle()
    assert ledger.settle() == (4101, 1)
    ledger.deliver(rows("8", 101))  # it waited until its worker was no longer counted by itself
    assert [ledger.settle(), ledger.settle()][1] == (4102, 1)
    assert len(ledger.state()) < 50
    assert len(ledger._retired) < 2000


@pytest.mark.parametrize(
    "text",
    [
        "", '{"8": [2, 3]}', "[1]", '{"a": 1}', '{"a": [1]}', '{"a": ["x", "y"]}', '{"a": [1.5, 2, 3]}',
        '{"a": [-1, 2, 3]}', "\x00",
    ],
)  # fmt: skip
def test_counts_of_another_form_count_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    assert Ledger.restored(path).state() == {}
    path.write_text(text)
    assert Ledger.restored(path).state() == {}
    path.write_text(json.dumps({"8": (2, 1, 3)}))
    assert Ledger.restored(path).state() == {"8": (2, 1, 3)}


async def test_rows_that_an_agent_holds_are_delivered_when_it_ends(tmp_path: Path) -> None:
    bodies = []

    class Gateway(Handler):
        def do_POST(self) -> None:
            bodies.append(self.content())
            self.respond({})

    server = HttpServer(Gateway)
    node = Node("edge", "h1", "t", server.url, str(tmp_path), None)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as control:
        delivery = Delivery(node, control)
        task = asyncio.create_task(delivery.run())
        await asyncio.sleep(0)
        delivery.take("41-1", LINE)
        task.cancel()
        await asyncio.wait([task])
    server.stop()
    assert [text.count(b"STAMP.1.UUID") for text in bodies] == [1]


async def test_malformed_requests_are_not_remembered(tmp_path: Path) -> None:
    async with httpx.AsyncClient() as control:
        delivery = Delivery(Node("edge", "h1", "t", "http://127.0.0.1:1", str(tmp_path), None), control)
    for number in range(1, 1001):
        delivery.take("41-1", f"{number} - turnout - 400 PR 0 -1 -1 -1 -1 0 0 0 <NOSRV>\r-\r-")
    assert [delivery._ledger.settle() for _ in range(2)] == [(0, 0)] * 2
    assert not delivery._ledger.workers["41-1"].numbers
