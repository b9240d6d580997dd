"""The control API below ``/-/`` through the same strict protocol: bodies, streams, ends."""

from __future__ import annotations

import json

import pytest

from gateway.control.event_stream import HEARTBEAT_S
from tests.wire.messages import TE, H, kept
from tests.wire.rig import Rig

FEEDBACK = b'{"decision_id": "nonsense", "metric": "m", "value": 1}'


@pytest.mark.parametrize("pieces", [1, 3, 1000], ids=["bytes", "threes", "whole"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_arrives_whole(rig: Rig, chunked: bool, pieces: int) -> None:
    if chunked:
        body = b"5\r\n%b\r\n%x\r\n%b\r\n0\r\nx-t: 1\r\n\r\n" % (FEEDBACK[:5], len(FEEDBACK) - 5, FEEDBACK[5:])
        data = b"POST /-/feedback HTTP/1.1\r\n" + H + TE + b"\r\n" + body
    else:
        data = b"POST /-/feedback HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n%b" % (H, len(FEEDBACK), FEEDBACK)
    with rig.client() as client:
        client.send(*(data[place : place + pieces] for place in range(0, len(data), pieces)))
        answer = client.answer()
        assert answer.status == 200
        assert [item["code"] for item in json.loads(answer.body)["rejected"]] == ["malformed"]
        assert kept(client)


def test_an_answer_to_head_has_no_body(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"HEAD /-/healthz HTTP/1.1\r\n" + H + b"\r\n")
        client.answer(b"HEAD")
        assert kept(client)


def test_http_1_0(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"GET /-/healthz HTTP/1.0\r\n\r\n")
        assert client.answer().status == 200
        assert client.at_end()


@pytest.mark.parametrize("path", [b"/-/nothing", b"/-/../-/healthz", b"/-/%2e%2e/x", b"/-/healthz/x"])
def test_what_is_not_there_is_404(rig: Rig, path: bytes) -> None:
    with rig.client() as client:
        client.send(b"GET %b HTTP/1.1\r\n%b\r\n" % (path, H))
        answer = client.answer()
        assert answer.status == 404
        assert answer.code
        assert kept(client)


def test_a_body_that_is_too_large(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"POST /-/feedback HTTP/1.1\r\n%bcontent-length: 100000000\r\n\r\n" % H)
        client.send(*[b" " * 65536] * 400)
        assert client.answer().code == "body_too_large"
        assert client.at_end()


def test_a_bad_chunk(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"POST /-/feedback HTTP/1.1\r\n" + H + TE + b"\r\n", 0.01, b"zz\r\n")
        assert client.answer().code == "bad_request"
        assert client.at_end()
    rig.until(lambda: not rig.worker.control_tasks)


def test_a_stream_of_events_ends_with_its_reader(rig: Rig) -> None:
    """A task that goes on for somebody who has left would be there for ever."""
    clients = [rig.client() for _ in range(5)]
    for client in clients:
        client.send(b"GET /-/events HTTP/1.1\r\n" + H + b"\r\n")
        assert b"text/event-stream" in client.until(b"\r\n\r\n")
    assert len(rig.worker.control_tasks) == 5
    for client in clients:
        client.socket.close()
    rig.until(lambda: not rig.connections)
    rig.until(lambda: not rig.worker.control_tasks, HEARTBEAT_S / 2)


def test_a_client_that_leaves_before_its_answer(rig: Rig) -> None:
    for _ in range(20):
        client = rig.client()
        client.send(b"GET /-/routes HTTP/1.1\r\n" + H + b"\r\n")
        client.reset()
    rig.until(lambda: not rig.connections)
    rig.until(lambda: not rig.worker.control_tasks)


def login(length: int, body: bytes, *, kind: bytes = b"application/x-www-form-urlencoded") -> bytes:
    fields = H + b"content-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, length)
    return b"POST /-/dashboard/login HTTP/1.1\r\n" + fields + body


def test_a_stranger_makes_the_loop_parse_no_more_than_a_key(rig: Rig) -> None:
    """S3: 4 MB of form fields held everybody else up for seconds; the length alone is enough to refuse."""
    with rig.client() as client:
        client.send(login(12_000_000, b""))
        assert client.answer().code == "body_too_large"
        assert client.at_end()


def test_a_stranger_who_tells_no_length_is_stopped_too(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"POST /-/dashboard/login HTTP/1.1\r\n" + H + TE + b"\r\n")
        client.send(*[b"1000\r\n" + b"a=1&" * 1024 + b"\r\n"] * 3)
        assert client.answer().code == "body_too_large"
