"""A backend that hangs is found by its silence, long before the timeout, and found well as soon as it answers."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.rig import FaultRig, request
from tests.support.backend import HOLD

NAMES = ("a", "b", "c")
CONFIG = """
backends:
  a: {url: "http://127.0.0.1:@A@"}
  b: {url: "http://127.0.0.1:@B@"}
  deaf: {url: "http://127.0.0.1:@A@", ejection: {silence: 0s}}
  narrow: {url: "http://127.0.0.1:@A@", limit: {in_flight: 1, waiting: 8, wait: 5s}}
  pair:
    urls: ["http://127.0.0.1:@A@", "http://127.0.0.1:@C@"]
    balance: round_robin
    ejection: {local_consecutive: 1000, rate: null}
routes:
  fall:
    match: {path: /fall}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: single, variant: v1}
    fallback: [v2]
    timeouts: {first_byte: 20s}
  deaf:
    match: {path: /deaf}
    variants: {v1: {backend: deaf}, v2: {backend: b}}
    policy: {type: single, variant: v1}
    fallback: [v2]
    timeouts: {first_byte: 1s}
  narrow:
    match: {path: /narrow}
    variants: {v1: {backend: narrow}, v2: {backend: b}}
    policy: {type: single, variant: v1}
    fallback: [v2]
    timeouts: {first_byte: 20s}
  short:
    match: {path: /short}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: single, variant: v1}
    fallback: [v2]
    timeouts: {first_byte: 8s}
  alone:
    match: {path: /alone}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    timeouts: {first_byte: 20s}
  pair:
    match: {path: /pair}
    variants: {v1: {backend: pair}}
    policy: {type: single, variant: v1}
    timeouts: {first_byte: 20s}
  again:
    match: {path: /again}
    variants: {v1: {backend: pair}}
    policy: {type: single, variant: v1}
    retry: {replayable: true, on: {timeout: true}, budget: 100%}
    timeouts: {first_byte: 20s}
"""


def load(rig: FaultRig, path: str, *, rate: float, seconds: float) -> list[tuple[float, bytes]]:
    """An open loop of requests, each on a connection of its own: (seconds taken, answer) of each."""

    async def one() -> tuple[float, bytes]:
        begun = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(request(path, lines=b"connection: close\r\n"))
        answer = await reader.read()
        writer.close()
        return time.monotonic() - begun, answer

    async def all_of_them() -> list[tuple[float, bytes]]:
        tasks = []
        for _ in range(int(rate * seconds)):
            tasks.append(asyncio.ensure_future(one()))
            await asyncio.sleep(1 / rate)
        return list(await asyncio.gather(*tasks))

    return rig.run(all_of_them())


def address(rig: FaultRig, name: str) -> Any:
    port = rig.backends[name].port
    (found,) = [
        a for (e, shadow), a in rig.gateway.registry.addresses.items() if e.port == port and not shadow
    ]
    return found


@pytest.fixture(autouse=True)
def known(rig: FaultRig) -> Iterator[None]:
    """The usual latency of each address is known, and none is stalled."""
    for name in NAMES:
        rig.well(name)
        found = address(rig, name)
        found.stalled = False
        found.next_probe_at = 0.0
        usual = found.latency
        usual.samples, usual.mean_ms, usual.deviation_ms = 100, 2.0, 1.0
    for health in rig.gateway.registry.healths.values():
        rig.call(health.tick, time.perf_counter())
        assert not health.degraded
    yield
    for backend in rig.backends.values():  # else the requests that it still holds last until their timeout
        rig.call(backend.reset)


@pytest.mark.long
def test_requests_of_a_hung_backend_fall_over_early(rig: FaultRig) -> None:
    rig.always("a", HOLD)
    answers = load(rig, "/fall", rate=60, seconds=2.0)
    assert all(b"b|POST" in answer for _, answer in answers)
    # Those that were waiting when silence was noticed, and a probe every quarter of a second after that.
    stalled = [o for o in rig.outcomes if o.error == "backend_stalled"]
    assert len(stalled) < 60
    assert max(spent for spent, _ in answers) < 15  # 350 ms on a quiet machine; the timeout is 20 s
    assert {o.error for o in rig.outcomes} == {"backend_stalled", "backend_unhealthy"}
    assert all(o.served == "v2" and o.fallback for o in rig.outcomes)
    assert address(rig, "a").stalled


@pytest.mark.slow
def test_a_few_requests_are_left_as_probes_and_the_others_are_taken_back(rig: FaultRig) -> None:
    rig.always("a", HOLD)
    load(rig, "/short", rate=60, seconds=1.0)
    # The backend still holds a few requests whose clients have been answered.
    assert 1 <= address(rig, "a").stragglers <= 4
    assert sum(c.open for c in rig.backends["a"].connections) <= 4
    rig.well("a")
    rig.until(lambda: not address(rig, "a").stragglers)


@pytest.mark.long
def test_it_gets_its_requests_back_as_soon_as_it_answers(rig: FaultRig) -> None:
    rig.always("a", HOLD)
    load(rig, "/fall", rate=60, seconds=0.8)
    assert address(rig, "a").stalled
    rig.well("a")
    begun = time.monotonic()
    while address(rig, "a").stalled:
        assert time.monotonic() - begun < 15
        rig.ask("/fall")
    rig.outcomes.clear()
    assert all(b"a|POST" in answer for _, answer in load(rig, "/fall", rate=60, seconds=0.3))
    assert {o.error for o in rig.outcomes} == {""}
    told = [e["state"] for e in rig.events("health") if e["address"].endswith(str(rig.backends["a"].port))]
    assert told[-1] == "healthy"
    assert "stalled" in told


@pytest.mark.long
def test_one_slow_request_is_no_silence(rig: FaultRig) -> None:
    """A single request may take long; so may two."""
    rig.next("a", HOLD)
    rig.next("a", HOLD)
    with rig.client() as first, rig.client() as second:
        first.send(request("/fall"))
        second.send(request("/fall"))
        time.sleep(0.8)
        assert not address(rig, "a").stalled
        rig.well("a")
        assert first.buffer == b""
    rig.until(lambda: len(rig.outcomes) == 2)


@pytest.mark.long
def test_an_address_that_answers_others_is_not_silent(rig: FaultRig) -> None:
    for _ in range(4):
        rig.next("a", HOLD)
    held = [rig.client() for _ in range(4)]
    try:
        for client in held:
            client.send(request("/fall"))
        rig.until(lambda: len(rig.backends["a"].requests) == 4)
        for _ in range(12):
            assert rig.ask("/fall").body.startswith(b"a|")
            time.sleep(0.05)
        assert not address(rig, "a").stalled
    finally:
        for client in held:
            client.socket.close()


def test_where_nobody_stands_by_requests_wait_on(rig: FaultRig) -> None:
    rig.always("a", HOLD)
    clients = [rig.client() for _ in range(4)]
    try:
        for client in clients:
            client.send(request("/alone"))
        rig.until(lambda: address(rig, "a").stalled)
        late = rig.client()
        clients.append(late)
        late.send(request("/alone"))
        rig.until(lambda: len(rig.backends["a"].requests) == 5)
        assert rig.outcomes == []
        rig.backends["a"].plans.clear()
        for steps in rig.backends["a"].connections:
            rig.call(steps.transport.write, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate")
        assert {client.answer().body for client in clients} == {b"late"}
    finally:
        for client in clients:
            client.socket.close()


@pytest.mark.long
def test_of_two_addresses_the_silent_one_is_passed_by(rig: FaultRig) -> None:
    rig.always("a", HOLD)
    answers = load(rig, "/again", rate=60, seconds=2.0)
    assert [answer for _, answer in answers if b"c|POST" not in answer] == []
    assert max(spent for spent, _ in answers) < 15
    assert {o.served for o in rig.outcomes} == {"v1"}
    assert {o.error for o in rig.outcomes} == {""}  # a repetition has mended it


def test_whoever_leaves_a_stalled_address_is_repeated(rig: FaultRig) -> None:
    """Of seven, the fourth was within the budget of repetitions only before it gave back its slot: a 504."""
    rig.always("a", HOLD)
    clients = [rig.client() for _ in range(14)]
    try:
        for client in clients:
            client.send(request("/again"))
        assert {client.answer().body for client in clients} == {b"c|POST|/again|2"}
    finally:
        for client in clients:
            client.socket.close()


def test_what_may_not_be_repeated_waits_and_what_is_new_goes_elsewhere(rig: FaultRig) -> None:
    rig.always("a", HOLD)
    clients = [rig.client() for _ in range(16)]
    try:
        for client in clients:
            client.send(request("/pair"))
        rig.until(lambda: address(rig, "a").stalled)
        address(rig, "a").next_probe_at = math.inf
        stuck = len(rig.backends["a"].requests)
        assert stuck >= 3
        answers = [rig.ask("/pair").body for _ in range(20)]
        assert all(body.startswith(b"c|") for body in answers)
        assert len(rig.backends["a"].requests) == stuck
    finally:
        for client in clients:
            client.socket.close()


@pytest.mark.long
def test_silence_says_nothing_of_an_address_that_nobody_knows_yet(rig: FaultRig) -> None:
    address(rig, "a").latency.samples = 3
    rig.always("a", HOLD)
    clients = [rig.client() for _ in range(5)]
    try:
        for client in clients:
            client.send(request("/fall"))
        time.sleep(0.8)
        assert not address(rig, "a").stalled
    finally:
        for client in clients:
            client.socket.close()


def test_a_slow_address_is_given_several_times_its_usual(rig: FaultRig) -> None:
    found = address(rig, "a")
    found.latency.mean_ms, found.latency.deviation_ms = 400.0, 50.0
    assert found.stall_timeout() == pytest.approx(1.8)
    found.latency.mean_ms, found.latency.deviation_ms = 2.0, 1.0
    assert found.stall_timeout() == 0.3


@pytest.mark.long
def test_a_loop_that_was_held_up_blames_nobody(rig: FaultRig) -> None:
    """Half a second in which the gateway itself did nothing is no silence of the backend."""
    rig.always("a", 0.05, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    clients = [rig.client() for _ in range(5)]
    try:
        for client in clients:
            client.send(request("/fall"))
        rig.until(lambda: len(rig.backends["a"].requests) == 5)
        rig.call(time.sleep, 0.6)
        assert {client.answer().status for client in clients} == {200}
        assert {o.error for o in rig.recorded(5)} == {""}
        assert not address(rig, "a").stalled
    finally:
        for client in clients:
            client.socket.close()


def test_those_in_the_queue_count_too(rig: FaultRig) -> None:
    """A backend that takes one request at a time shows only one that waits for an answer."""
    rig.always("a", HOLD)
    clients = [rig.client() for _ in range(4)]
    try:
        for client in clients:
            client.send(request("/narrow"))
        assert {client.answer().body for client in clients} == {b"b|POST|/narrow|2"}
        assert {o.error for o in rig.recorded(4)} == {"backend_stalled", "backend_unhealthy"}
    finally:
        for client in clients:
            client.socket.close()


@pytest.mark.long
def test_silence_may_be_switched_off(rig: FaultRig) -> None:
    """For one backend; another that names the same address is still wary of it."""
    rig.always("a", HOLD)
    begun = time.monotonic()
    answers = load(rig, "/deaf", rate=20, seconds=0.4)
    assert all(b"b|POST" in answer for _, answer in answers)
    assert time.monotonic() - begun > 0.9
    assert {o.error for o in rig.outcomes} == {"backend_first_byte_timeout"}
