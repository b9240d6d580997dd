"""Outlier ejection as transcripts, and its caps as properties."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.ejection import LOCAL, OK, REMOTE, Address, Group, Settings

PLAIN = Settings(base=10, longest=60, slow_start=10)


def group(n: int = 4, options: Settings = PLAIN) -> tuple[Group, Address]:
    made = Group([f"10.0.0.{i}:80" for i in range(n)], options)
    return made, next(iter(made.addresses.values()))


def feed(into: Group, address: Address, results: list[int], now: float = 0.0) -> str:
    return [into.observe(address, result, now) for result in results][-1]


def test_a_run_of_local_failures_ejects() -> None:
    backend, first = group()
    assert feed(backend, first, [LOCAL, LOCAL]) == ""
    assert feed(backend, first, [LOCAL]) == "3 connection failures or timeouts in a row"
    assert first.ejected(9.9)
    assert not first.ejected(10)


def test_the_two_kinds_are_counted_apart_and_a_success_ends_both_runs() -> None:
    backend, first = group()
    assert feed(backend, first, [LOCAL, LOCAL, REMOTE, REMOTE, REMOTE, REMOTE]) == ""
    assert feed(backend, first, [OK, LOCAL, LOCAL, REMOTE, REMOTE, REMOTE, REMOTE]) == ""
    assert feed(backend, first, [REMOTE]) == "5 error responses in a row"


def test_a_share_of_failures_ejects_without_a_run() -> None:
    backend, first = group()
    assert feed(backend, first, [OK, REMOTE] * 9) == ""
    assert feed(backend, first, [OK, REMOTE]) == "10 of 20 requests ended in error responses"


def test_a_share_is_counted_within_an_interval() -> None:
    backend, first = group()
    for second in range(100):
        assert backend.observe(first, REMOTE if second % 2 else OK, second) == ""


def test_ejection_time_grows_and_is_forgiven() -> None:
    backend, first = group()
    now, lengths = 0.0, []
    for _ in range(5):
        assert feed(backend, first, [LOCAL] * 3, now)
        lengths.append(first.ejected_until - now)
        now = first.ejected_until
    assert lengths == [10, 20, 40, 60, 60]
    now = first.ejected_until + 200
    assert feed(backend, first, [LOCAL] * 3, now)
    assert first.ejected_until - now == 10


def test_late_failures_of_an_ejected_address_are_no_news() -> None:
    backend, first = group()
    feed(backend, first, [LOCAL] * 3)
    assert feed(backend, first, [LOCAL] * 50, 5) == ""
    assert first.ejected_until == 10
    assert feed(backend, first, [LOCAL] * 2, 10) == ""


def test_never_more_than_the_share() -> None:
    backend, _ = group(5)
    reasons = [feed(backend, address, [LOCAL] * 30) for address in backend.addresses.values()]
    assert sum(address.ejected(1) for address in backend.addresses.values()) == 2
    assert len(reasons) == 5
    lonely, only = group(1)
    feed(lonely, only, [LOCAL] * 30)
    assert not only.ejected(0)


def test_slow_start_after_the_return() -> None:
    backend, first = group()
    assert first.weight(0, PLAIN) == 1.0
    feed(backend, first, [LOCAL] * 3)
    assert [first.weight(now, PLAIN) for now in (10, 15, 19, 20)] == [0.1, 0.5, 0.9, 1.0]


def test_usable_follows_ejections_and_probes() -> None:
    backend, first = group()
    assert len(backend.usable(0)) == 4
    assert backend.usable(0) is backend.usable(1)
    feed(backend, first, [LOCAL] * 3, 1)
    assert first not in backend.usable(1)
    assert first in backend.usable(11)
    backend.mark(first, healthy=False)
    assert first not in backend.usable(11)
    backend.mark(first, healthy=True)
    assert first in backend.usable(11)


def test_in_a_panic_all_are_used() -> None:
    backend, _ = group()
    for i, address in enumerate(backend.addresses.values()):
        backend.mark(address, healthy=i == 0)
    assert backend.panicking(0)
    assert len(backend.usable(0)) == 4


def test_a_reload_keeps_what_is_known() -> None:
    backend, first = group()
    feed(backend, first, [LOCAL] * 3)
    backend.update([first.name, "10.0.0.9:80"])
    assert backend.addresses[first.name] is first
    assert [a.name for a in backend.usable(5)] == ["10.0.0.9:80"]
    backend.update([first.name], Settings(panic=0))
    assert backend.usable(5) == ()


def test_rules_can_be_turned_off() -> None:
    backend, first = group(options=Settings(consecutive_local=0, consecutive_remote=0, failure_share=2))
    assert feed(backend, first, [LOCAL, REMOTE] * 100) == ""


def test_it_tells_what_it_is() -> None:
    assert repr(Address("a:1")) == "Address('a:1', ejections=0, healthy=True)"


LIVES = st.lists(
    st.tuples(st.floats(0, 5), st.integers(0, 4), st.sampled_from([OK, LOCAL, REMOTE])), max_size=200
)


@settings(max_examples=150, deadline=None)
@given(LIVES, st.floats(0, 1), st.floats(0, 1))
def test_caps_hold_in_every_life(
    life: list[tuple[float, int, int]], max_ejected: float, panic: float
) -> None:
    options = Settings(max_ejected=max_ejected, panic=panic, min_requests=5)
    backend, now = Group("abcde", options), 0.0
    for wait, which, result in life:
        now += wait
        address = backend.addresses["abcde"[which]]
        reason = backend.observe(address, result, now)
        assert not reason or address.ejected(now)
        ejected = [a for a in backend.addresses.values() if a.ejected(now)]
        assert len(ejected) <= max_ejected * 5
        assert all(a.ejected_until - now <= options.longest for a in ejected)
        usable = backend.usable(now)
        well = [a for a in backend.addresses.values() if a not in ejected]
        assert list(usable) == (well if len(well) >= panic * 5 else list(backend.addresses.values()))
        assert all(options.least_weight <= a.weight(now, options) <= 1 for a in backend.addresses.values())


@pytest.mark.parametrize("n", [2, 200])
def test_observing_does_not_depend_on_how_many_addresses_there_are(n: int) -> None:
    """O(1): no other address is touched by an observation that ejects nobody."""
    backend, first = group(n)

    class Untouchable(dict[str, Address]):
        def values(self):  # type: ignore[no-untyped-def]
            raise AssertionError("the hot path looked at the other addresses")

    backend.addresses = Untouchable(backend.addresses)
    for i in range(100):
        backend.observe(first, OK if i % 3 else LOCAL, float(i))
