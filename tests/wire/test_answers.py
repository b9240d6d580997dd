"""What a backend may answer: the good is passed on whole, the bad never begins, the broken is seen as broken."""

from __future__ import annotations

import pytest

from tests.support.backend import CLOSE, EOF, HOLD, RESET, Step, chunked, ok
from tests.support.client import Cut
from tests.wire.messages import OK, TE, get, kept, post
from tests.wire.rig import Rig

# Good answers -------------------------------------------------------------------------------------------
GOOD: dict[str, tuple[bytes, int, bytes, str, bool]] = {
    # name: (the backend's bytes, status, body, framing towards the client, whether the backend's connection is kept)
    "length": (ok(b"hello"), 200, b"hello", "length", True),
    "length-0": (ok(b""), 200, b"", "length", True),
    "length-zeros": (OK + b"content-length: 0005\r\n\r\nhello", 200, b"hello", "length", True),
    "length-ows": (OK + b"content-length: \t5 \r\n\r\nhello", 200, b"hello", "length", True),
    "close": (ok(b"hello", b"connection: close"), 200, b"hello", "length", False),
    "no-reason": (b"HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok", 200, b"ok", "length", True),
    "no-reason-no-space": (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", 200, b"ok", "length", True),
    "odd-reason": (b"HTTP/1.1 200 All is \xc3\xa9 well!\r\ncontent-length: 2\r\n\r\nok", 200, b"ok", "length", True),
    "reason-tab": (b"HTTP/1.1 200 a\tb\r\ncontent-length: 2\r\n\r\nok", 200, b"ok", "length", True),
    "reason-long": (b"HTTP/1.1 200 " + b"x" * 5000 + b"\r\ncontent-length: 2\r\n\r\nok", 200, b"ok", "length", True),
    "status-299": (ok(b"x", status=b"299 Odd"), 299, b"x", "length", True),
    "status-404": (ok(b"x", status=b"404 Not Found"), 404, b"x", "length", True),
    "status-418": (ok(b"x", status=b"418 I'm a teapot"), 418, b"x", "length", True),
    "status-500": (ok(b"x", status=b"500 Oops"), 500, b"x", "length", True),
    "status-599": (ok(b"x", status=b"599 Odd"), 599, b"x", "length", True),
    "redirect": (ok(b"", b"location: http://elsewhere/", status=b"302 Found"), 302, b"", "length", True),
    "http-1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, b"ok", "length", False),
    "http-1.0-keep-alive": (
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
        200,
        b"ok",
        "length",
        True,
    ),
    "chunked": (chunked(b"abc", b"de"), 200, b"abcde", "chunked", True),
    "chunked-empty": (chunked(), 200, b"", "chunked", True),
    "chunked-case": (OK + b"Transfer-Encoding: Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 200, b"a", "chunked", True),
    "chunked-extension": (OK + TE + b"\r\n1;x=y\r\na\r\n0;z\r\n\r\n", 200, b"a", "chunked", True),
    "chunked-trailer": (OK + TE + b"\r\n1\r\na\r\n0\r\nx-t: 1\r\n\r\n", 200, b"a", "chunked", True),
    "chunked-zeros": (OK + TE + b"\r\n0001\r\na\r\n000\r\n\r\n", 200, b"a", "chunked", True),
    "chunked-close": (OK + TE + b"connection: close\r\n\r\n1\r\na\r\n0\r\n\r\n", 200, b"a", "chunked", False),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", "none", True),
    "204-length-0": (b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", 204, b"", "none", True),
    "304": (b'HTTP/1.1 304 Not Modified\r\netag: "x"\r\n\r\n', 304, b"", "none", True),
    "304-length": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 500\r\n\r\n", 304, b"", "none", True),
    "binary": (ok(bytes(range(256))), 200, bytes(range(256)), "length", True),
    "answer-in-body": (ok(ok(b"inner")), 200, ok(b"inner"), "length", True),
    "interim-100": (b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"x"), 200, b"x", "length", True),
    "interim-100-thrice": (b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + ok(b"x"), 200, b"x", "length", True),
    "many-fields": (ok(b"x", *(b"a: b" for _ in range(100))), 200, b"x", "length", True),
    "large-field": (ok(b"x", b"a: " + b"b" * 60_000), 200, b"x", "length", True),
}  # fmt: skip


def pieces(data: bytes, size: int) -> list[Step]:
    found: list[Step] = []
    for place in range(0, len(data), size):
        found += [data[place : place + size], 0]
    return found


@pytest.mark.parametrize("size", [0, 1, 7], ids=["whole", "bytes", "sevens"])
@pytest.mark.parametrize("name", GOOD)
def test_good_answers_are_passed_on_whole(rig: Rig, name: str, size: int) -> None:
    data, status, body, framing, stays = GOOD[name]
    if size and len(data) > 3000:
        size = 997
    rig.a.plans.append(pieces(data, size) if size else [data])
    with rig.client() as client:
        client.send(get())
        answer = client.answer()
        assert (answer.status, answer.body, answer.framing) == (status, body, framing)
        assert answer.all("connection") == []
        assert kept(client)
    rig.settle()
    assert (len({request.connection for request in rig.requests}) == 1) is stays


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
@pytest.mark.parametrize("answer_version", [b"1.0", b"1.1"])
def test_an_answer_until_close(rig: Rig, version: bytes, answer_version: bytes) -> None:
    """A length that only the end of the connection tells becomes chunks, or stays as it is for HTTP/1.0."""
    rig.a.plans.append([b"HTTP/%b 200 OK\r\n\r\nabc" % answer_version, 0.01, b"def", 0.01, CLOSE])
    with rig.client() as client:
        client.send(get(version=version))
        answer = client.answer()
        assert answer.body == b"abcdef"
        if version == b"HTTP/1.1":
            assert answer.framing == "chunked"
            assert kept(client)
        else:
            assert answer.framing == "close"
            assert client.at_end()


def test_an_answer_until_half_close(rig: Rig) -> None:
    rig.a.plans.append([OK + b"\r\nabc", EOF])
    with rig.client() as client:
        client.send(get())
        assert client.answer().body == b"abc"
        assert kept(client)


HEADS = {
    "length": OK + b"content-length: 500\r\n\r\n",
    "chunked": OK + TE + b"\r\n",
    "nothing": OK + b"\r\n",
    "404": b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\n",
}


@pytest.mark.parametrize("name", HEADS)
def test_an_answer_to_head(rig: Rig, name: str) -> None:
    rig.a.plans.append([HEADS[name]])
    with rig.client() as client:
        client.send(get(method=b"HEAD"))
        answer = client.answer(b"HEAD")
        assert answer.status in (200, 404)
        assert answer.all("transfer-encoding") == []
        if name == "length":
            assert answer.all("content-length") == [b"500"]
        assert kept(client)


WRONG_BODIES = {
    "head-length": (b"HEAD", OK + b"content-length: 5\r\n\r\nhello", 200),
    "head-chunked": (b"HEAD", OK + TE + b"\r\n5\r\nhello\r\n0\r\n\r\n", 200),
    "head-answer": (b"HEAD", OK + b"content-length: %d\r\n\r\n" % len(ok(b"swapped")) + ok(b"swapped"), 200),
    "204": (b"GET", b"HTTP/1.1 204 No Content\r\n\r\nhello", 204),
    "204-length": (b"GET", b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello", 204),
    "204-chunked": (b"GET", b"HTTP/1.1 204 No Content\r\n" + TE + b"\r\n5\r\nhello\r\n0\r\n\r\n", 204),
    "204-answer": (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n" + ok(b"swapped"), 204),
    "304": (b"GET", b"HTTP/1.1 304 Not Modified\r\n\r\nhello", 304),
    "304-length": (b"GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\nhello", 304),
    "304-chunked": (b"GET", b"HTTP/1.1 304 Not Modified\r\n" + TE + b"\r\n5\r\nhello\r\n0\r\n\r\n", 304),
    "304-answer": (b"GET", b"HTTP/1.1 304 Not Modified\r\n\r\n" + ok(b"swapped"), 304),
    "behind": (b"GET", ok(b"mine") + b"extra", 200),
    "behind-crlf-garbage": (b"GET", ok(b"mine") + b"\r\n\r\nextra", 200),
    "behind-answer": (b"GET", ok(b"mine") + ok(b"swapped"), 200),
    "behind-close": (b"GET", ok(b"mine", b"connection: close") + ok(b"swapped"), 200),
    "behind-chunked": (b"GET", chunked(b"mine") + ok(b"swapped"), 200),
    "behind-interim": (b"GET", ok(b"mine") + b"HTTP/1.1 100 Continue\r\n\r\n", 200),
}


@pytest.mark.parametrize("rest", [0.0, 0.02], ids=["together", "apart"])
@pytest.mark.parametrize("name", WRONG_BODIES)
def test_bytes_that_belong_to_no_answer_are_nobodys(rig: Rig, name: str, rest: float) -> None:
    """The answer itself is whole and is passed on; its connection never serves again."""
    method, data, status = WRONG_BODIES[name]
    head, mark, tail = data.partition(b"\r\n\r\n")
    body = b""
    if name.startswith("behind"):
        body = b"mine"
        place = tail.index(b"mine") + 4 + (7 if "chunked" in name else 0)
        head, mark, tail = data[: len(head) + 4 + place], b"", tail[place:]
    rig.a.plans.append([head + mark, rest, tail] if rest else [data])
    with rig.client() as client:
        client.send(get(method=method))
        answer = client.answer(method)
        assert answer.status == status
        assert answer.body == body
        if rest:
            rig.until(lambda: not rig.a.connections[0].open)
        assert kept(client)
        assert kept(client)
    rig.until(lambda: not rig.a.connections[0].open)
    assert {request.connection for request in rig.requests} == {0, 1}


# Bad answers --------------------------------------------------------------------------------------------
BAD: dict[str, bytes] = {
    "garbage": b"\x00\x01\x02\x03 garbage\r\n\r\n",
    "text": b"I am no HTTP server\r\n",
    "html": b"<html>hello</html>",
    "http-0.9": b"hello\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "tls-alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "h2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64",
    "request": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    "smtp": b"220 mail.example.org ESMTP\r\n",
    "lower-case": b"http/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "http-2.0": b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "http-0.9-line": b"HTTP/0.9 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "http-1.2": b"HTTP/1.2 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "http-3": b"HTTP/3 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "rtsp": b"RTSP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "no-status": b"HTTP/1.1 \r\ncontent-length: 2\r\n\r\nok",
    "status-word": b"HTTP/1.1 OK\r\ncontent-length: 2\r\n\r\nok",
    "status-2": b"HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nok",
    "status-4": b"HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\nok",
    "status-0": b"HTTP/1.1 000 OK\r\ncontent-length: 2\r\n\r\nok",
    "status-099": b"HTTP/1.1 099 OK\r\ncontent-length: 2\r\n\r\nok",
    "status-600": b"HTTP/1.1 600 OK\r\ncontent-length: 2\r\n\r\nok",
    "status-999": b"HTTP/1.1 999 OK\r\ncontent-length: 2\r\n\r\nok",
    "status-minus": b"HTTP/1.1 -200 OK\r\ncontent-length: 2\r\n\r\nok",
    "status-two-spaces": b"HTTP/1.1  200 OK\r\ncontent-length: 2\r\n\r\nok",
    "status-hex": b"HTTP/1.1 2a0 OK\r\ncontent-length: 2\r\n\r\nok",
    "bare-lf": b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
    "bare-lf-field": OK + b"a: b\ncontent-length: 2\r\n\r\nok",
    "bare-cr": OK + b"a: b\rcontent-length: 2\r\n\r\nok",
    "folded": OK + b"a: b\r\n c\r\ncontent-length: 2\r\n\r\nok",
    "space-before-colon": OK + b"a : b\r\ncontent-length: 2\r\n\r\nok",
    "no-colon": OK + b"nonsense\r\ncontent-length: 2\r\n\r\nok",
    "no-name": OK + b": x\r\ncontent-length: 2\r\n\r\nok",
    "nul-in-name": OK + b"a\x00: x\r\ncontent-length: 2\r\n\r\nok",
    "nul-in-value": OK + b"a: \x00\r\ncontent-length: 2\r\n\r\nok",
    "control-in-value": OK + b"a: \x01\r\ncontent-length: 2\r\n\r\nok",
    "delete-in-value": OK + b"a: \x7f\r\ncontent-length: 2\r\n\r\nok",
    "cl-te": OK + TE + b"content-length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "te-cl": OK + b"content-length: 3\r\n" + TE + b"\r\n3\r\nabc\r\n0\r\n\r\n",
    "two-lengths": OK + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "two-lengths-agree": OK + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "length-list": OK + b"content-length: 3, 3\r\n\r\nabc",
    "length-word": OK + b"content-length: three\r\n\r\nabc",
    "length-minus": OK + b"content-length: -3\r\n\r\nabc",
    "length-plus": OK + b"content-length: +3\r\n\r\nabc",
    "length-empty": OK + b"content-length: \r\n\r\nabc",
    "length-overflow": OK + b"content-length: 99999999999999999999\r\n\r\nabc",
    "te-gzip": OK + b"transfer-encoding: gzip\r\n\r\nabc",
    "te-gzip-chunked": OK + b"transfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "te-chunked-gzip": OK + b"transfer-encoding: chunked, gzip\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "te-identity": OK + b"transfer-encoding: identity\r\n\r\nabc",
    "te-twice": OK + TE + TE + b"\r\n3\r\nabc\r\n0\r\n\r\n",
    "te-xchunked": OK + b"transfer-encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "te-empty": OK + b"transfer-encoding:\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "te-1.0": b"HTTP/1.0 200 OK\r\n" + TE + b"\r\n3\r\nabc\r\n0\r\n\r\n",
    "101-unasked": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "101-bare": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "interim-length": b"HTTP/1.1 103 Early Hints\r\ncontent-length: 3\r\n\r\nabc" + ok(b"x"),
    "interim-chunked": b"HTTP/1.1 103 Early Hints\r\n" + TE + b"\r\n0\r\n\r\n" + ok(b"x"),
    "interim-flood": b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + ok(b"x"),
    "many-fields": ok(b"x", *(b"a: b" for _ in range(200))),
    "large-field": OK + b"a: " + b"b" * 100_000 + b"\r\n\r\n",
    "megabyte-field": OK + b"a: " + b"b" * 1_048_576 + b"\r\n\r\n",
    "large-name": OK + b"a" * 100_000 + b": b\r\n\r\n",
    "large-head": ok(b"x", *(b"a: " + b"b" * 1000 for _ in range(80))),
    "crlf-flood": b"\r\n" * 100_000,
    "endless-status-line": b"HTTP/1.1 200 " + b"x" * 200_000,
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_502_in_our_own_words(rig: Rig, name: str) -> None:
    rig.a.plans.append([BAD[name]])
    with rig.client() as client:
        client.send(get())
        answer = client.answer()
        assert answer.status == 502
        assert answer.code == "backend_protocol"
        assert len(answer.all("x-decision-id")) == 1
        assert kept(client)
    rig.until(lambda: not rig.a.connections[0].open)
    assert len(rig.requests) == 2


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_goes_to_the_fallback(rig: Rig, name: str) -> None:
    rig.a.plans.append([BAD[name]])
    with rig.client() as client:
        client.send(post(b"/fall/x", b"abc"))
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b"B|POST|/fall/x|3")
        assert answer.all("x-variant") == [b"v2"]
        assert kept(client)
    assert [r.body for r in rig.b.requests] == [b"abc"]


@pytest.mark.parametrize(
    "name", ["garbage", "cl-te", "nul-in-value", "bare-lf", "te-gzip", "http-2.0", "two-lengths"]
)
def test_a_bad_answer_in_single_bytes(rig: Rig, name: str) -> None:
    rig.a.plans.append(pieces(BAD[name], 1))
    with rig.client() as client:
        client.send(get())
        answer = client.answer()
        assert (answer.status, answer.code) == (502, "backend_protocol")


@pytest.mark.parametrize("name", ["garbage", "101-unasked", "cl-te"])
def test_a_bad_answer_gives_way_to_a_fixed_one(rig: Rig, name: str) -> None:
    rig.a.plans.append([BAD[name]])
    with rig.client() as client:
        client.send(get(b"/fixed"))
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b'{"fixed": true}')
        assert kept(client)


REASONS = [b"a\x00b", b"a\x01b", b"a\x1b[31mb", b"a\x7fb"]


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_is_never_passed_on(rig: Rig, reason: bytes) -> None:
    rig.a.plans.append([b"HTTP/1.1 200 %b\r\ncontent-length: 2\r\n\r\nok" % reason])
    with rig.client() as client:
        client.send(get())
        answer = client.answer()  # raises where a control character comes through
        assert (answer.status, answer.reason) in ((200, b"OK"), (502, b"Bad Gateway"))


# Answers that break off ---------------------------------------------------------------------------------
BROKEN: dict[str, list[Step]] = {
    "length-closed": [OK + b"content-length: 10\r\n\r\nabc", 0.01, CLOSE],
    "length-reset": [OK + b"content-length: 10\r\n\r\nabc", 0.01, RESET],
    "length-half-closed": [OK + b"content-length: 10\r\n\r\nabc", 0.01, EOF],
    "length-at-once": [OK + b"content-length: 10\r\n\r\nabc", CLOSE],
    "length-no-body": [OK + b"content-length: 10\r\n\r\n", 0.01, CLOSE],
    "chunked-closed": [OK + TE + b"\r\n3\r\nabc\r\n", 0.01, CLOSE],
    "chunked-reset": [OK + TE + b"\r\n3\r\nabc\r\n", 0.01, RESET],
    "chunked-mid-chunk": [OK + TE + b"\r\n5\r\nabc", 0.01, CLOSE],
    "chunked-before-last": [OK + TE + b"\r\n3\r\nabc\r\n0\r\n", 0.01, CLOSE],
    "chunked-bad-size": [OK + TE + b"\r\n3\r\nabc\r\n", 0.01, b"xyz\r\n"],
    "chunked-bad-end": [OK + TE + b"\r\n3\r\nabc\r\n", 0.01, b"3\r\nabcd"],
    "chunked-bare-lf": [OK + TE + b"\r\n3\r\nabc\r\n", 0.01, b"3\nabc\n"],
    "chunked-overflow": [OK + TE + b"\r\n3\r\nabc\r\n", 0.01, b"fffffffffffffffff\r\n"],
    "chunked-extension-flood": [OK + TE + b"\r\n3\r\nabc\r\n", 0.01, b"3;" + b"x" * 200_000],
    "chunked-trailer-length": [OK + TE + b"\r\n3\r\nabc\r\n", 0.01, b"0\r\ncontent-length: 3\r\n\r\n"],
    "chunked-trailer-flood": [OK + TE + b"\r\n3\r\nabc\r\n", 0.01, b"0\r\n" + b"x: y\r\n" * 300 + b"\r\n"],
    "until-close-reset": [OK + b"\r\nabc", 0.02, RESET],
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("target", [b"/p/x", b"/fall/x"])
def test_a_broken_answer_is_seen_as_broken(rig: Rig, name: str, target: bytes) -> None:
    """Never a clean end, never a fallback once something went out, never the connection again."""
    rig.a.plans.append(BROKEN[name])
    with rig.client() as client:
        client.send(get(target))
        with pytest.raises(Cut) as cut:
            client.answer()
        assert cut.value.got in (b"", b"abc") or cut.value.got.endswith(b"abc")
        assert client.at_end() or client.ended
    rig.settle()
    rig.until(lambda: not rig.a.connections[0].open)
    assert rig.b.requests == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_seen_as_broken_by_http_1_0(rig: Rig, name: str) -> None:
    """An answer that ends with its connection can only be cut by a reset."""
    rig.a.plans.append(BROKEN[name])
    with rig.client() as client:
        client.send(get(version=b"HTTP/1.0"))
        with pytest.raises(Cut) as cut:
            client.answer()
        assert cut.value.was_reset


# Interim answers ----------------------------------------------------------------------------------------
def test_interim_answers_are_passed_on_without_what_is_not_theirs(rig: Rig) -> None:
    rig.a.plans.append(
        [
            b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nx-decision-id: forged\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n",
            0.01,
            b"HTTP/1.1 102 Processing\r\n\r\n",
            0.01,
            ok(b"done"),
        ]
    )
    with rig.client() as client:
        client.send(get())
        hints = client.answer()
        assert (hints.status, hints.fields) == (103, [(b"link", b"</a>")])
        assert (client.answer().status, client.answer().body) == (102, b"done")
        assert kept(client)


def test_interim_answers_then_nothing(rig: Rig) -> None:
    rig.a.plans.append([b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", 0.01, CLOSE])
    with rig.client() as client:
        client.send(get())
        assert client.answer().status == 103
        assert client.answer().code == "backend_reset"


def test_no_answer_is_ever_swapped(rig: Rig) -> None:
    """Many clients at once over a backend that misbehaves in every way: each sees its own marker or an error."""
    wrong = [[data] for _, data, _ in WRONG_BODIES.values()]
    clients = [rig.client() for _ in range(8)]
    try:
        for turn in range(40):
            rig.a.plans.extend(wrong[turn % len(wrong)] for _ in range(turn % 3))
            for n, client in enumerate(clients):
                client.send(get(b"/p/%d-%d" % (turn, n)))
            for n, client in enumerate(clients):
                answer = client.answer()
                good = answer.body == b"A|GET|/p/%d-%d|0" % (turn, n)
                planned = answer.all("x-serial") == [] and answer.body in (
                    b"mine",
                    b"",
                    b"hello",
                    ok(b"swapped"),
                )
                assert good or planned or answer.status == 502, answer
    finally:
        for client in clients:
            client.socket.close()


def test_a_held_answer_of_another_client_does_not_matter(rig: Rig) -> None:
    rig.a.plans.append([HOLD, ok(b"slow")])
    with rig.client() as slow, rig.client() as quick:
        slow.send(get(b"/p/slow"))
        rig.until(lambda: rig.requests)
        assert kept(quick)
        rig.call(rig.a.released.set)
        assert slow.answer().body == b"slow"
