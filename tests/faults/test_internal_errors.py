"""Faults of ours: one response in the one shape, counted, logged once, and charged to nobody."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.dataplane.exchange.exchange import Exchange
from gateway.dataplane.request.body_wait import BodyWait
from gateway.internal_errors import INTERNAL_ERRORS, InternalErrors
from tests.faults.rig import FaultRig, request
from tests.support.stage import Stage

NAMES = ("a", "s")
CONFIG = """
backends:
  a: {url: "http://127.0.0.1:@A@"}
  s: {url: "http://127.0.0.1:@S@"}
routes:
  one:
    match: {path: /one}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
  shadowed:
    match: {path: /shadowed}
    variants: {v1: {backend: a}, shade: {backend: s}}
    policy: {type: shadow, primary: v1, shadows: {shade: 100%}}
"""


class Broken(Exception):
    """What a part of ours raises in these tests."""


def broken(*_: Any) -> Any:
    raise Broken


@pytest.fixture
def faults() -> Iterator[int]:
    before = INTERNAL_ERRORS.counts["Broken"]
    yield before
    INTERNAL_ERRORS.counts["Broken"] = 0


def blameless(rig: FaultRig) -> None:
    for health in rig.gateway.registry.healths.values():
        assert all(record.runs == [0, 0, 0] for record in health._records.values())


def test_deciding_that_fails_is_a_500_and_the_connection_goes_on(rig: FaultRig, faults: int) -> None:
    draw, rig.worker.random = rig.worker.random, broken
    refused = rig.worker.refusals["internal"]
    with rig.client() as client:
        client.send(request("/one"))
        answer = client.answer()
        assert (answer.status, answer.code) == (500, "internal")
        rig.worker.random = draw
        client.send(request("/one"))
        assert client.answer().status == 200
    assert INTERNAL_ERRORS.counts["Broken"] == faults + 1
    assert rig.worker.refusals["internal"] == refused + 1
    blameless(rig)


def test_an_attempt_that_fails_within_us_is_recorded_and_blames_nobody(rig: FaultRig, faults: int) -> None:
    address = next(iter(rig.gateway.registry.addresses.values()))
    clock = address.time  # asked when a resting connection is looked at
    with rig.client() as client:
        client.send(request("/one"))
        assert client.answer().status == 200
        address.time = broken
        client.send(request("/one"))
        answer = client.answer()
        address.time = clock
    assert (answer.status, answer.code) == (500, "internal")
    last = rig.outcomes[-1]
    assert (last.status, last.error, last.failed) == (500, "internal", False)
    blameless(rig)


def test_a_head_that_we_fail_to_write_is_not_the_backends_fault(rig: FaultRig, faults: int) -> None:
    seal, rig.worker.seal = rig.worker.seal, broken
    with rig.client() as client:
        client.send(request("/one"))
        assert client.at_end()
    rig.worker.seal = seal
    assert (rig.outcome().error, rig.outcome().failed) == ("internal", False)
    assert INTERNAL_ERRORS.counts["Broken"] == faults + 1
    blameless(rig)


def test_a_record_that_fails_does_not_hold_the_connection(rig: FaultRig, faults: int) -> None:
    offer, rig.worker.offer = rig.worker.offer, broken
    with rig.client() as client:
        for _ in range(2):
            client.send(request("/one"))
            assert client.answer().status == 200
        rig.worker.offer = offer
    assert INTERNAL_ERRORS.counts["Broken"] == faults + 2


def test_a_copy_that_fails_is_dropped_with_a_reason(rig: FaultRig, faults: int) -> None:
    shadow = rig.shadow
    pool, shadow._pool = shadow._pool, broken
    before = shadow.counts["shadowed", "shade", "dropped:internal"]
    with rig.client() as client:
        for _ in range(2):
            client.send(request("/shadowed"))
            assert client.answer().status == 200
    shadow._pool = pool
    assert shadow.counts["shadowed", "shade", "dropped:internal"] == before + 2


def test_what_fails_in_each_tick_holds_up_no_other(monkeypatch: pytest.MonkeyPatch, faults: int) -> None:
    stage, ended = Stage(monkeypatch), list[float]()
    now = stage.clock.now
    broken_ones = [BodyWait(now, broken) for _ in range(9)]  # in any order
    stage.worker.active.update(broken_ones, [BodyWait(now, lambda: ended.append(stage.clock.now))])
    monkeypatch.setattr(stage.client("broken"), "get_write_buffer_size", broken)
    stage.client("other")
    stage.wait(30)
    assert ended
    assert stage.take() == ["broken cut", "other closed"]
    assert INTERNAL_ERRORS.counts["Broken"] == faults + len(broken_ones) + 1


@pytest.mark.long
def test_a_connection_whose_request_has_ended_unnoticed_is_closed(rig: FaultRig) -> None:
    rig.next("a", "hold")
    with rig.client() as client:
        client.send(request("/one"))
        rig.until(lambda: rig.worker.active)
        (connection,) = rig.connections

        def forget() -> None:
            x = connection.current
            assert isinstance(x, Exchange)
            assert x.attempt is not None
            x.attempt.cancel()
            x.attempt.leave()
            rig.worker.active.discard(x.attempt)
            x._ended = True

        rig.call(forget)
        assert client.at_end()


def test_each_kind_and_place_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    errors = InternalErrors()
    with caplog.at_level(logging.ERROR, "turnout"):
        for _ in range(3):
            try:
                broken()
            except Broken as error:
                errors.report(error)
        errors.report(ValueError("without a trace"))
    assert errors.counts == {"Broken": 3, "ValueError": 1}
    assert len(caplog.records) == 2
    assert caplog.records[0].exc_info is not None
