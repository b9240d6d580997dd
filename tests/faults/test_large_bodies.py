"""Rules on bodies that are too long for the event loop: read in another process, up to `buffer_limit`."""

from __future__ import annotations

import json

import pytest

from tests.faults.rig import FaultRig, request
from tests.support.client import PATIENCE

CONFIG = """
backends:
  a: {url: "http://127.0.0.1:@A@"}
  b: {url: "http://127.0.0.1:@B@"}
routes:
  unit:
    match: {path: /unit}
    unit: {json: user}
    variants: {v1: {backend: a, rewrite: {model: first}}, v2: {backend: b, rewrite: {model: second}}}
    policy: {type: split, weights: {v1: 1, v2: 1}}
    buffer_limit: 100KiB
"""
FILL = "x" * 30_000


def body(user: str, **more: object) -> bytes:
    return json.dumps({"user": user, "model": "theirs", **more}).encode()


def test_a_user_gets_the_same_variant_however_long_the_body(rig: FaultRig) -> None:
    for user in "abcdef":
        short = rig.ask("/unit", body=body(user))
        long = rig.ask("/unit", body=body(user, text=FILL))
        assert (short.status, long.status) == (200, 200)
        assert short.all("x-variant") == long.all("x-variant")
    assert {outcome.sticky for outcome in rig.recorded(12)} == {True}


def test_the_model_alone_is_replaced(rig: FaultRig) -> None:
    sent = body("a", text=FILL, number=1.10)
    answer = rig.ask("/unit", body=sent)
    (seen,) = [r for backend in rig.backends.values() for r in backend.requests]
    model = b'"first"' if answer.all("x-variant") == [b"v1"] else b'"second"'
    assert seen.body == sent.replace(b'"theirs"', model)


@pytest.mark.parametrize("chunked", [False, True])
def test_more_than_the_limit_is_413_and_nobody_is_asked(rig: FaultRig, chunked: bool) -> None:
    sent = body("a", text="x" * 110_000)
    if chunked:
        head = b"POST /unit HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
        message = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(sent), sent)
    else:
        message = request("/unit", body=sent)
    with rig.client() as client:
        client.send(message)
        assert client.answer().code == "body_too_large"
    assert not rig.backends["a"].requests
    assert not rig.backends["b"].requests


def test_one_too_many_is_told_to_come_back(rig: FaultRig) -> None:
    reader = rig.worker.body_reader
    most, reader._max_pending = reader._max_pending, 0
    answer = rig.ask("/unit", body=body("a", text=FILL))
    reader._max_pending = most
    assert (answer.status, answer.code) == (503, "gateway_overloaded")
    assert answer.all("retry-after") == [b"1"]
    assert not rig.outcomes


def test_a_client_that_leaves_meanwhile_is_not_waited_for(rig: FaultRig) -> None:
    rig.ask("/unit", body=body("a", text=FILL))
    asked = sum(len(backend.requests) for backend in rig.backends.values())
    clients = [rig.client() for _ in range(8)]
    for client in clients:
        client.send(request("/unit", body=body("a", text=FILL)))
    for client in clients:
        client.socket.close()
    rig.until(lambda: not rig.connections)
    rig.until(lambda: not rig.worker.active, PATIENCE)
    assert sum(len(backend.requests) for backend in rig.backends.values()) - asked <= len(clients)
    assert {outcome.error for outcome in rig.outcomes} <= {"", "client_left"}


def test_the_process_is_replaced_when_it_dies(rig: FaultRig) -> None:
    rig.ask("/unit", body=body("a", text=FILL))
    pool = rig.worker.body_reader._pool
    assert pool is not None
    for process in pool._processes.values():
        process.kill()
    statuses = [rig.ask("/unit", body=body("a", text=FILL)).status for _ in range(4)]
    assert set(statuses) <= {200, 503}
    assert statuses[-1] == 200
