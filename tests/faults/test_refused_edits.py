"""An edit that can't be built changes nothing that can be observed, and the next good one is taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.compile import prepare as build
from gateway.config.faults import ConfigError
from tests.faults.rig import FaultRig

CONFIG = """
backends:
  a: {url: "http://127.0.0.1:@A@", limit: {in_flight: 7}}
routes:
  one:
    match: {path: /one}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
"""
OTHER = """
metrics: {click: {type: boolean}}
limits: {connections: 3}
backends:
  a: {url: "http://127.0.0.1:@A@", limit: {in_flight: 1}, pool: {size: 1}, ejection: {silence: 2s}}
  b: {url: "http://127.0.0.1:@B@"}
routes:
  two:
    match: {path: /two}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: canary, baseline: v1, candidate: v2, stages: [{weight: 50%, for: 1h}]}
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRig]:
    rig = FaultRig(tmp_path_factory.mktemp("refused"), CONFIG)
    rig.start()
    # The first look comes when it serves already.
    rig.until(lambda: "one" in rig.gateway.api.controller.states)
    yield rig
    rig.stop()


def seen(rig: FaultRig) -> dict[str, Any]:
    """All that an edit may change."""
    gateway, registry = rig.gateway, rig.gateway.registry
    metrics = httpx.get(f"http://127.0.0.1:{rig.port}/-/metrics").text
    return {
        "snapshot": id(rig.worker.snapshot),
        "document": id(gateway.api.document()),
        "revision": gateway.api.revision(),
        "config": httpx.get(f"http://127.0.0.1:{rig.port}/-/config").text,
        "history": [r.revision for r in rig.run(gateway.store.revisions())],
        "metrics": [line for line in metrics.splitlines() if "config" in line or "alloc" in line],
        "rewards": dict(gateway.api.rewards.metrics),
        "addresses": {k: (id(a), a.max_idle, a.min_stall) for k, a in registry.addresses.items()},
        "limiters": {k: (id(g), g.limit) for k, g in registry.limiters.items()},
        "healths": {k: (id(h), h.stall_detection, tuple(h._records)) for k, h in registry.healths.items()},
        "held": {k: id(h) for k, h in gateway.in_force.allocations.held.items()},
        "steering": dict(gateway.in_force.allocations.steering),
        "states": {
            k: v for k, v in gateway.api.controller.states.items() if k in gateway.api.document().routes
        },
    }


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a mistake of ours")


@pytest.mark.parametrize("part", ["plan", "arranged", "route_plan", "snapshot"])
def test_a_build_that_fails_changes_nothing(
    part: str, started: FaultRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = seen(started)
    with monkeypatch.context() as patch:
        patch.setattr(build, part, broken)
        with pytest.raises(ConfigError, match="a mistake of ours"):
            started.edit(OTHER)
    assert seen(started) == before


def test_a_file_that_is_missing_changes_nothing(started: FaultRig) -> None:
    before = seen(started)
    with pytest.raises(ConfigError, match=r":\d+:\d+: backends\.c\.tls\.ca: there is no file"):
        started.edit(OTHER.replace("routes:", "  c: {url: 'https://x', tls: {ca: nowhere.pem}}\nroutes:"))
    assert seen(started) == before


def test_a_character_that_no_header_has_is_refused(started: FaultRig) -> None:
    before = seen(started)
    text = started.text(CONFIG.replace("limit:", 'headers: {x-a: "5 €"}, limit:'))
    refused = httpx.put(
        f"http://127.0.0.1:{started.port}/-/config", content=text.encode(), headers={"if-match": "*"}
    )
    assert refused.status_code == 422
    (fault,) = refused.json()["error"]["faults"]
    assert (fault["path"], fault["line"] > 0) == ("backends.a.headers.x-a", True)
    assert seen(started) == before


def test_the_next_good_edit_is_taken(started: FaultRig, tmp_path: Path) -> None:
    before = seen(started)
    started.edit(OTHER)
    after = seen(started)
    assert not [key for key in before if before[key] == after[key]]
    started.edit(CONFIG)
