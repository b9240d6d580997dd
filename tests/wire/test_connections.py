"""The moment at which a backend's connection ends: a request is repeated where that is safe, and only once."""

from __future__ import annotations

import pytest

from tests.support.backend import CLOSE, RESET, ok
from tests.support.client import Client
from tests.wire.messages import get, kept, post
from tests.wire.rig import Rig


def warm(rig: Rig, client: Client, target: bytes = b"/p/warm") -> None:
    """One request, so that a connection rests in the pool."""
    client.send(get(target))
    assert client.answer().status == 200


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_resting_connection_that_ended_is_not_used(rig: Rig, method: bytes, end: str) -> None:
    rig.a.plans.append([ok(b"warm"), 0.01, end])
    with rig.client() as client:
        client.send(get())
        assert client.answer().body == b"warm"
        rig.until(lambda: not rig.a.connections[0].open)
        rig.settle()
        client.send(get(b"/p/2", method=method))
        assert client.answer(method).body == b"A|%b|/p/2|0" % method
    assert [r.connection for r in rig.requests] == [0, 1]


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize(
    ("request_", "answers"),
    [
        (get(b"/p/x"), [200]), (get(b"/p/x", method=b"HEAD"), [200]), (get(b"/p/x", method=b"DELETE"), [200]),
        (get(b"/p/x", method=b"OPTIONS"), [200]), (post(b"/p/x", b"abc"), [502]),
        (post(b"/replay/x", b"abc"), [200]), (post(b"/fall/x", b"abc"), [200]), (get(b"/fall/x"), [200]),
    ],
    ids=["get", "head", "delete", "options", "post", "post-replayable", "post-fallback", "get-fallback"],
)  # fmt: skip
def test_a_reused_connection_dies_as_the_request_arrives(
    rig: Rig, request_: bytes, answers: list[int], end: str
) -> None:
    """The idle-close race: repeated once, on a new connection, where that is safe; a POST is 502, once."""
    method = request_.split(b" ")[0]
    with rig.client() as client:
        warm(rig, client)
        rig.a.plans.append([end])
        client.send(request_)
        answer = client.answer(method)
        assert [answer.status] == answers
        if answer.status == 502:
            assert answer.code == "backend_reset"
        assert kept(client)
    target = request_.split(b" ")[1]
    seen = [r for r in rig.requests if r.target == target]
    assert len(seen) == (1 if answers == [502] else 2)
    assert len({r.connection for r in seen}) == len(seen)


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("request_", [get(b"/p/x"), post(b"/p/x", b"abc")], ids=["get", "post"])
def test_a_new_connection_that_dies_is_502_once(rig: Rig, request_: bytes, end: str) -> None:
    rig.a.plans.append([end])
    with rig.client() as client:
        client.send(request_)
        answer = client.answer()
        assert (answer.status, answer.code) == (502, "backend_reset")
        assert kept(client)
    assert len(rig.requests) == 2


def test_a_repeated_request_is_repeated_only_once(rig: Rig) -> None:
    with rig.client() as client:
        warm(rig, client)
        rig.a.plans.extend([[CLOSE], [CLOSE], [ok(b"third")]])
        client.send(get(b"/p/x"))
        assert client.answer().code == "backend_reset"
    assert len([r for r in rig.requests if r.target == b"/p/x"]) == 2


def test_a_connection_that_began_to_answer_is_not_repeated(rig: Rig) -> None:
    with rig.client() as client:
        warm(rig, client)
        rig.a.plans.append([b"HTTP/1.1 2", 0.01, CLOSE])
        client.send(get(b"/p/x"))
        assert client.answer().code == "backend_reset"
    assert len([r for r in rig.requests if r.target == b"/p/x"]) == 1


def test_a_dead_connection_and_a_fallback(rig: Rig) -> None:
    rig.a.plans.append([CLOSE])
    with rig.client() as client:
        client.send(post(b"/fall/x", b"abc"))
        assert client.answer().body == b"B|POST|/fall/x|3"
    assert [len(rig.a.requests), len(rig.b.requests)] == [1, 1]


def test_a_byte_on_a_resting_connection_ends_it(rig: Rig) -> None:
    rig.a.plans.append([ok(b"warm"), 0.02, ok(b"swapped")])
    with rig.client() as client:
        client.send(get())
        assert client.answer().body == b"warm"
        rig.until(lambda: not rig.a.connections[0].open)
        assert kept(client)
    assert rig.requests[1].connection == 1


def test_a_backend_that_says_when_it_closes(rig: Rig) -> None:
    """keep-alive: timeout=1 means that the connection is not used after that second, less some for the way."""
    rig.a.plans.append([ok(b"warm", b"keep-alive: timeout=1")])
    with rig.client() as client:
        client.send(get())
        assert client.answer().body == b"warm"
        client.send(0.01)
        assert kept(client)
    assert [r.connection for r in rig.requests] == [0, 1]
