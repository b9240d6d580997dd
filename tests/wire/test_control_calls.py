"""How the control application is called: slow readers, large bodies, clients that leave, and its own faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from gateway.dataplane.base import Role
from gateway.dataplane.client.protocol import ClientProtocol
from tests.http2.client import Client as Http2Client
from tests.http2.raw import AUTHORITY, SCHEME, headers
from tests.support.client import Client, Cut
from tests.wire.rig import Rig

RIG = {
    "routes": """\
  model:
    match: {path: /v1, model: m1}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
"""
}
H = b"host: gateway.test\r\n"
GET = b"GET /-/routes HTTP/1.1\r\n" + H + b"\r\n"
TE = b"POST /-/routes HTTP/1.1\r\n" + H + b"transfer-encoding: chunked\r\n\r\n"
PIECES = 48
"""Of 64 KiB each: three times what is kept of a body before the application reads it."""
HELD = 20
"""More of them than are kept."""
START = {"type": "http.response.start", "status": 200, "headers": []}

Application = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]
Serve = Callable[[Application], None]


@pytest.fixture
def serve(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Puts an application in the place of the control API."""
    return lambda application: monkeypatch.setattr(rig.worker, "application", application)


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def broken(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("secret")


async def silent(scope: Any, receive: Any, send: Any) -> None:
    return


async def cancelled(scope: Any, receive: Any, send: Any) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("application", [broken, silent, cancelled])
def test_a_call_without_a_response_is_a_500(rig: Rig, serve: Serve, application: Application) -> None:
    serve(application)
    with rig.client() as client:
        for _ in range(2):
            client.send(GET)
            answer = client.answer()
            assert (answer.status, answer.code) == (500, "internal")
            assert b"secret" not in answer.body


def test_a_response_that_breaks_off_ends_the_connection(rig: Rig, serve: Serve) -> None:
    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(body(b"first", more=True))
        raise LookupError

    serve(breaks)
    with rig.client() as client:
        client.send(GET)
        with pytest.raises(Cut):
            client.answer()


def test_what_comes_after_the_response_is_not_sent(rig: Rig, serve: Serve) -> None:
    async def talkative(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(body(b"whole"))
        await send(body(b"more"))

    serve(talkative)
    with rig.client() as client:
        for _ in range(2):
            client.send(GET)
            answer = client.answer()
            assert (answer.body, answer.framing) == (b"whole", "length")
            assert len(answer.all("x-request-id")) == 1


def test_the_application_sees_who_asks_for_what(rig: Rig, serve: Serve) -> None:
    async def mirror(scope: Any, receive: Any, send: Any) -> None:
        seen = {name.decode(): value.decode() for name, value in scope["headers"]}
        await send(START)
        await send(body(json.dumps(seen).encode()))

    serve(mirror)
    with rig.client() as client:
        lines = b"x-request-id: mine\r\nx-variant: v1\r\nx-api-key: k\r\nx-forwarded-for: 1.2.3.4\r\n"
        client.send(b"GET /-/routes HTTP/1.1\r\n" + H + lines + b"\r\n")
        answer = client.answer()
        seen = json.loads(answer.body)
        assert answer.all("x-request-id") == [b"mine"]
        assert (seen["x-request-id"], seen["x-variant"], seen["x-api-key"]) == ("mine", "v1", "k")
        assert seen["x-forwarded-for"] == "1.2.3.4"


def test_a_large_body_waits_until_it_is_read(rig: Rig, serve: Serve) -> None:
    began, go_on = [], asyncio.Event()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        began.append(scope)
        await go_on.wait()
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        await send(START)
        await send(body(b"%d" % size))

    serve(late)
    with rig.client() as client:
        client.send(TE)
        for number in range(PIECES):
            client.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            if number == HELD:
                rig.until(lambda: began)
                rig.call(go_on.set)
        client.send(b"0\r\n\r\n")
        assert client.answer().body == b"%d" % (PIECES << 16)


def test_an_application_hears_that_its_client_left(rig: Rig, serve: Serve) -> None:
    heard = []

    async def listens(scope: Any, receive: Any, send: Any) -> None:
        heard.append((await receive())["type"])
        heard.append((await receive())["type"])
        try:
            await send(START)
        except OSError as error:
            heard.append(str(error))
            raise

    serve(listens)
    with rig.client() as client:
        client.send(GET)
        rig.until(lambda: heard)
    rig.until(lambda: len(heard) == 3)
    assert heard == ["http.request", "http.disconnect", "the client has gone"]


@pytest.mark.long
def test_a_slow_reader_holds_the_application_up(rig: Rig, serve: Serve) -> None:
    sent, pieces = [0], 256

    async def pours(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(pieces):
            await send(body(b"x" * 65536, more=True))
            sent[0] += 1
            await asyncio.sleep(0)
        await send(body(b""))

    serve(pours)
    with rig.client(receive_buffer=65536) as client:
        client.send(GET)
        rig.until(lambda: any(each.write_paused for each in rig.connections))
        assert sent[0] < pieces
        assert len(client.answer().body) == pieces << 16


def test_a_bad_chunk_while_a_response_is_streamed_ends_the_call(rig: Rig, serve: Serve) -> None:
    async def early(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(body(b"early", more=True))
        await asyncio.Event().wait()

    serve(early)
    with rig.client() as client:
        client.send(TE)
        client.until(b"early\r\n")
        client.send(b"zz\r\n")
        assert client.at_end()
    rig.until(lambda: not rig.worker.control_tasks)


def test_a_bad_body_behind_another_request_is_refused_in_its_turn(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"GET /p/first HTTP/1.1\r\n" + H + b"\r\n" + TE + b"zz\r\n")
        assert client.answer().body == b"A|GET|/p/first|0"
        assert client.answer().code == "bad_request"
        assert client.at_end()


@pytest.fixture
def at_port(rig: Rig) -> Iterator[Callable[[Role], Client]]:
    """A connection to a port that serves one part alone."""
    servers, whole = [], rig.port

    async def listen(role: Role) -> Any:
        return await rig.loop.create_server(lambda: ClientProtocol(rig.worker, None, role), "127.0.0.1", 0)

    def connect(role: Role) -> Client:
        servers.append(rig.run(listen(role)))
        rig.port = servers[-1].sockets[0].getsockname()[1]
        return rig.client()

    yield connect
    rig.port = whole
    for server in servers:
        rig.call(server.close)


def test_a_port_of_the_data_plane_has_no_control_api(rig: Rig, at_port: Callable[[Role], Client]) -> None:
    with at_port("data") as client:
        for head in (b"GET /-/routes HTTP/1.1\r\n", b"PUT /-/config HTTP/1.1\r\ncontent-length: 2\r\n"):
            client.send(head + H + b"\r\n")
            if b"PUT" in head:
                rig.settle()
                client.send(b"{}")
            answer = client.answer()
            assert (answer.status, answer.code) == (404, "not_found")
        client.send(b"GET /-/healthz HTTP/1.1\r\n" + H + b"\r\n")
        assert client.answer().status == 200


def test_a_port_of_the_control_api_reaches_no_backend(rig: Rig, at_port: Callable[[Role], Client]) -> None:
    with at_port("control") as client:
        client.send(b"GET /p/x HTTP/1.1\r\n" + H + b"\r\n")
        answer = client.answer()
        assert (answer.status, answer.code) == (404, "unknown_route")
        assert b"/-/dashboard/" in answer.body
        client.send(GET)
        assert client.answer().status == 200
    assert not rig.requests


def test_a_fault_behind_a_whole_response_costs_nothing(rig: Rig, serve: Serve) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(body(b"whole"))
        raise LookupError("late")

    serve(application)
    with rig.client() as client:
        for _ in range(2):
            client.send(GET)
            assert client.answer().body == b"whole"


def test_the_head_of_a_stream_over_http2(rig: Rig, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """What the application goes on to send goes nowhere."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(3):
            await send(body(b"event", more=True))
        await send(body(b""))

    serve(application)
    head = [(b":method", b"HEAD"), SCHEME, AUTHORITY, (b":path", b"/-/routes")]
    with Http2Client(rig.port) as client:
        for stream in (1, 3):
            reply = client.request(headers(head, stream), stream)
            assert (reply.status, reply.body, reply.reset) == (200, b"", "")
    rig.until(lambda: not rig.worker.control_tasks)
    assert not caplog.records


def test_the_models_of_all_routes(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"GET /v1/models HTTP/1.1\r\n" + H + b"\r\n")
        assert "m1" in [each["id"] for each in json.loads(client.answer().body)["data"]]
        client.send(b"GET /v1/models/m1 HTTP/1.1\r\n" + H + b"\r\n")
        assert client.answer().code == "unknown_route"
    assert not rig.requests


def test_what_envoy_asks_for_is_no_request_for_a_route(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"POST /v3/discovery:clusters HTTP/1.1\r\ncontent-length: 2\r\n" + H + b"\r\n{}")
        assert client.answer().code not in ("unknown_route", "internal")


def decide(document: dict[str, Any]) -> bytes:
    data = json.dumps(document).encode()
    fields = H + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data)
    return b"POST /-/decide HTTP/1.1\r\n" + fields + data


def test_a_decision_is_that_of_a_proxied_request(rig: Rig) -> None:
    with rig.client() as client:
        drawn = {}
        for unit in map(str, range(20)):
            client.send(decide({"route": "units", "unit": unit}))
            drawn[unit] = json.loads(client.answer().body)
            client.send(b"GET /units HTTP/1.1\r\n%bx-user-id: %b\r\n\r\n" % (H, unit.encode()))
            assert client.answer().all("x-variant") == [drawn[unit]["variant"].encode()]
        assert {each["variant"] for each in drawn.values()} == {"v1", "v2"}
        assert {each["propensity"] for each in drawn.values()} == {0.5}
        assert len({each["decision_id"] for each in drawn.values()}) == 20


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"route": "plain", "unit": "ada"}, "has no 'unit' in its configuration; add one, or send none"),
        ({"route": "nothing"}, "nothing"),
    ],
    ids=["no unit", "no route"],
)
def test_a_decision_that_is_refused(rig: Rig, document: dict[str, Any], words: str) -> None:
    with rig.client() as client:
        client.send(decide(document))
        answer = client.answer()
        assert 400 <= answer.status < 500
        assert words in json.loads(answer.body)["error"]["message"]
