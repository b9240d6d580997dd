"""Every expression of the Grafana dashboards, evaluated by a real Prometheus that scrapes a running gateway."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.children import free_port
from tests.dashboards.test_grafana import BOARDS, expressions
from tests.e2e.common import wait_for
from tests.support.http_server import Handler, HttpServer
from tests.support.processes import GatewayProcess

pytestmark = pytest.mark.slow

CONFIG = """\
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {watch: 100ms, allocation: 100ms}
metrics: {good: {type: boolean}}
backends: {sound: {url: "http://127.0.0.1:@SOUND@"}, failing: {url: "http://127.0.0.1:@FAILING@"}}
routes:
  shop:
    match: {path: /shop}
    variants: {old: {backend: sound}, new: {backend: failing}}
    policy:
      type: canary
      baseline: old
      candidate: new
      stages: [{weight: 50%, for: 1h}]
      guardrails: [{metric: error_rate, max_increase: 99%}]
    fallback: [old]
  learn:
    match: {path: /learn}
    variants: {x: {backend: sound}, y: {backend: sound}}
    policy: {type: bandit, metric: good}
  quiet:
    match: {path: /quiet}
    variants: {x: {backend: sound}, y: {backend: sound}}
    policy: {type: shadow, primary: x, shadows: {y: 100%}}
  talk:
    match: {path: /talk}
    variants: {x: {backend: sound, price: {input: 1, output: 2}}, y: {backend: sound, price: {input: 3, output: 4}}}
    policy: {type: split, weights: {x: 1, y: 1}}
    usage: true
"""
SHOWN = {
    "shop": {"Rollout", "Stage", "Guardrails", "Errors by code", "Fallbacks"},
    "learn": {"P(best)"},
    "quiet": {"Copies for shadows that agree", "Copies for shadows"},
    "talk": {
        "Time to first token p50",
        "Time to first token p99",
        "Output tokens per second",
        "Cost per 1,000 requests",
    },
}
"""Panels of one route that only this one fills."""
ALWAYS = {
    "Alarms", "Error share", "Latency p99", "Latency p50", "Age of the allocation", "Allocation",
    "Requests by assigned variant", "Error share by variant",
}  # fmt: skip


TALK = (
    b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}\n\n'
)


class Model(Handler):
    """Responds with 200, or every other time with 500 if it is `failing`; at /talk with a stream of tokens."""

    failing = False
    asked = count()

    def do_GET(self) -> None:
        talk = self.path == "/talk"
        body = TALK if talk else b'{"label": 1}'
        status = 500 if self.failing and next(self.asked) % 2 else 200
        self.respond(body, status, "text/event-stream" if talk else "application/json")


class FailingModel(Model):
    failing = True


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that scrapes a gateway each second, with traffic on all routes."""
    folder: Path = tmp_path_factory.mktemp("prometheus")
    servers = [HttpServer(handler) for handler in (Model, FailingModel)]
    config = CONFIG
    for name, server in zip(("@SOUND@", "@FAILING@"), servers, strict=True):
        config = config.replace(name, str(server.server_address[1]))
    with GatewayProcess(folder, config) as gateway:
        (folder / "prometheus.yaml").write_text(
            "global: {scrape_interval: 1s}\n"
            "scrape_configs: [{job_name: turnout, metrics_path: /-/metrics, "
            f"static_configs: [{{targets: ['{gateway.url.removeprefix('http://')}']}}]}}]\n"
        )
        address = f"127.0.0.1:{free_port()}"
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stop = threading.Event()
        sender = threading.Thread(target=send, args=(gateway.url, stop))
        sender.start()
        try:
            yield f"http://{address}"
        finally:
            stop.set()
            sender.join()
            process.terminate()
            process.wait(30)
    for server in servers:
        server.shutdown()
        server.server_close()


def send(url: str, stop: threading.Event) -> None:
    """Some twenty requests a second, and rewards for those to `learn`."""
    with httpx.Client(base_url=url) as client:
        while not stop.wait(0.1):
            for path in ("/shop", "/quiet", "/talk"):
                assert client.get(path).status_code == 200
            decision = client.get("/learn").headers["x-decision-id"]
            reward = {"decision_id": decision, "metric": "good", "value": True}
            assert client.post("/-/feedback", json=reward).json()["accepted"] == 1


def query(address: str, expression: str, route: str) -> list[Any]:
    """The samples of ``expression`` now, with Grafana's variables replaced."""
    for name, value in (("$route", route), ("$__rate_interval", "20s"), ("$__interval", "20s")):
        expression = expression.replace(name, value)
    response = httpx.get(f"{address}/api/v1/query", params={"query": expression})
    if response.status_code == 503:
        return []  # Prometheus listens before it is ready
    assert response.status_code == 200, response.text
    found: list[Any] = response.json()["data"]["result"]
    return found


@pytest.mark.parametrize("route", SHOWN)
def test_the_panels_of_a_route_show_something(prometheus: str, route: str) -> None:
    panels = {panel["title"]: panel for panel in BOARDS["route"]["panels"] if panel.get("targets")}
    assert ALWAYS | set().union(*SHOWN.values()) <= set(panels)
    wait_for(lambda: reaches(prometheus), 60)
    for title in ALWAYS | SHOWN[route]:
        for target in panels[title]["targets"]:
            wait_for(lambda one=target: query(prometheus, one["expr"], route), 60)


def test_every_expression_is_valid(prometheus: str) -> None:
    wait_for(lambda: reaches(prometheus), 60)
    for board in BOARDS.values():
        for expression in expressions(board):
            if expression and not expression.startswith("label_values("):
                query(prometheus, expression, "shop")


def reaches(address: str) -> bool:
    try:
        return bool(query(address, "turnout_build_info", ""))
    except httpx.HTTPError:
        return False
