"""Traces by a real gateway process with several workers, to a real collector, before backends that echo."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.children import free_port
from tests.e2e.common import wait_for
from tests.support.http_server import Handler, HttpServer
from tests.support.processes import GatewayProcess
from tests.telemetry.collector import Collector, collector

KEY = "tk_0123456789abcdef0123456789abcdef"
CONFIG = f"""
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {{watch: 200ms}}
telemetry: {{traces: {{endpoint: "http://127.0.0.1:@COLLECTOR@", sample: 100%, flush: 200ms,
                       headers: {{x-token: "${{TRACES_TOKEN:-none}}"}}}}}}
auth: {{keys: [{{id: app, hash: "sha256:{hashlib.sha256(KEY.encode()).hexdigest()}", scopes: [admin]}}]}}
backends:
  echo: {{url: "http://127.0.0.1:@ECHO@"}}
  dead: {{url: "http://127.0.0.1:@DEAD@", ejection: null}}
routes:
  echo:
    match: {{path: /echo}}
    variants: {{v1: {{backend: echo}}, v2: {{backend: echo}}}}
    policy: {{type: split, weights: {{v1: 1, v2: 1}}}}
  rescued:
    match: {{path: /rescued}}
    variants: {{new: {{backend: dead}}, old: {{backend: echo}}}}
    policy: {{type: single, variant: new}}
    fallback: [old]
"""
MILLISECOND = 0.001

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    """The port of a backend that takes 10 ms and answers with the fields it got."""

    class Echo(Handler):
        def do_POST(self) -> None:
            self.content()
            time.sleep(0.01)
            self.respond({k.lower(): v for k, v in self.headers.items()})

    with HttpServer(Echo) as server:
        yield server.server_port


def config(port: int, echo: int) -> str:
    text = CONFIG.replace("@COLLECTOR@", str(port)).replace("@ECHO@", str(echo))
    return text.replace("@DEAD@", str(free_port()))


CLIENT = httpx.Client(headers={"x-api-key": KEY}, verify=False)  # to itself over plain HTTP


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    with CLIENT:
        yield


def ask(gateway: GatewayProcess, path: str = "/echo", **headers: str) -> dict[str, str]:
    answer = CLIENT.post(f"{gateway.url}{path}", json={}, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, str] = answer.json()
    return found


def seen(gateway: GatewayProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = CLIENT.get(f"{gateway.url}/-/outcomes", params={"limit": 500}).json()[
        "outcomes"
    ]
    return found


def counted(gateway: GatewayProcess) -> dict[str, float]:
    text = CLIENT.get(f"{gateway.url}/-/metrics").text
    found = {}
    for line in text.splitlines():
        if line.startswith("turnout_trace_spans_total{"):
            found[line.split('"')[1]] = float(line.split()[-1])
    return found


def pids(to: Collector) -> set[int]:
    """The processes from which spans have come."""
    return {span.resource["process.pid"] for span in to.spans}


def test_spans_of_two_workers_say_what_the_record_says(tmp_path: Path, echo: int) -> None:
    with collector() as to, GatewayProcess(tmp_path, config(to.port, echo), "--workers", "2") as gateway:
        plain, rescued = 0, 20
        with ThreadPoolExecutor(8) as pool:
            heads = list(pool.map(lambda _: ask(gateway, "/rescued"), range(rescued)))
            while plain < 100 or (
                plain < 1000 and len(pids(to)) < 2
            ):  # a connection each: the kernel deals them out
                heads += list(pool.map(lambda _: ask(gateway, connection="close"), range(50)))
                plain += 50
        spans = to.wait(plain * 2 + rescued * 3)
        by_id = {span.span_id: span for span in spans}
        for head in heads:
            _, trace, span, flags = head["traceparent"].split("-")
            attempt = by_id[span]
            assert (attempt.trace_id, attempt.kind, flags) == (trace, "client", "01")
            assert by_id[attempt.parent].kind == "server"
        wait_for(lambda: len(seen(gateway)) == min(500, plain + rescued))
        servers = {s.attributes["turnout.decision_id"]: s for s in spans if s.kind == "server"}
        assert len(servers) == plain + rescued
        for outcome in seen(gateway):
            _check(servers[outcome["decision"]], outcome)
        assert len(pids(to)) == len({span.resource["service.instance.id"] for span in spans}) == 2
        wait_for(lambda: counted(gateway) == {"offered": len(spans), "exported": len(spans)})
        assert gateway.stop() == 0
    assert "traces" not in gateway.log
    assert "HTTP Request" not in gateway.log


def _check(span: Any, outcome: dict[str, Any]) -> None:
    a = span.attributes
    for name in ("route", "policy", "epoch", "revision", "principal"):
        assert a[f"turnout.{name}"] == outcome[name], name
    for name in ("propensity", "gateway_ms", "backend_ms"):
        assert a[f"turnout.{name}"] == pytest.approx(outcome[name], rel=1e-6), name
    assert a["turnout.variant.assigned"] == outcome["assigned"]
    assert a["turnout.variant.served"] == outcome["served"]
    assert a["http.response.status_code"] == outcome["status"]
    assert a.get("turnout.fallback", False) == outcome["fallback"]
    # Not two looks at the clock in the same moment: on a busy machine somebody else's turn lies between them.
    assert span.seconds == pytest.approx(outcome["total_ms"] / 1e3, abs=10 * MILLISECOND)


def test_a_collector_that_is_away_hurts_nobody_and_is_said_once(tmp_path: Path, echo: int) -> None:
    port = free_port()
    with GatewayProcess(tmp_path, config(port, echo)) as gateway:
        for _ in range(30):
            ask(gateway)
        wait_for(lambda: counted(gateway).get("offered") == 60)
        wait_for(lambda: "traces can't be delivered" in gateway.log)
        with collector(port) as to:
            to.wait(60)  # nothing is lost but time
            wait_for(lambda: counted(gateway) == {"offered": 60, "exported": 60})
        wait_for(lambda: "delivered to" in gateway.log.partition("can't")[2])
        ask(gateway)
        begun = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - begun < 20
        assert gateway.log.count("traces can't be delivered") == 2  # it was well in between
        assert "2 spans could not be delivered before the end" in gateway.log


def test_an_edit_switches_it_on_and_off_and_the_end_delivers(
    tmp_path: Path, echo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACES_TOKEN", "secret-token")
    with collector() as to:
        text = config(to.port, echo)
        before, rest = text.split("telemetry:")
        without = before + "auth:" + rest.split("auth:", 1)[1]
        with GatewayProcess(tmp_path, without) as gateway:
            given = f"00-{'1' * 32}-{'2' * 16}-01"
            assert ask(gateway, traceparent=given)["traceparent"] == given
            gateway.write(text.replace("flush: 200ms", "flush: 1h"))
            wait_for(lambda: ask(gateway).get("traceparent"))
            assert _in(ask(gateway, traceparent=given)["traceparent"], "1" * 32)
            assert to.bodies == []
            gateway.write(text)  # the old exporter delivers what it has
            wait_for(lambda: len(to.spans) >= 4)
            gateway.write(without)
            wait_for(lambda: "traceparent" not in ask(gateway))
            gateway.write(text.replace("flush: 200ms", "flush: 1h"))
            wait_for(lambda: ask(gateway).get("traceparent"))
            known = len(to.spans)
            assert gateway.stop() == 0
            assert len(to.spans) >= known + 2
            assert to.heads[0][1]["x-token"] == "secret-token"
            assert "secret-token" not in gateway.log


def _in(value: str, trace: str) -> bool:
    """Whether a traceparent names another span of the trace."""
    _, found, span, _ = value.split("-")
    return found == trace and span != "2" * 16


@pytest.mark.parametrize("way", ["garbage", "slow"])
def test_a_collector_that_misbehaves_hurts_nobody(tmp_path: Path, echo: int, way: str) -> None:
    with collector() as to:
        if way == "garbage":
            to.raw = b"\x16\x03\x01 no http\r\n\r\n"
        else:
            to.answer = lambda: _slowly(to)
        text = config(to.port, echo).replace("flush: 200ms", "flush: 50ms, timeout: 300ms, capacity: 40")
        with GatewayProcess(tmp_path, text) as gateway:
            took = []
            for _ in range(100):
                begun = time.perf_counter()
                ask(gateway)
                took.append(time.perf_counter() - begun)
            assert statistics.median(took) < 1.0, "nobody waits for the collector"
            found = counted(gateway)
            assert found["offered"] == 200
            assert found["dropped"] >= 100
            assert gateway.log.count("traces can't be delivered") == 1
            assert gateway.stop() == 0


def _slowly(to: Collector) -> tuple[int, dict[str, str], bytes]:
    time.sleep(2.0)
    return 200, {}, b""


def test_the_environment_alone_turns_tracing_on(
    tmp_path: Path, echo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as to:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{to.port}")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "edge")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x,x-team=ml")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging")
        before, rest = CONFIG.split("telemetry:")
        text = (before + "auth:" + rest.split("auth:")[1]).replace("@ECHO@", str(echo))
        with GatewayProcess(tmp_path, text.replace("@DEAD@", str(free_port()))) as gateway:
            headers = {"authorization": f"Bearer {KEY}"}
            assert httpx.post(f"{gateway.url}/echo", content=b"x", headers=headers).status_code == 200
            found = to.wait(2)[0].resource
            assert (found["service.name"], found["deployment.environment.name"]) == ("edge", "staging")
            path, fields = to.heads[0]
            assert (path, fields["authorization"], fields["x-team"]) == ("/v1/traces", "Bearer x", "ml")
