"""A canary with two shadows over three servers, and what must hold for it whatever the servers are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.processes import GatewayProcess, ServerProcess

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
Asked = tuple[Mapping[str, str], object]
"""Headers of a response, and what it says."""


@dataclass(frozen=True)
class Kind:
    """A kind of request that servers respond to."""

    ask: Callable[[str], Asked]
    """Sends one to the gateway at an address."""
    comparison: Mapping[str, Any] = field(default_factory=dict)
    address: Callable[[ServerProcess], str] = lambda server: server.url


@dataclass(frozen=True)
class Site:
    """A gateway that is asked for one kind."""

    kind: Kind
    gateway: GatewayProcess

    def ask(self, times: int) -> list[Asked]:
        return [self.kind.ask(self.gateway.url) for _ in range(times)]

    def report(self, ready: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The route's report as soon as it is ``ready``, or after a while."""
        end = time.monotonic() + 60
        while True:
            found: dict[str, Any] = httpx.get(f"{self.gateway.url}/-/routes/model").json()
            if ready(found) or time.monotonic() > end:
                return found
            time.sleep(0.1)


def compared_or_dropped(report: dict[str, Any], shadow: str) -> int:
    """The copies of ``shadow`` that are done with; a busy machine drops some."""
    counts: dict[str, int] = report["shadow_counts"][shadow]
    dropped = sum(number for event, number in counts.items() if event.startswith("dropped"))
    return int(report["agreement"][shadow]["compared"]) + dropped


def check(folder: Path, servers: Sequence[ServerProcess], kinds: Mapping[str, Kind]) -> None:
    """Each kind through a gateway of its own before three servers, which it ends: baseline, candidate, and one that
    says something else. Then the candidate dies."""
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        for server in servers:
            server.wait_ready(180)
        sites = []
        for name, kind in kinds.items():
            config = CONFIG.replace("COMPARISON", json.dumps(kind.comparison))
            for role, server in zip(("CURRENT", "CANDIDATE", "OTHER"), servers, strict=True):
                config = config.replace(role, kind.address(server))
            (folder / name).mkdir()
            sites.append(Site(kind, stack.enter_context(GatewayProcess(folder / name, config))))
        said = [_check_whole(site) for site in sites]
        servers[1].kill()
        for site, text in zip(sites, said, strict=True):
            _check_without_candidate(site, text)


def _check_whole(site: Site) -> str:
    """Assignment, rewards, shadows' comparison; what all responses said."""
    asked = site.ask(REQUESTS)
    (text,) = {str(said) for _, said in asked}
    assert {headers["x-variant"] for headers, _ in asked} == {"v1", "v2"}

    items = [
        {"decision_id": headers["x-decision-id"], "metric": "correct", "value": True} for headers, _ in asked
    ]
    fed = httpx.post(f"{site.gateway.url}/-/feedback", json={"items": items}).json()
    assert (fed["accepted"], fed["rejected"]) == (REQUESTS, [])

    def whole(report: dict[str, Any]) -> bool:
        offered = {report["shadow_counts"][shadow]["offered"] for shadow in ("same", "changed")}
        seen = {compared_or_dropped(report, shadow) for shadow in ("same", "changed")}
        return offered == seen == {REQUESTS}

    report = site.report(whole)
    variants = [report["variants"][name] for name in ("v1", "v2")]
    assert sum(one["assigned"] for one in variants) == REQUESTS
    named = [headers["x-variant"] for headers, _ in asked]
    assert [one["served"] for one in variants] == [named.count(name) for name in ("v1", "v2")]
    assert sum(one["rewards"]["correct"]["count"] for one in variants) == REQUESTS
    assert [one["errors"] for one in variants] == [0, 0]
    assert whole(report), (report["shadow_counts"], report["agreement"])
    assert {name: one["rate"] for name, one in report["agreement"].items()} == {"same": 1.0, "changed": 0.0}
    return text


def _check_without_candidate(site: Site, text: str) -> None:
    """No client notices that its server has died."""
    assert {str(said) for _, said in site.ask(REQUESTS)} == {text}
    report = site.report(lambda found: found["variants"]["v2"]["fallbacks"] > 0)
    assert report["variants"]["v2"]["fallbacks"] > 0
    assert report["variants"]["v2"]["errors"] > 0
    assert report["variants"]["v1"]["errors"] == 0
