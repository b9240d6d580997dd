"""Active probes through the whole gateway: what is asked, what decides, who gets the requests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.rig import FaultRig
from tests.support.backend import HOLD, Request, ok

CONFIG = """
backends:
  pair: &pair
    urls: ["http://127.0.0.1:@A@/base", "http://127.0.0.1:@B@/base"]
    headers: {x-backend-key: secret}
    balance: round_robin
    health: {path: /v2/models/digits/ready, every: 100ms, timeout: 1s, healthy: 2, unhealthy: 2}
  one:
    url: "http://127.0.0.1:@C@"
    health: {path: /one, every: 100ms, timeout: 1s, healthy: 1, unhealthy: 1, method: HEAD, status: 204}
  rooted:
    url: "http://127.0.0.1:@D@/base"
    health: {path: /alone, from_root: true, every: 100ms, timeout: 1s}
  spare: {url: "http://127.0.0.1:@B@"}
routes:
  pair:
    match: {path: /pair}
    variants: {v1: {backend: pair}}
    policy: {type: single, variant: v1}
  one:
    match: {path: /one}
    variants: {v1: {backend: one}}
    policy: {type: single, variant: v1}
  fall:
    match: {path: /fall}
    variants: {v1: {backend: one}, v2: {backend: spare}}
    policy: {type: single, variant: v1}
    fallback: [v2]
"""
NAMES = ("a", "b", "c", "d")
READY = (b"/base/v2/models/digits/ready", b"/one", b"/alone")


class Ready:
    """What the backends say to probes; requests get their markers."""

    def __init__(self, rig: FaultRig) -> None:
        self.rig = rig
        self.answers: dict[str, bytes] = {"a": ok(), "b": ok(), "c": b"HTTP/1.1 204 Ready\r\n\r\n", "d": ok()}
        self.probes: dict[str, list[Request]] = {name: [] for name in NAMES}
        for name in NAMES:
            self._steer(name)

    def _steer(self, name: str) -> None:
        backend = self.rig.backends[name]
        marker = type(backend).marker

        def answer(asked: Request) -> bytes:
            if asked.target in READY and asked.method in (b"GET", b"HEAD"):
                self.probes[name].append(asked)
                return self.answers[name]
            return marker(backend, asked)

        backend.marker = answer  # type: ignore[method-assign,assignment]

    def more(self, name: str) -> None:
        """Waits for the next probe of ``name``."""
        seen = len(self.probes[name])
        self.rig.until(lambda: len(self.probes[name]) > seen)

    def wait(self, route: str, *states: str) -> None:
        def reached() -> bool:
            live = self.rig.gateway.api.route_status(route)
            assert live is not None
            return [place["state"] for place in live.health["v1"]] == list(states)

        self.rig.until(reached)


@pytest.fixture
def ready(rig: FaultRig) -> Ready:
    found = Ready(rig)
    found.wait("pair", "healthy", "healthy")
    found.wait("one", "healthy")
    return found


def asked(rig: FaultRig, path: str, count: int) -> set[bytes]:
    return {rig.ask(path).body[:1] for _ in range(count)}


@pytest.mark.long
def test_what_is_asked(rig: FaultRig, ready: Ready) -> None:
    rig.until(lambda: len(ready.probes["a"]) >= 3 and len(ready.probes["c"]) >= 3)
    probe = ready.probes["a"][0]
    assert probe.line == b"GET /base/v2/models/digits/ready HTTP/1.1"
    assert probe.all("host") == [b"127.0.0.1:%d" % rig.backends["a"].port]
    assert probe.all("x-backend-key") == [b"secret"]
    assert probe.all("connection") == [b"close"]
    assert ready.probes["c"][0].line == b"HEAD /one HTTP/1.1"
    # A connection for each, and none of them serves a client.
    assert len({p.connection for p in ready.probes["a"]}) == len(ready.probes["a"])
    assert all(not address.connections for address in rig.gateway.registry.addresses.values())


@pytest.mark.long
def test_an_address_that_is_not_ready_gets_no_requests_until_it_is(rig: FaultRig, ready: Ready) -> None:
    ready.answers["b"] = ok(status=b"503 Loading")
    ready.wait("pair", "healthy", "unhealthy")
    assert asked(rig, "/pair", 6) == {b"a"}
    ready.answers["b"] = ok()
    ready.wait("pair", "healthy", "healthy")
    assert asked(rig, "/pair", 6) == {b"a", b"b"}
    told = [e for e in rig.events("health") if e["address"].endswith(str(rig.backends["b"].port))]
    assert [e["state"] for e in told[-2:]] == ["unhealthy", "healthy"]
    assert told[-2]["reason"] == "status 503"


def test_a_probe_may_be_outside_of_the_base_path(rig: FaultRig, ready: Ready) -> None:
    rig.until(lambda: ready.probes["d"])
    assert ready.probes["d"][0].line == b"GET /alone HTTP/1.1"


@pytest.mark.long
def test_one_bad_probe_is_not_enough(rig: FaultRig, ready: Ready) -> None:
    events = len(rig.events("health"))
    for _ in range(3):
        ready.answers["b"] = ok(status=b"503 Loading")
        ready.more("b")
        ready.answers["b"] = ok()
        ready.more("b")
    assert len(rig.events("health")) == events


@pytest.mark.long
def test_a_probe_that_hangs_is_a_bad_one(rig: FaultRig, ready: Ready) -> None:
    rig.always("b", HOLD)
    ready.wait("pair", "healthy", "unhealthy")
    assert "no response within 1 s" in rig.events("health")[-1]["reason"]
    assert asked(rig, "/pair", 4) == {b"a"}
    rig.well("b")
    ready.wait("pair", "healthy", "healthy")


def test_when_all_are_ill_all_are_used(rig: FaultRig, ready: Ready) -> None:
    """Below the panic threshold the probes say more about the probes than about any address."""
    for name in ("a", "b"):
        ready.answers[name] = ok(status=b"500 Ill")
    ready.wait("pair", "unhealthy", "unhealthy")
    assert asked(rig, "/pair", 6) == {b"a", b"b"}


@pytest.mark.long
def test_an_only_address_that_is_ill_is_used_unless_another_variant_stands_by(
    rig: FaultRig, ready: Ready
) -> None:
    ready.answers["c"] = b"HTTP/1.1 200 Not quite\r\ncontent-length: 0\r\n\r\n"
    ready.wait("one", "unhealthy")
    assert asked(rig, "/one", 2) == {b"c"}
    rig.outcomes.clear()
    assert rig.ask("/fall").body == b"b|POST|/fall|2"
    assert rig.attempts() == [("v1", "backend_unhealthy")]
    assert all(r.target != b"/fall" for r in rig.backends["c"].requests)


@pytest.mark.long
def test_an_edit_keeps_the_verdict_and_the_end_of_probing_forgets_it(rig: FaultRig, ready: Ready) -> None:
    ready.answers["b"] = ok(status=b"503 Loading")
    ready.wait("pair", "healthy", "unhealthy")
    rig.edit(CONFIG.replace("every: 100ms", "every: 150ms"))
    live: Any = rig.call(rig.gateway.api.route_status, "pair")
    assert [p["state"] for p in live.health["v1"]] == ["healthy", "unhealthy"]
    line = (
        "    health: {path: /v2/models/digits/ready, every: 100ms, timeout: 1s, healthy: 2, unhealthy: 2}\n"
    )
    assert line in CONFIG
    rig.edit(CONFIG.replace(line, ""))
    ready.wait("pair", "healthy", "healthy")
    seen = len(ready.probes["b"])
    rig.edit(CONFIG)
    rig.until(lambda: len(ready.probes["b"]) > seen)
    # The first probe of an address decides by itself.
    ready.wait("pair", "healthy", "unhealthy")
    ready.answers["b"] = ok()
    ready.wait("pair", "healthy", "healthy")


@pytest.mark.long
def test_an_address_that_comes_back_starts_slowly(rig: FaultRig, ready: Ready) -> None:
    rig.edit(CONFIG.replace("balance: round_robin\n", "balance: round_robin\n    slow_start: 1h\n", 1))
    try:
        ready.answers["b"] = ok(status=b"503 Loading")
        ready.wait("pair", "healthy", "unhealthy")
        ready.answers["b"] = ok()
        ready.wait("pair", "healthy", "healthy")
        answers = [rig.ask("/pair").body[:1] for _ in range(100)]
        assert 0 < answers.count(b"b") < 30  # a tenth of its share at first, so about 1 in 11 or 20
    finally:
        rig.edit(CONFIG)
