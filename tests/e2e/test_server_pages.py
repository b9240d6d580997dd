"""Each page of docs/servers: its configuration runs, its curl is served, its comparison compares."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.http_server import Handler, HttpServer
from tests.support.processes import GatewayProcess

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "docs/servers"
PAGES = sorted(page for page in FOLDER.glob("*.md") if "```json" in page.read_text())
"""Those whose requests can be sent by hand; gradio.md is run by tests/compat/test_own_clients.py."""


class Model(HttpServer):
    """A server that responds to every POST as the page says; what it was asked is kept."""

    def __init__(self, response: str) -> None:
        self.response = response
        self.status = 200
        self.paths: set[str] = set()
        super().__init__(Page)


class Page(Handler):
    server: Model

    def do_GET(self) -> None:
        self.server.paths.add(self.path)
        self.respond({})

    def do_POST(self) -> None:
        self.content()
        self.server.paths.add(self.path)
        self.respond(self.server.response.encode(), self.server.status)


def block(page: Path, kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", page.read_text(), re.DOTALL)
    assert found is not None, f"{page.name} has no {kind}"
    return found[1]


def changed(document: Any) -> Any:
    """The same document with its last number or text changed."""
    if isinstance(document, dict):
        key = list(document)[-1]
        return {**document, key: changed(document[key])}
    if isinstance(document, list):
        return [*document[:-1], changed(document[-1])]
    return document + 1 if isinstance(document, int | float) else f"{document}, changed"


@pytest.fixture
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[Model, Model]]:
    response = block(request.getfixturevalue("page"), "json")
    found = (Model(response), Model(response))
    yield found
    for each in found:
        each.stop()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_runs_as_it_stands(page: Path, servers: tuple[Model, Model], tmp_path: Path) -> None:
    current, candidate = servers
    document = yaml.safe_load(block(page, "yaml"))
    (route,) = [name for name, found in document["routes"].items() if "candidate" in found["policy"]]
    document["listen"], document["store"] = "127.0.0.1:@PORT@", "sqlite:///@DIR@/turnout.db"
    document["backends"]["current"]["url"] = current.url
    document["backends"]["candidate"]["url"] = candidate.url
    document["routes"][route]["shadows"] = {"v2": "100%"}  # so that the page's comparison is at work too
    with GatewayProcess(tmp_path, yaml.safe_dump(document)) as gateway:
        command = block(page, "sh").replace("127.0.0.1:8080", f"127.0.0.1:{gateway.port}")
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60)
        head, _, body = done.stdout.replace("\r", "").partition("\n\n")
        assert head.startswith("HTTP/1.1 200")
        assert "x-decision-id: " in head
        assert json.loads(body) == json.loads(current.response)

        sent = re.search(r"127\.0\.0\.1:\d+(\S+) --json '(.*)'", command)
        assert sent is not None

        def ask(count: int) -> list[httpx.Response]:
            return [client.post(sent[1], content=sent[2], headers=kind) for _ in range(count)]

        def agreement() -> dict[str, Any]:
            found: dict[str, Any] = client.get(f"/-/routes/{route}").json()["agreement"]["v2"]
            return found

        def settled(compared: int) -> dict[str, Any]:
            end = time.monotonic() + 60
            while agreement()["compared"] < compared and time.monotonic() < end:
                ask(1)  # a busy gateway drops copies
                time.sleep(0.1)
            return agreement()

        kind = {"content-type": "application/json"}
        with httpx.Client(base_url=gateway.url) as client:
            ask(20)
            same = settled(15)
            assert same["compared"] >= 15
            assert same["rate"] == 1.0
            candidate.response = json.dumps(changed(json.loads(current.response)))
            ask(20)
            assert settled(same["compared"] + 15)["rate"] < 1.0
            # No client notices that the candidate fails.
            candidate.status = 500
            assert {response.status_code for response in ask(30)} == {200}
        health = document["backends"]["current"].get("health")
        assert health is None or health["path"] in current.paths
