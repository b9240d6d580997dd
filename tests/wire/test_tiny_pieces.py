"""Bodies in tiny pieces are handled in several turns of the event loop, in order, and whole."""

from __future__ import annotations

import pytest

from gateway import build
from gateway.dataplane.client import protocol
from gateway.transport import connection as transport
from tests.support.backend import CLOSE, chunked, ok
from tests.wire.messages import TE, H, get, kept, marker, post
from tests.wire.rig import Rig


@pytest.mark.parametrize("chunk", [1, 5000])
def test_what_is_left_for_a_later_turn_of_the_loop_is_parsed_in_order(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(protocol, "MAX_TURN_S", -1.0)  # each turn ends with its first piece
    size = 30_000
    body = b"%x\r\n%b\r\n" % (chunk, b"x" * chunk) * (size // chunk) + b"0\r\n\r\n"
    upload = b"POST /p/up HTTP/1.1\r\n" + H + TE + b"\r\n" + body
    with rig.client() as client:
        client.send(get(b"/p/0") + upload + post(b"/p/1", b"y" * 9000) + get(b"/p/2"))
        assert client.answer().body == marker(b"GET", b"/p/0")
        assert client.answer().body == marker(b"POST", b"/p/up", size)
        assert client.answer().body == marker(b"POST", b"/p/1", 9000)
        assert client.answer().body == marker(b"GET", b"/p/2")
        assert kept(client)


def test_tiny_chunks_of_a_client_go_on_as_larger_ones(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"POST /p/up HTTP/1.1\r\n" + H + TE + b"\r\n" + b"1\r\nx\r\n")
        rig.until(lambda: rig.a.connections and rig.a.connections[0].raw.endswith(b"x\r\n"))
        client.send(b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n")
        assert client.answer().body == marker(b"POST", b"/p/up", 3001)
    (connection,) = rig.a.connections
    assert len(connection.raw) < 5000


@pytest.mark.parametrize("turn", [-1.0, 60.0], ids=["each step a turn", "one turn"])
def test_tiny_chunks_of_a_backend_arrive_in_order(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, turn: float
) -> None:
    monkeypatch.setattr(transport, "MAX_TURN_S", turn)
    body = bytes(place % 251 for place in range(60_000))
    rig.a.plans += [
        [chunked(*(body[at : at + 1] for at in range(len(body))))],
        [ok(b"z" * 200_000)],
        [ok(b"n")],
    ]
    with rig.client() as client:
        for expected in (body, b"z" * 200_000, b"n"):
            client.send(get())
            assert client.answer().body == expected
    assert len(rig.a.connections) == 1


def test_bytes_behind_a_response_end_its_connection_wherever_a_step_ends(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or they would be the response to the next request on it."""
    response = chunked(*[b"x"] * 3000)
    monkeypatch.setattr(transport, "STEP_BYTES", len(response))
    rig.a.plans += [[response + ok(b"forged")], [ok(b"right")]]
    with rig.client() as client:
        client.send(get())
        assert client.answer().body == b"x" * 3000
        client.send(get())
        assert client.answer().body == b"right"
    assert len(rig.a.connections) == 2


def test_a_backend_that_ends_between_two_turns_has_sent_all(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_TURN_S", -1.0)
    rig.a.plans.append([chunked(*[b"x"] * 40_000, lines=b"connection: close\r\n"), CLOSE])
    with rig.client() as client:
        client.send(get())
        assert client.answer().body == b"x" * 40_000


def test_tiny_chunks_of_a_backend_are_handled_in_several_turns(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_TURN_S", -1.0)
    turns: list[int] = []
    receive = transport.BackendConnection.data_received

    def counted(self: transport.BackendConnection, data: bytes) -> None:
        receive(self, data)
        turns.append(len(self._rest))

    monkeypatch.setattr(transport.BackendConnection, "data_received", counted)
    rig.a.plans.append([chunked(*[b"x"] * 40_000)])
    with rig.client() as client:
        client.send(get())
        assert client.answer().body == b"x" * 40_000
    # The compiled form has the constant built in, and may be faster than it.
    assert any(turns) or build.form() == "compiled"
