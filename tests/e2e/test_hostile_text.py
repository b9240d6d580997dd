"""Text that UTF-8 cannot hold, from models and from nodes of engines, before a real gateway.

A model that cuts an emoji in two writes half of a surrogate pair, so this happens without malice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.http_server import Handler, HttpServer
from tests.support.processes import GatewayProcess

TOKEN = "edge-token-0123456789"
CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
engines: {edge: {type: envoy, token: edge-token-0123456789}}
backends: {a: {url: "http://@BACKEND@/whole"}, b: {url: "http://@BACKEND@/half"}}
routes:
  copied:
    match: {path: /copied}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: shadow, primary: v1, shadows: {v2: 100%}}
  edge:
    engine: edge
    match: {path: /edge}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
"""


class Model(Handler):
    def do_POST(self) -> None:
        self.content()
        text = "\ud83d" if self.path.startswith("/half") else "\U0001f600"
        self.respond({"text": text})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder: Path = tmp_path_factory.mktemp("hostile")
    with (
        HttpServer(Model) as server,
        GatewayProcess(folder, CONFIG.replace("@BACKEND@", server.address)) as found,
    ):
        yield found


def get(gateway: GatewayProcess, path: str) -> Any:
    response = httpx.get(gateway.url + path)
    assert response.status_code == 200, (path, response.text)
    return response.json()


def test_half_a_character_of_a_model_is_shown(gateway: GatewayProcess) -> None:
    """The list of disagreements and the decision's page responded 500 for as long as such a response was recent."""
    end = time.monotonic() + 60
    while not (found := get(gateway, "/-/routes/copied/disagreements?shadow=v2")["disagreements"]):
        assert time.monotonic() < end
        assert httpx.post(gateway.url + "/copied/x", json={}).status_code == 200  # a busy one drops the copy
        time.sleep(0.1)
    assert found[0]["sides"][0]["shadow"] == "\ud83d"
    story = get(gateway, f"/-/decisions/{found[0]['decision']}")
    assert story["shadows"][0]["detail"]["first"][0]["shadow"] == "\ud83d"


@pytest.mark.parametrize(
    "name", ["e-\ud800", "e-\x00", "e-\u202e", "e\n"], ids=["half", "nul", "override", "line end"]
)
def test_a_node_with_a_name_that_cannot_be_written_is_refused(gateway: GatewayProcess, name: str) -> None:
    """Half a character in it made the lists of routes, engines and events and the metrics respond 500."""
    polled = httpx.post(
        gateway.url + "/v3/discovery:routes",
        headers={"authorization": f"Bearer {TOKEN}"},
        content=json.dumps({"node": {"id": name}}),
        timeout=30,
    )
    assert polled.status_code in (400, 422)
    assert [node["node"] for node in get(gateway, "/-/engines")["engines"][0]["nodes"]] == []
    assert httpx.get(gateway.url + "/-/metrics").status_code == 200


def test_what_a_node_refused_is_read_as_strictly(gateway: GatewayProcess) -> None:
    polled = httpx.post(
        gateway.url + "/v3/discovery:routes",
        headers={"authorization": f"Bearer {TOKEN}"},
        content=b'{"node": {"id": "e-1"}, "error_detail": {"message": "\\ud800"}}',
        timeout=30,
    )
    assert polled.status_code == 400
    assert "half of a surrogate pair" in polled.json()["error"]["message"]
