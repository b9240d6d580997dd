"""Gateways that share a store, as real processes: which configuration is in force, and who says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.compile.etags import etag
from gateway.state.sqlite import SqliteStore
from tests.e2e.common import wait_for
from tests.support.processes import GatewayProcess
from tests.support.servers import redis_server

CONFIG = """\
listen: 127.0.0.1:@PORT@
store: @STORE@
record: {spool: "@DIR@/spool"}
loops: {watch: 100ms, allocation: 100ms}
backends: {a: {url: "http://127.0.0.1:9"}}
routes:
  NAME:
    match: {path: /NAME}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
"""


def config(name: str, store: str) -> str:
    return CONFIG.replace("NAME", name).replace("@STORE@", store)


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/shared.db"
        return
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as server:
        yield f"redis://127.0.0.1:{server.port}/0"


def gateway(folder: Path, text: str) -> GatewayProcess:
    folder.mkdir()
    return GatewayProcess(folder, text)


def routes(*gateways: GatewayProcess) -> list[list[str]]:
    return [[r["route"] for r in httpx.get(f"{g.url}/-/routes").json()["routes"]] for g in gateways]


def history(one: GatewayProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{one.url}/-/config/history").json()["revisions"]
    return found


def metric(one: GatewayProcess, name: str) -> float:
    lines = httpx.get(f"{one.url}/-/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])


def test_an_older_file_never_takes_back_a_newer_revision(tmp_path: Path, store: str) -> None:
    with (
        gateway(tmp_path / "a", config("one", store)) as a,
        gateway(tmp_path / "b", config("two", store)) as b,
    ):
        wait_for(lambda: routes(a, b) == [["two"], ["two"]])
        # Of another gateway: a mistake, more often than not.
        assert f"another 'listen' than this process (127.0.0.1:{b.port}, not 127.0.0.1:{a.port})" in a.log
        a.write(config("three", store))
        wait_for(lambda: routes(a, b) == [["three"], ["three"]])
        assert b.stop() == 0
        b.start()  # as a pod that is restarted with the ConfigMap that it was made with
        assert routes(a, b) == [["three"], ["three"]]
        assert f"{b.path} has the text of revision 2; revision 3" in b.log
        assert "change it" in b.log
        rows = history(b)
        assert [(r["revision"], r["author"], r["current"]) for r in rows] == [
            (3, "file", True), (2, "file", False), (1, "file", False)
        ]  # fmt: skip
        assert [r["origin"].endswith(str(g.path)) for r, g in zip(rows, (a, b, a), strict=True)] == [True] * 3
        for one in (a, b):
            told = f"configuration revision 3 is in force (by file, {rows[0]['origin']})"
            wait_for(lambda one=one, told=told: told in one.log)

        # A change of the file is an edit, to an earlier text too; it is said that it is one.
        b.write(config("one", store).replace("@PORT@", str(a.port)).replace("@DIR@", str(a.folder)))
        wait_for(lambda: routes(a, b) == [["one"], ["one"]])
        wait_for(lambda: "revision 4 returns to the text of revision 1" in b.log)
        assert history(a)[0]["revision"] == 4


def test_a_file_that_was_taken_back_while_the_gateway_was_down_is_an_edit(tmp_path: Path, store: str) -> None:
    with gateway(tmp_path / "a", config("one", store)) as a:
        a.write(config("two", store))
        wait_for(lambda: routes(a) == [["two"]])
        a.stop()
        a.write(config("one", store))
        a.start()
        assert routes(a) == [["one"]]
        assert "revision 3 returns to the text of revision 1" in a.log


def test_every_change_is_an_event_with_author_and_origin(tmp_path: Path, store: str) -> None:
    with gateway(tmp_path / "a", config("one", store)) as a:
        changed = httpx.put(
            f"{a.url}/-/config",
            content=config("two", store).replace("@PORT@", str(a.port)),
            headers={"if-match": "*"},
        )
        assert changed.status_code == 200
        restored = httpx.post(f"{a.url}/-/config/restore", json={"revision": 1}, headers={"if-match": "*"})
        assert restored.status_code == 200
        found = []
        with httpx.stream("GET", f"{a.url}/-/events?after=0&kind=config") as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    found.append(json.loads(line.removeprefix("data: "))["data"])
                if len(found) == 3:
                    break
        assert [(e["revision"], e["author"]) for e in found] == [
            (1, "file"),
            (2, "anonymous"),
            (3, "anonymous"),
        ]
        assert found[0]["origin"].endswith(str(a.path))
        assert [e["origin"] for e in found[1:]] == ["PUT", "restore of revision 1"]
        wait_for(lambda: "configuration revision 2 is in force (by anonymous, PUT)" in a.log)


BROKEN = "listen: 127.0.0.1:1\nbackends: {a: {url: 'http://x', headers: {x-a: '5 €'}}}\nroutes: {}\n"
"""What an earlier release took and could not build."""


def poison(path: Path) -> None:
    async def add() -> None:
        store = SqliteStore(path)
        await store.open()
        await store.add_revision(time=1.0, author="ops", etag=etag(BROKEN), document=BROKEN)
        await store.close()

    asyncio.run(add())


def test_a_start_falls_back_to_the_newest_revision_that_can_be_built(tmp_path: Path) -> None:
    with gateway(tmp_path / "a", config("one", f"sqlite:///{tmp_path}/shared.db")) as a:
        a.stop()
        poison(tmp_path / "shared.db")
        a.start()
        assert routes(a) == [["one"]]
        assert "revision 2 can't be built here" in a.log
        assert "backends.a.headers.x-a" in a.log
        assert metric(a, "turnout_config_last_reload_successful") == 0
        mended = httpx.put(
            f"{a.url}/-/config",
            content=config("two", f"sqlite:///{tmp_path}/shared.db").replace("@PORT@", str(a.port)),
            headers={"if-match": httpx.get(f"{a.url}/-/config").headers["etag"]},
        )
        assert mended.status_code == 200
        assert routes(a) == [["two"]]
        wait_for(lambda: metric(a, "turnout_config_last_reload_successful") == 1)


def test_a_revision_that_cannot_be_built_stops_no_loop(tmp_path: Path) -> None:
    with gateway(tmp_path / "a", config("one", f"sqlite:///{tmp_path}/shared.db")) as a:
        before = metric(a, "turnout_config_last_reload_success_timestamp_seconds")
        poison(tmp_path / "shared.db")
        wait_for(lambda: metric(a, "turnout_config_last_reload_successful") == 0)
        assert routes(a) == [["one"]]
        a.write(config("two", f"sqlite:///{tmp_path}/shared.db").replace("routes:", "routez:"))
        wait_for(lambda: f"{a.path}:6:1: routez: " in a.log)
        a.write(config("two", f"sqlite:///{tmp_path}/shared.db"))
        wait_for(lambda: routes(a) == [["two"]])
        wait_for(lambda: metric(a, "turnout_config_last_reload_successful") == 1)
        assert metric(a, "turnout_config_last_reload_success_timestamp_seconds") > before
