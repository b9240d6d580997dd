"""Which addresses may be used, and the choice between them: with a fake clock and fixed chance."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gateway.transport.address import Address
from gateway.transport.balancer import Backend, Balance
from gateway.transport.endpoint import Endpoint
from gateway.transport.health import OFF, Health
from gateway.transport.limiter import ConcurrencyLimiter, Limit
from policies.ejection import Settings

SETTINGS = Settings(consecutive_local=2, consecutive_remote=3, base=10.0, longest=60.0, slow_start=0.0)


class Made:
    """A backend of ``count`` addresses; what was told."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        count: int,
        settings: Settings = SETTINGS,
        balance: Balance = "least_load",
    ) -> None:
        self.told: list[tuple[str, Mapping[str, Any]]] = []
        self.addresses = [Address(Endpoint("http", "127.0.0.1", 9000 + n), loop) for n in range(count)]
        self.health = Health("models", lambda kind, data: self.told.append((kind, data)))
        self.health.configure(self.addresses, settings)
        self.backend = Backend(
            "models",
            self.addresses,
            ConcurrencyLimiter(Limit(in_flight=1024, waiting=1024, wait=1.0)),
            random.Random(4).random,
            health=self.health,
            balance=balance,
        )

    def picked(self, now: float, count: int = 2000, **options: Any) -> list[float]:
        """The share that each address gets."""
        found = Counter(self.backend.pick(now, **options) for _ in range(count))
        return [found[address] / count for address in self.addresses]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def fail(made: Made, place: int, code: str, times: int, now: float) -> None:
    for _ in range(times):
        made.health.failed(made.addresses[place], code, now)


def test_an_untroubled_backend_shares_evenly(loop: asyncio.AbstractEventLoop) -> None:
    kinds: tuple[Balance, ...] = ("least_load", "round_robin", "random")
    for balance in kinds:
        shares = Made(loop, 4, balance=balance).picked(0.0)
        assert shares == pytest.approx([0.25] * 4, abs=0.05), balance


def test_round_robin_takes_turns(loop: asyncio.AbstractEventLoop) -> None:
    made = Made(loop, 3, balance="round_robin")
    picks = [made.backend.pick(0.0) for _ in range(6)]
    assert picks[:3] == picks[3:]
    assert set(picks) == set(made.addresses)


def test_the_less_loaded_of_two_is_taken(loop: asyncio.AbstractEventLoop) -> None:
    made = Made(loop, 2)
    made.addresses[0].in_flight = 5
    assert made.picked(0.0, 100) == [0.0, 1.0]
    three = Made(loop, 3)
    three.addresses[0].in_flight = 9
    three.addresses[1].in_flight = 5
    shares = three.picked(0.0)
    # The busiest never wins; the next only against the busiest.
    assert shares == pytest.approx([0.0, 1 / 3, 2 / 3], abs=0.05)


def test_an_untried_address_is_preferred(loop: asyncio.AbstractEventLoop) -> None:
    made = Made(loop, 3)
    tried = made.addresses[:2]
    assert {made.backend.pick(0.0, tried) for _ in range(20)} == {made.addresses[2]}
    assert made.backend.pick(0.0, made.addresses) in made.addresses


def test_failures_eject_and_are_told(loop: asyncio.AbstractEventLoop) -> None:
    made = Made(loop, 3)
    fail(made, 0, "backend_status", 2, 100.0)
    assert made.health.state(made.addresses[0], 100.0) == "healthy"
    fail(made, 0, "backend_status", 1, 100.0)
    assert made.health.state(made.addresses[0], 100.0) == "ejected"
    assert made.picked(100.0)[0] == 0.0
    ((kind, data),) = made.told
    assert kind == "ejection"
    assert data == {
        "backend": "models",
        "address": "http://127.0.0.1:9000",
        "state": "ejected",
        "reason": "3 error responses in a row",
        "seconds": 10.0,
    }


@pytest.mark.parametrize(
    "code", ["backend_connect", "backend_reset", "backend_first_byte_timeout", "backend_truncated"]
)
def test_failures_without_an_answer_are_local(loop: asyncio.AbstractEventLoop, code: str) -> None:
    made = Made(loop, 3)
    fail(made, 0, code, 2, 0.0)
    assert made.health.state(made.addresses[0], 0.0) == "ejected"


def test_a_good_answer_ends_a_run(loop: asyncio.AbstractEventLoop) -> None:
    made = Made(loop, 3)
    for _ in range(10):
        fail(made, 0, "backend_reset", 1, 0.0)
        made.health.good(made.addresses[0], 0.0)
    assert not made.health.degraded


def test_the_return_is_told_once_and_trouble_ends(loop: asyncio.AbstractEventLoop) -> None:
    made = Made(loop, 3)
    fail(made, 0, "backend_reset", 2, 100.0)
    made.health.tick(109.0)
    assert len(made.told) == 1
    assert made.health.degraded
    made.health.tick(110.5)
    made.health.tick(111.5)
    assert [data["state"] for _, data in made.told] == ["ejected", "returned"]
    assert not made.health.degraded


def test_when_too_few_are_well_all_are_used_unless_something_stands_by(
    loop: asyncio.AbstractEventLoop,
) -> None:
    made = Made(loop, 2)
    for address in made.addresses:
        made.health.probed(address, healthy=False, reason="down", now=0.0)
    assert made.picked(0.0) == pytest.approx([0.5, 0.5], abs=0.05)
    assert made.backend.pick(0.0, elsewhere=True) is None
    made.health.probed(made.addresses[1], healthy=True, reason="up", now=0.0)
    assert made.picked(0.0, elsewhere=True) == [0.0, 1.0]


def test_with_panic_off_none_may_be_left(loop: asyncio.AbstractEventLoop) -> None:
    made = Made(loop, 1, Settings(consecutive_local=1, max_ejected=1.0, panic=0.0))
    fail(made, 0, "backend_connect", 1, 0.0)
    assert made.backend.pick(0.0) is None


def test_without_ejection_no_failure_counts(loop: asyncio.AbstractEventLoop) -> None:
    made = Made(loop, 2, OFF)
    fail(made, 0, "backend_connect", 1000, 0.0)
    fail(made, 0, "backend_status", 1000, 0.0)
    assert not made.health.degraded


@pytest.mark.parametrize("balance", ["least_load", "round_robin", "random"])
def test_a_returned_address_starts_slowly(loop: asyncio.AbstractEventLoop, balance: Balance) -> None:
    made = Made(loop, 2, Settings(consecutive_local=1, base=10.0, slow_start=100.0), balance)
    fail(made, 0, "backend_connect", 1, 0.0)
    at_first, half, later = (made.picked(now)[0] for now in (10.0, 60.0, 110.5))
    assert 0.02 < at_first < 0.15
    assert at_first < half < 0.45
    made.health.tick(110.5)
    assert later == pytest.approx(0.5, abs=0.06)
    assert not made.health.degraded


def test_probes_that_repeat_themselves_are_not_told_again(loop: asyncio.AbstractEventLoop) -> None:
    made = Made(loop, 2)
    for healthy in (True, False, False, True, True):
        made.health.probed(made.addresses[0], healthy=healthy, reason="", now=0.0)
    assert [data["state"] for _, data in made.told] == ["unhealthy", "healthy"]


def test_an_edit_keeps_what_is_known_and_forgets_who_is_gone(loop: asyncio.AbstractEventLoop) -> None:
    made = Made(loop, 3)
    fail(made, 0, "backend_reset", 2, 0.0)
    gone = made.addresses[2]
    made.health.configure(made.addresses[:2], SETTINGS)
    assert made.health.state(made.addresses[0], 1.0) == "ejected"
    assert gone not in made.health.usable(1.0)
    made.health.failed(gone, "backend_reset", 1.0)  # an answer that was still under way
    made.health.good(gone, 1.0)
    assert made.health.state(gone, 1.0) == "healthy"


# Silence ---------------------------------------------------------------------------------------------


def suspected(made: Made, place: int) -> Address:
    address = made.addresses[place]
    address.stalled = True
    address.next_probe_at = 1.0
    made.health.report_stall(address, 7, 0.3)
    return address


def test_a_silent_address_is_passed_by_but_for_a_probe_now_and_then(loop: asyncio.AbstractEventLoop) -> None:
    made = Made(loop, 2)
    silent = suspected(made, 0)
    assert made.told[0][1]["reason"] == "silent for over 0.300 s while 7 requests wait"
    assert made.picked(0.5) == [0.0, 1.0]
    picks = [made.backend.pick(1.0 + n / 100) for n in range(100)]
    assert picks.count(silent) == 4  # one each quarter of a second


def test_a_silent_only_address_is_left_to_the_fallback(loop: asyncio.AbstractEventLoop) -> None:
    made = Made(loop, 1)
    silent = suspected(made, 0)
    assert made.backend.pick(0.5, elsewhere=True) is None
    assert made.backend.pick(0.5) is silent  # nobody stands by: better silent than nothing
    assert made.backend.pick(1.0, elsewhere=True) is silent  # a probe
    assert made.backend.pick(1.01, elsewhere=True) is None


def test_a_quick_answer_clears_and_a_late_one_only_gives_another_chance(
    loop: asyncio.AbstractEventLoop,
) -> None:
    made = Made(loop, 2)
    silent = suspected(made, 0)
    silent.min_stall, silent.latency.samples = 0.25, 100
    made.health.recheck_stall(silent, 900.0, 5.0)
    assert made.health.state(silent, 5.0) == "stalled"
    assert silent.next_probe_at == 5.0
    made.health.recheck_stall(silent, 20.0, 5.1)
    assert made.health.state(silent, 5.1) == "healthy"
    assert made.told[-1][1]["state"] == "healthy"


def test_what_is_usual_follows_the_answers(loop: asyncio.AbstractEventLoop) -> None:
    address = Address(Endpoint("http", "127.0.0.1", 1), loop)
    address.min_stall = 0.25
    assert address.stall_timeout() == float("inf")
    for n in range(19):
        address.latency.observe(100.0 + (n % 2))
    assert address.stall_timeout() == float("inf")
    for n in range(200):
        address.latency.observe(100.0 + (n % 2))
    # Mean 100.5 ms, mean deviation 0.5 ms.
    assert address.stall_timeout() == pytest.approx(3 * (100.5 + 4 * 0.5) / 1e3, rel=0.02)
    address.min_stall = 0.0
    assert address.stall_timeout() == float("inf")


# The limiter -----------------------------------------------------------------------------------------


class Waiting:
    def __init__(self, limiter: ConcurrencyLimiter) -> None:
        self.limiter = limiter
        self.served = False

    def on_turn(self) -> None:
        self.served = True
        self.limiter.in_flight += 1


def test_places_go_to_who_waits_in_turn() -> None:
    limiter = ConcurrencyLimiter(Limit(in_flight=2, waiting=3, wait=1.0))
    limiter.in_flight = 2
    queue = [Waiting(limiter) for _ in range(3)]
    limiter.waiting.extend(queue)
    assert limiter.full
    assert limiter.queue_full
    limiter.in_flight -= 1
    limiter.admit(0.0)
    assert [w.served for w in queue] == [True, False, False]
    assert limiter.full


def test_the_gate_learns_how_fast_places_become_free() -> None:
    limiter = ConcurrencyLimiter(Limit(in_flight=1, waiting=100, wait=0.5))
    limiter.in_flight = 1
    for n in range(200):
        limiter.waiting.append(Waiting(limiter))
        limiter.in_flight -= 1
        limiter.admit(10.0 + n * 0.02)
    assert limiter.slot_interval == pytest.approx(0.02, rel=0.01)
    limiter.waiting.extend(Waiting(limiter) for _ in range(24))
    assert not limiter.would_time_out()
    limiter.waiting.extend(Waiting(limiter) for _ in range(3))
    assert limiter.would_time_out()
    assert limiter.drain_time() == pytest.approx(0.54, rel=0.02)


def test_a_lone_address_that_fails_is_called_failing_and_goes_on_being_used(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """T2: `max_ejected` keeps the last address in use, which says nothing of what it did last."""
    made = Made(loop, 1)
    (address,) = made.addresses
    fail(made, 0, "backend_connect", 4, 100.0)
    assert made.health.state(address, 100.0) == "healthy"
    fail(made, 0, "backend_connect", 3, 101.0)
    assert made.health.state(address, 101.0) == "failing"
    run = made.health.failing(address)
    assert run is not None
    assert (run.attempts, run.error, run.since) == (7, "backend_connect", 100.0)
    assert made.backend.pick(101.0) is address
    made.health.tick(101.0)
    assert not made.health.degraded
    made.health.good(address, 102.0)
    assert made.health.state(address, 102.0) == "healthy"
    assert made.health.failing(address) is None
    assert [data["state"] for _, data in made.told] == ["failing", "healthy"]


def test_an_ejected_address_is_failing_again_only_once_it_is_back(loop: asyncio.AbstractEventLoop) -> None:
    made = Made(loop, 2)
    fail(made, 0, "backend_connect", 6, 0.0)
    assert made.health.state(made.addresses[0], 1.0) == "ejected"
    assert made.health.state(made.addresses[0], 60.0) == "failing"
