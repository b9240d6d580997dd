"""The agent of a real node: starts without a gateway, changes, and files that the node refuses."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from gateway.engines.envoy.agent import EnvoyFollower, Served
from tests.engines.node import EnvoyNode, Setup, bootstrap, wait_for
from tests.support.command import turnout
from tests.support.processes import GatewayProcess

pytestmark = pytest.mark.slow

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {watch: 200ms}
backends: {one: {url: "URL1"}, two: {url: "URL2"}}
engines: {edge: {type: envoy, token: a-token-of-the-edge-engine, nodes: [e*]}}
routes:
  digits:
    engine: edge
    match: {path: /digits}
    variants: {v1: {backend: one}, v2: {backend: two}}
    policy: {type: single, variant: v1}
"""


class AgentNode(EnvoyNode):
    """A node that reads the files of an agent."""

    def __init__(self, gateway: GatewayProcess, name: str) -> None:
        self.files = gateway.folder / name
        self.options = ["--files", str(self.files)]
        super().__init__(gateway, name)

    def start(self) -> None:
        if not hasattr(self, "agent"):
            with (self.files.parent / "agent.log").open("wb") as log:
                command = [sys.executable, "-m", "gateway.cli", "engine", "agent", str(self.path)]
                self.agent = subprocess.Popen(command, stdout=log, stderr=log)
            wanted = [self.files / "clusters.json", self.files / "routes.json"]
            wait_for(lambda: all(path.exists() for path in wanted), "the agent has written the files")
        super().start()

    def stop_agent(self) -> None:
        self.agent.send_signal(signal.SIGTERM)
        self.agent.wait(60)


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path, CONFIG)
    yield made
    made.stop()


@pytest.fixture
def node(setup: Setup) -> Iterator[AgentNode]:
    made = AgentNode(setup.gateway, "e1")
    yield made
    made.stop_agent()
    made.kill()


def variant(node: AgentNode) -> str:
    return httpx.post(f"{node.url}/digits").headers["x-variant"]


def test_a_node_restarts_without_a_gateway_with_its_last_allocation(setup: Setup, node: AgentNode) -> None:
    gateway = setup.gateway
    node.wait_serving("/digits")
    gateway.write(gateway.template.replace("variant: v1", "variant: v2"))
    wait_for(lambda: variant(node) == "v2", "the change reaches the node")
    wait_for(lambda: setup.nodes_shown()[0]["state"] == "accepted", "the gateway knows that the node has it")
    epoch = setup.nodes_shown()[0]["epochs"]["digits"]
    gateway.crash()
    node.stop_agent()
    node.kill()
    node.start()
    node.wait_serving("/digits")
    assert {variant(node) for _ in range(20)} == {"v2"}
    assert (node.files / "routes.json").stat().st_mode & 0o777 == 0o600
    assert epoch >= 2


def test_a_file_that_the_node_refuses_is_replaced_by_the_last_good_one(setup: Setup, node: AgentNode) -> None:
    node.wait_serving("/digits")
    wait_for(lambda: setup.nodes_shown()[0]["state"] == "accepted", "the node has its routes")
    node.stop_agent()
    good = (node.files / "routes.json").read_bytes()
    table = {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": "edge",
        "virtual_hosts": [{"name": "without domains"}],
    }
    bad = json.dumps({"version_info": "bad", "resources": [table]}).encode()

    async def offer() -> str:
        served = Served.read(json.loads(node.path.read_text()))
        async with httpx.AsyncClient() as control, httpx.AsyncClient(base_url=served.admin) as admin:
            follower = EnvoyFollower(served, "routes", control, admin)
            await follower.offer("bad", bad)
            return follower.refused

    assert "its log says why" in asyncio.run(offer())
    assert (node.files / "routes.json").read_bytes() == good
    assert variant(node) == "v1"


@pytest.mark.parametrize(
    ("token", "name", "told"), [("revoked", "e1", "print its bootstrap again"), (None, "x1", "under 'nodes'")]
)
def test_a_node_that_the_gateway_refuses_is_told_what_to_do(
    setup: Setup, node: AgentNode, caplog: pytest.LogCaptureFixture, token: str | None, name: str, told: str
) -> None:
    async def follow() -> None:
        served = Served.read(json.loads(node.path.read_text()))
        fields = served.headers if token is None else {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=setup.gateway.url, headers=fields) as control:
            follower = EnvoyFollower(
                replace(served, node={"id": name, "cluster": "edge"}), "routes", control, control
            )
            async with asyncio.TaskGroup() as group:
                task = group.create_task(follower.run())
                while not caplog.messages:
                    await asyncio.sleep(0.02)
                task.cancel()

    asyncio.run(asyncio.wait_for(follow(), 60))
    assert told in caplog.messages[0]


def test_a_bootstrap_without_files_says_what_to_write(tmp_path: Path) -> None:
    path = tmp_path / "turnout.yaml"
    path.write_text(CONFIG.replace("@PORT@", "1").replace("URL", "http://127.0.0.1:"))
    with pytest.raises(ValueError, match="--files DIR --admin ADDR"):
        Served.read(json.loads(bootstrap(path, "e1", 1, 2)))
    words = ("engine", "bootstrap", "edge", "--config", str(path), "--listen", "127.0.0.1:1", "--node")
    done = turnout(*words, "e1", "--files", "x")
    assert (done.returncode, "write --admin" in done.stderr) == (2, True)
    done = turnout(*words, "x1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "edge has no node 'x1'; name it under 'nodes', which has: e*" in done.stderr
