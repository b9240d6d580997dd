"""Answers leave in the order of their requests: pipelining, early answers, expectations, HTTP/1.0."""

from __future__ import annotations

import pytest

from tests.support.backend import CLOSE, EARLY, HOLD, ok
from tests.wire.messages import TE, H, get, kept, marker, post
from tests.wire.rig import Rig

# Small enough for every limit to be reached in a moment
RIG = {"limits": "head: 16KiB, fields: 20, target: 2KiB, control_body: 100KiB, pipeline: 16"}


# Pipelining ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [2, 17, 100])
def test_pipelined_answers_come_in_order(rig: Rig, count: int) -> None:
    with rig.client() as client:
        client.send(b"".join(get(b"/p/%d" % n) for n in range(count)))
        for n in range(count):
            assert client.answer().body == marker(b"GET", b"/p/%d" % n)
        assert kept(client)
    assert [r.target for r in rig.requests] == [b"/p/%d" % n for n in range(count)] + [b"/p/probe"]


def test_thousands_in_one_segment(rig: Rig) -> None:
    """They are parsed a few ahead of the answers, and answered in a loop: neither memory nor stack grows."""
    count = 6000
    with rig.client() as client:
        client.send(b"".join(get(b"/n/%d" % n) for n in range(count)))
        most = 0
        for _ in range(count):
            assert client.answer().status == 404
            (connection,) = rig.connections
            most = max(most, len(connection.queue))
        assert kept(client)
    assert most < 200


def test_thousands_in_one_segment_behind_a_slow_one(rig: Rig) -> None:
    rig.a.plans.append([HOLD, ok(b"slow")])
    with rig.client() as client:
        client.send(get(b"/p/slow") + b"".join(get(b"/n/%d" % n) for n in range(3000)) + get(b"/p/last"))
        rig.until(lambda: rig.requests)
        (connection,) = rig.connections
        rig.until(lambda: connection.pauses)
        assert len(connection.queue) < 200
        assert len(connection.backlog) <= 1 << 20
        rig.call(rig.a.released.set)
        assert client.answer().body == b"slow"
        for _ in range(3000):
            assert client.answer().status == 404
        assert client.answer().body == marker(b"GET", b"/p/last")
        assert kept(client)


@pytest.mark.parametrize("count", [1, 50])
def test_bodies_in_a_pipeline_stay_apart(rig: Rig, count: int) -> None:
    with rig.client() as client:
        data = b"".join(
            post(b"/p/%d" % n, b"x" * n)
            + b"POST /p/c%d HTTP/1.1\r\n%b%b\r\n" % (n, H, TE)
            + b"3\r\nabc\r\n0\r\n\r\n"
            for n in range(count)
        )
        client.send(*(data[place : place + 97] for place in range(0, len(data), 97)))
        for n in range(count):
            assert client.answer().body == marker(b"POST", b"/p/%d" % n, n)
            assert client.answer().body == marker(b"POST", b"/p/c%d" % n, 3)
        assert kept(client)


def test_lanes_mix_in_order(rig: Rig) -> None:
    with rig.client() as client:
        client.send(get(b"/p/1") + get(b"/-/healthz") + get(b"/none") + get(b"/p/2") + get(b"/-/healthz"))
        assert client.answer().body == marker(b"GET", b"/p/1")
        assert client.answer().status == 200
        assert client.answer().code == "unknown_route"
        assert client.answer().body == marker(b"GET", b"/p/2")
        assert client.answer().status == 200
        assert kept(client)


BAD = {
    "syntax": (b"GET /p/x HTTP/1.1\r\nbad header\r\n\r\n", 400),
    "garbage": (b"\x00\x01\x02", 400),
    "no-host": (b"GET /p/x HTTP/1.1\r\n\r\n", 400),
    "long-target": (get(b"/p/" + b"a" * 3000), 414),
    "many-fields": (get(b"/p/x", *(b"a: b" for _ in range(30))), 431),
    "long-head": (get(b"/p/x", b"a: " + b"b" * 40_000), 431),
    "version": (get(version=b"HTTP/2.0"), 505),
    "trace": (b"TRACE /p/x HTTP/1.1\r\n" + H + b"\r\n", 405),
    "expectation": (get(b"/p/x", b"expect: miracles"), 417),
    "cl-te": (b"POST /p/x HTTP/1.1\r\n" + H + TE + b"content-length: 3\r\n\r\n", 400),
}


@pytest.mark.parametrize("ahead", [0, 1, 3], ids=["alone", "behind-one", "behind-three"])
@pytest.mark.parametrize("name", BAD)
def test_an_error_waits_for_the_answers_owed(rig: Rig, name: str, ahead: int) -> None:
    data, status = BAD[name]
    if ahead:
        rig.a.plans.append([HOLD, ok(b"first")])
    with rig.client() as client:
        client.send(b"".join(get(b"/p/%d" % n) for n in range(ahead)) + data + get(b"/p/smuggled"))
        if ahead:
            rig.until(lambda: rig.requests)
            assert client.quiet(0.02)
            rig.call(rig.a.released.set)
            assert client.answer().body == b"first"
        for n in range(1, ahead):
            assert client.answer().body == marker(b"GET", b"/p/%d" % n)
        answer = client.answer()
        assert answer.status == status
        assert answer.all("connection") == [b"close"]
        assert client.at_end()
    rig.settle()
    assert len(rig.requests) == ahead


def test_an_error_behind_an_answer_under_way_leaves_it_whole(rig: Rig) -> None:
    rig.a.plans.append([b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc", HOLD, b"def"])
    with rig.client() as client:
        client.send(get())
        rig.until(lambda: rig.requests)
        client.send(0.02, b"NONSENSE\r\n\r\n" + b"x" * 2_000_000)
        rig.call(rig.a.released.set)
        assert client.answer().body == b"abcdef"
        assert client.answer().status == 400
        assert client.at_end()


def test_a_head_answer_to_head_has_no_body(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"HEAD /none HTTP/1.1\r\n" + H + b"\r\n")
        answer = client.answer(b"HEAD")
        assert answer.status == 404
        assert int(answer.all("content-length")[0]) > 0
        assert kept(client)
        client.send(b"HEAD /p/x HTTP/1.1\r\n\r\n")
        assert client.answer(b"HEAD").status == 400
        assert client.at_end()


# Early answers ------------------------------------------------------------------------------------------
UNAUTHORISED = [(b"/none", 404, "unknown_route"), (b"/small", 413, "body_too_large")]


@pytest.mark.parametrize(("target", "status", "code"), UNAUTHORISED)
@pytest.mark.parametrize("rest", [0.0, 0.01], ids=["together", "apart"])
def test_an_early_refusal_drains_a_small_body_and_keeps_the_connection(
    rig: Rig, target: bytes, status: int, code: str, rest: float
) -> None:
    data = post(target, b"x" * 20_000)
    with rig.client() as client:
        client.send(data[:300], rest, data[300:])
        answer = client.answer()
        assert (answer.status, answer.code) == (status, code)
        assert answer.all("connection") == []
        assert kept(client)


@pytest.mark.parametrize(("target", "status", "code"), UNAUTHORISED)
def test_an_early_refusal_of_a_large_body_comes_at_once_and_ends(
    rig: Rig, target: bytes, status: int, code: str
) -> None:
    with rig.client() as client:
        client.send(post(target, b"", length=50_000_000), b"x" * 100_000)
        answer = client.answer()
        assert (answer.status, answer.code) == (status, code)
        assert answer.all("connection") == [b"close"]
        assert client.at_end()
    assert rig.requests == []


def test_an_unwanted_body_is_not_read_for_ever(rig: Rig) -> None:
    with rig.client() as client:
        client.send(post(b"/none", b"", length=1 << 30))
        assert client.answer().status == 404
        sent = 0
        try:
            while sent < 64 << 20:
                sent += client.socket.send(b"x" * 65536)
        except OSError:
            pass
        assert sent < 32 << 20
    rig.until(lambda: not rig.connections)


def test_an_early_refusal_of_a_chunked_body(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"POST /none HTTP/1.1\r\n" + H + TE + b"\r\n", 0.01, b"3\r\nabc\r\n0\r\n\r\n")
        answer = client.answer()
        assert answer.status == 404
        assert answer.all("connection") == [b"close"]
        assert client.at_end()


def test_an_early_refusal_of_a_chunked_body_that_is_there(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"POST /none HTTP/1.1\r\n" + H + TE + b"\r\n3\r\nabc\r\n0\r\n\r\n")
        assert client.answer().status == 404
        assert kept(client)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_that_grows_too_large(rig: Rig, chunked: bool) -> None:
    """A length is refused unseen; chunks when their sum is too large, and the backend's request never ends."""
    with rig.client() as client:
        if chunked:
            client.send(b"POST /small HTTP/1.1\r\n" + H + TE + b"\r\n", 0.01)
            for _ in range(3):
                client.send(b"190\r\n" + b"x" * 400 + b"\r\n", 0.005)
            client.send(b"0\r\n\r\n")
        else:
            client.send(post(b"/small", b"", length=1001))
            client.send(0.01, b"x" * 1001)
        answer = client.answer()
        assert answer.code == "body_too_large"
        assert client.at_end() if chunked else kept(client)
    rig.settle()
    assert not any(r.complete for r in rig.requests if r.target == b"/small")
    if chunked:
        assert not any(connection.open for connection in rig.a.connections)


def test_a_body_of_exactly_the_limit_passes(rig: Rig) -> None:
    with rig.client() as client:
        client.send(post(b"/small", b"x" * 1000))
        assert client.answer().body == marker(b"POST", b"/small", 1000)
        assert kept(client)


def test_a_backend_that_answers_before_the_body_is_read(rig: Rig) -> None:
    """Its answer is passed on at once; the rest of the body concerns nobody, and both connections end."""
    rig.a.plans.append([EARLY, ok(b"early")])
    with rig.client() as client:
        client.send(post(b"/p/x", b"abc", length=1000))
        answer = client.answer()
        assert answer.body == b"early"
        assert answer.all("connection") == [b"close"]
        assert client.at_end()
    rig.until(lambda: not any(c.open for c in rig.a.connections))
    assert not rig.requests[0].complete


def test_a_backend_that_refuses_early_and_closes(rig: Rig) -> None:
    rig.a.plans.append([EARLY, ok(b"no", b"connection: close", status=b"413 Too Large"), CLOSE])
    with rig.client() as client:
        client.send(post(b"/p/x", b"abc", length=1000))
        answer = client.answer()
        assert (answer.status, answer.body) == (413, b"no")
        assert client.at_end()


def test_a_backend_that_answers_early_while_the_body_goes_on(rig: Rig) -> None:
    """The answer is whole although the client goes on sending (RFC 9112 9.3: both ways at once)."""
    rig.a.plans.append([EARLY, b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc", HOLD, b"def"])
    with rig.client() as client:
        client.send(post(b"/p/x", b"x" * 10, length=1000))
        rig.until(lambda: rig.requests)
        client.send(0.01, b"y" * 100, 0.01)
        rig.call(rig.a.released.set)
        assert client.answer().body == b"abcdef"
        assert client.at_end()


# Expect: 100-continue -----------------------------------------------------------------------------------
def test_expect_is_answered_before_the_body(rig: Rig) -> None:
    with rig.client() as client:
        client.send(post(b"/p/x", b"", b"expect: 100-continue", length=5))
        assert client.answer().status == 100
        client.send(b"hello")
        assert client.answer().body == marker(b"POST", b"/p/x", 5)
        assert kept(client)


def test_expect_in_any_case_and_chunked(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"POST /p/x HTTP/1.1\r\n" + H + TE + b"Expect: 100-Continue\r\n\r\n")
        assert client.answer().status == 100
        client.send(b"3\r\nabc\r\n0\r\n\r\n")
        assert client.answer().body == marker(b"POST", b"/p/x", 3)
        assert kept(client)


def test_expect_behind_another_request_is_answered_in_its_turn(rig: Rig) -> None:
    rig.a.plans.append([HOLD, ok(b"first")])
    with rig.client() as client:
        client.send(get() + post(b"/p/2", b"", b"expect: 100-continue", length=5))
        assert client.quiet()
        rig.call(rig.a.released.set)
        assert client.answer().body == b"first"
        assert client.answer().status == 100
        client.send(b"hello")
        assert client.answer().body == marker(b"POST", b"/p/2", 5)


@pytest.mark.parametrize(
    "data",
    [
        get(b"/p/x", b"expect: 100-continue"),
        post(b"/p/x", b"", b"expect: 100-continue"),
        b"POST /p/x HTTP/1.0\r\n" + H + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\nab",
    ],
    ids=["no-body", "length-0", "http-1.0"],
)
def test_no_continue_where_nobody_waits_for_it(rig: Rig, data: bytes) -> None:
    with rig.client() as client:
        client.send(data)
        assert client.answer().status == 200


@pytest.mark.parametrize(("target", "status"), [(b"/none", 404), (b"/small", 413)])
def test_a_refusal_instead_of_a_continue(rig: Rig, target: bytes, status: int) -> None:
    """The client may send the body all the same or not: nobody can tell, so the connection ends."""
    with rig.client() as client:
        client.send(post(target, b"", b"expect: 100-continue", length=2000))
        answer = client.answer()
        assert answer.status == status
        assert answer.all("connection") == [b"close"]
        assert client.at_end()


def test_a_continue_of_the_backend_is_not_doubled(rig: Rig) -> None:
    rig.a.plans.append([EARLY, b"HTTP/1.1 100 Continue\r\n\r\n", 0.02, ok(b"done")])
    with rig.client() as client:
        client.send(post(b"/p/x", b"", b"expect: 100-continue", length=5))
        assert client.answer().status == 100
        client.send(b"hello")
        assert client.answer().body == b"done"


def test_expect_on_the_control_plane(rig: Rig) -> None:
    with rig.client() as client:
        client.send(post(b"/-/feedback", b"", b"expect: 100-continue", length=2))
        assert client.answer().status == 100
        client.send(b"{}")
        assert b"rejected" in client.answer().body
        assert kept(client)


# HTTP/1.0 -----------------------------------------------------------------------------------------------
def test_a_chunked_answer_for_http_1_0_ends_with_the_connection(rig: Rig) -> None:
    rig.a.plans.append([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"])
    with rig.client() as client:
        client.send(get(b"/p/x", b"connection: keep-alive", version=b"HTTP/1.0"))
        answer = client.answer()
        assert (answer.framing, answer.body) == ("close", b"abc")
        assert answer.all("connection") == [b"close"]


def test_http_1_0_keep_alive(rig: Rig) -> None:
    with rig.client() as client:
        for n in range(3):
            client.send(get(b"/p/%d" % n, b"connection: keep-alive", version=b"HTTP/1.0"))
            answer = client.answer()
            assert answer.body == marker(b"GET", b"/p/%d" % n)
            assert answer.all("connection") == [b"keep-alive"]


def test_interim_answers_are_not_for_http_1_0(rig: Rig) -> None:
    rig.a.plans.append([b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", 0.01, ok(b"done")])
    with rig.client() as client:
        client.send(get(version=b"HTTP/1.0"))
        assert client.answer().body == b"done"
