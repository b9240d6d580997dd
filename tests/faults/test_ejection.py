"""Passive ejection through the whole gateway: what ejects, what does not, who gets the requests, and the return."""

from __future__ import annotations

import time

import pytest

from tests.faults.rig import FaultRig
from tests.support.backend import RESET, ok

CONFIG = """
backends:
  pair:
    urls: ["http://127.0.0.1:@A@", "http://127.0.0.1:@B@"]
    balance: round_robin
    ejection: {consecutive: 5, local_consecutive: 3, rate: null, base: 1h, max: 1h}
  brief:
    urls: ["http://127.0.0.1:@A@", "http://127.0.0.1:@B@"]
    balance: round_robin
    ejection: {consecutive: 5, rate: null, base: 400ms, max: 2s}
  rated:
    urls: ["http://127.0.0.1:@A@", "http://127.0.0.1:@B@"]
    balance: round_robin
    ejection: {consecutive: 1000, local_consecutive: 1000, rate: 40%, min_requests: 10, base: 1h, max: 1h}
  one:
    url: "http://127.0.0.1:@A@"
    ejection: {consecutive: 3, base: 1h, max: 1h}
  strict:
    url: "http://127.0.0.1:@A@"
    ejection: {consecutive: 3, base: 1h, max: 1h, max_share: 100%, panic: 0%}
  spare: {url: "http://127.0.0.1:@B@"}
routes:
  pair: &plain
    match: {path: /pair}
    variants: {v1: {backend: pair}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
  brief:
    match: {path: /brief}
    variants: {v1: {backend: brief}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
  rated:
    match: {path: /rated}
    variants: {v1: {backend: rated}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
  one:
    match: {path: /one}
    variants: {v1: {backend: one}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
  strict:
    match: {path: /strict}
    variants: {v1: {backend: strict}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
  strict-fall:
    match: {path: /strict-fall}
    variants: {v1: {backend: strict}, v2: {backend: spare}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
    fallback: [v2]
"""

BAD = ok(b"ill", status=b"500 Ill")


def asked(rig: FaultRig, path: str, count: int) -> list[bytes]:
    return [rig.ask(path).body[:1] for _ in range(count)]


def states(rig: FaultRig, route: str = "pair") -> list[str]:
    live = rig.call(rig.gateway.api.route_status, route)
    assert live is not None
    return [usable(place["state"]) for place in live.health["v1"]]


def usable(state: str) -> str:
    """`failing` is what was last seen of an address that is used all the same: not a verdict of ejection."""
    return "healthy" if state == "failing" else state


def told(rig: FaultRig, name: str) -> list[tuple[str, str]]:
    port = str(rig.backends[name].port)
    return [(e["state"], e["reason"]) for e in rig.events("ejection") if e["address"].endswith(port)]


def test_error_answers_in_a_row_eject(rig: FaultRig) -> None:
    rig.always("a", BAD)
    before = len(told(rig, "a"))
    asked(rig, "/pair", 10)
    assert states(rig) == ["ejected", "healthy"]
    assert asked(rig, "/pair", 6) == [b"b"] * 6
    assert told(rig, "a")[before] == ("ejected", "5 error responses in a row")


def test_four_in_a_row_do_not(rig: FaultRig) -> None:
    for _ in range(2):
        for _ in range(4):
            rig.next("a", BAD)
        rig.next("a", ok(b"a"))
        while rig.backends["a"].plans:
            rig.ask("/pair")
    assert states(rig) == ["healthy", "healthy"]


def test_failures_without_an_answer_count_apart(rig: FaultRig) -> None:
    """Three resets in a row suffice; two resets and four error responses do not."""
    for steps in (RESET, RESET, BAD, BAD, BAD, BAD):
        rig.next("a", steps)
    while rig.backends["a"].plans:
        rig.ask("/pair")
    assert states(rig) == ["healthy", "healthy"]
    rig.next("a", ok())
    while rig.backends["a"].plans:
        rig.ask("/pair")
    rig.always("a", RESET)
    asked(rig, "/pair", 8)  # the first of them ends a reused connection, which counts for nothing
    assert states(rig) == ["ejected", "healthy"]


def test_a_share_of_failures_ejects(rig: FaultRig) -> None:
    for number in range(20):
        rig.next("a", BAD if number % 2 else ok(b"a"))
    for _ in range(40):
        rig.ask("/rated")
        if states(rig, "rated") == ["ejected", "healthy"]:
            break
    seen = len(rig.backends["a"].requests)
    assert 10 <= seen < 20
    assert asked(rig, "/rated", 4) == [b"b"] * 4


def test_never_more_than_half_are_ejected(rig: FaultRig) -> None:
    rig.always("a", BAD)
    rig.always("b", BAD)
    answers = [rig.ask("/pair").status for _ in range(30)]
    assert answers == [500] * 30
    assert sorted(states(rig)) == ["ejected", "healthy"]


@pytest.mark.long
def test_it_returns_and_is_ejected_for_longer_the_next_time(rig: FaultRig) -> None:
    rig.always("a", BAD)
    asked(rig, "/brief", 10)
    returned(rig)
    begun, before = time.monotonic(), len(told(rig, "a"))
    asked(rig, "/brief", 10)
    assert told(rig, "a")[before][0] == "ejected"
    rig.well("a")
    returned(rig)
    assert time.monotonic() - begun > 0.7  # twice 400 ms
    assert b"a" in asked(rig, "/brief", 4)
    assert told(rig, "a")[-1] == ("returned", "its ejection is over")


def returned(rig: FaultRig) -> None:
    """Waits until no address of `brief` is ejected, and has that reported: else the next tick would, a second later."""
    health = rig.gateway.registry.healths["brief"]
    rig.until(lambda: not any(record.ejected(time.perf_counter()) for record in health._records.values()))
    rig.call(health.tick, time.perf_counter())


def test_the_only_address_is_never_ejected_by_default(rig: FaultRig) -> None:
    rig.always("a", BAD)
    assert asked(rig, "/one", 10) == [b"i"] * 10
    assert states(rig, "one") == ["healthy"]


def test_with_panic_off_the_only_address_may_be_and_clients_are_told(rig: FaultRig) -> None:
    rig.always("a", BAD)
    asked(rig, "/strict", 3)
    assert states(rig, "strict") == ["ejected"]
    answer = rig.ask("/strict")
    assert (answer.status, answer.code) == (503, "backend_unhealthy")
    assert answer.all("retry-after") == [b"1"]
    assert len(rig.backends["a"].requests) == 3
    found = rig.outcomes[-1]
    assert (found.status, found.error, found.served) == (503, "backend_unhealthy", "")


def test_or_the_fallback_serves_at_once(rig: FaultRig) -> None:
    rig.always("a", BAD)
    asked(rig, "/strict-fall", 3)
    rig.outcomes.clear()
    assert rig.ask("/strict-fall").body == b"b|POST|/strict-fall|2"
    assert len(rig.backends["a"].requests) == 3
    assert rig.attempts() == [("v1", "backend_unhealthy")]


def test_an_edit_keeps_what_is_known_of_an_address(rig: FaultRig) -> None:
    rig.always("a", BAD)
    asked(rig, "/rated", 20)
    rig.always("a", ok(b"a"))
    before = states(rig, "rated")
    rig.edit(CONFIG.replace("rate: 40%", "rate: 45%"))
    try:
        assert states(rig, "rated") == before == ["ejected", "healthy"]
        assert asked(rig, "/rated", 4) == [b"b"] * 4
    finally:
        rig.edit(CONFIG)


@pytest.mark.parametrize("status", [400, 404, 429, 499])
def test_what_the_client_did_wrong_ejects_nobody(rig: FaultRig, status: int) -> None:
    rig.always("a", ok(b"", status=b"%d No" % status))
    asked(rig, "/pair", 20)
    assert states(rig) == ["healthy", "healthy"]
