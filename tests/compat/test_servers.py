"""Servers as teams build them, behind a canary with two shadows: one set of assertions for all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest

from tests.support.processes import GatewayProcess, ModuleProcess

REQUESTS = 30
CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
metrics:
  correct: {type: boolean}
backends:
  current: {url: "CURRENT"}
  candidate: {url: "CANDIDATE"}
  other: {url: "OTHER"}
routes:
  model:
    match: {path: /}
    variants:
      v1: {backend: current}
      v2: {backend: candidate}
      same: {backend: current}
      changed: {backend: other}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 50%, for: 7d}]
      guardrails: [{metric: error_rate, max_increase: 90%}]
    shadows: {same: 100%, changed: 100%}
    fallback: [v1]
    comparison: COMPARISON
"""
Asked = tuple[Mapping[str, str], str]
"""Headers of a response, and what it says."""


def ask_openai(url: str, *, stream: bool) -> Asked:
    messages: Any = [{"role": "user", "content": "hello"}]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        create = client.chat.completions.create
        if stream:
            chunks = create(model="m", messages=messages, stream=True)
            return chunks.response.headers, "".join(c.choices[0].delta.content or "" for c in chunks)
        raw = client.chat.completions.with_raw_response.create(model="m", messages=messages)
        return raw.headers, raw.parse().choices[0].message.content or ""


def ask_sse(url: str) -> Asked:
    with httpx.stream("POST", f"{url}/sse", json={"text": "hello"}) as response:
        events = [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:")]
        return response.headers, "".join(event["token"]["text"] for event in events)


def ask_predict(url: str) -> Asked:
    response = httpx.post(f"{url}/predict", json={"x": [1, 2.5]})
    return response.headers, response.json()["label"]


@dataclass(frozen=True)
class Kind:
    server: tuple[str, ...]
    ask: Callable[[str], Asked]
    comparison: dict[str, Any] = field(default_factory=dict)


KINDS = {
    "fastapi": Kind(("tests.compat.fastapi_app",), lambda url: ask_openai(url, stream=False)),
    "fastapi-stream": Kind(("tests.compat.fastapi_app",), lambda url: ask_openai(url, stream=True)),
    "starlette-sse": Kind(("tests.compat.llm",), ask_sse, {"paths": ["token.text"]}),
    "gunicorn-flask": Kind(
        ("gunicorn", "--no-control-socket", "tests.compat.flask_app:app"),
        ask_predict,
        {"ignore": ["meta.at"]},
    ),
}


@dataclass(frozen=True)
class Site:
    kind: Kind
    gateway: GatewayProcess
    candidate: ModuleProcess

    def ask(self, times: int) -> list[Asked]:
        return [self.kind.ask(self.gateway.url) for _ in range(times)]

    def report(self, ready: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The route's report as soon as it is ``ready``, or after a while."""
        end = time.monotonic() + 20
        while True:
            found: dict[str, Any] = httpx.get(f"{self.gateway.url}/-/routes/model").json()
            if ready(found) or time.monotonic() > end:
                return found
            time.sleep(0.1)


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    kind = KINDS[request.param]
    with ExitStack() as stack:
        says = {"CURRENT": "sound", "CANDIDATE": "sound", "OTHER": "changed"}
        servers = {
            name: stack.enter_context(ModuleProcess(*kind.server, says=text)) for name, text in says.items()
        }
        config = CONFIG.replace("COMPARISON", json.dumps(kind.comparison))
        for name, server in servers.items():
            server.wait_ready()
            config = config.replace(name, server.url)
        gateway = stack.enter_context(GatewayProcess(tmp_path_factory.mktemp("site"), config))
        yield Site(kind, gateway, servers["CANDIDATE"])


def test_a_canary_with_two_shadows(site: Site) -> None:
    asked = site.ask(REQUESTS)
    assert len({said for _, said in asked}) == 1
    assert {headers["x-variant"] for headers, _ in asked} == {"v1", "v2"}

    items = [
        {"decision_id": headers["x-decision-id"], "metric": "correct", "value": True} for headers, _ in asked
    ]
    fed = httpx.post(f"{site.gateway.url}/-/feedback", json={"items": items}).json()
    assert (fed["accepted"], fed["rejected"]) == (REQUESTS, [])

    def compared(report: dict[str, Any], shadow: str) -> bool:
        """All copies that left; a busy machine drops some."""
        counts: dict[str, int] = report["shadow_counts"][shadow]
        dropped = sum(number for event, number in counts.items() if event.startswith("dropped"))
        return bool(counts["offered"] == REQUESTS == report["agreement"][shadow]["compared"] + dropped)

    def whole(report: dict[str, Any]) -> bool:
        return all(compared(report, shadow) for shadow in ("same", "changed"))

    report = site.report(whole)
    variants = [report["variants"][name] for name in ("v1", "v2")]
    assert sum(one["assigned"] for one in variants) == REQUESTS
    assert sum(one["served"] for one in variants) == REQUESTS
    assert sum(one["rewards"]["correct"]["count"] for one in variants) == REQUESTS
    assert [one["errors"] for one in variants] == [0, 0]
    assert whole(report), report["shadow_counts"]
    assert {name: one["rate"] for name, one in report["agreement"].items()} == {"same": 1.0, "changed": 0.0}

    # One server dies, and no client notices.
    site.candidate.kill()
    after = site.ask(REQUESTS)
    assert {said for _, said in after} == {said for _, said in asked}
    report = site.report(lambda found: found["variants"]["v2"]["fallbacks"] > 0)
    assert report["variants"]["v2"]["fallbacks"] > 0
    assert report["variants"]["v2"]["errors"] > 0
    assert report["variants"]["v1"]["errors"] == 0
