"""The client leaves, in every state a request can be in: the backend's work ends at once, and nothing is left over.

First on the stage, where "at once" means: in the same callback. Then over real sockets, in milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.backend import HOLD, Flood
from tests.support.stage import Stage, Transport
from tests.wire.rig import Rig

GET = b"GET %b HTTP/1.1\r\nhost: h\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nabc"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
UPGRADE = b"GET /p/ws HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"


# How a request gets into each state ---------------------------------------------------------------------
def nothing_sent(stage: Stage) -> Transport:
    return stage.client()


def half_a_head(stage: Stage) -> Transport:
    client = stage.client()
    client.give(b"GET /p HT")
    return client


def reading(stage: Stage) -> Transport:
    """The decision waits for the body."""
    client = stage.client()
    client.give(POST % b"/body/x")
    return client


def queued(stage: Stage) -> Transport:
    first, client = stage.client("first"), stage.client()
    first.give(GET % b"/narrow/1")
    stage.connected()
    client.give(GET % b"/narrow/2")
    stage.take()
    return client


def connecting(stage: Stage) -> Transport:
    client = stage.client()
    client.give(GET % b"/p/x")
    return client


def connecting_with_fallback(stage: Stage) -> Transport:
    client = stage.client()
    client.give(GET % b"/fall/x")
    return client


def connecting_to_the_fallback(stage: Stage) -> Transport:
    client = connecting_with_fallback(stage)
    stage.refused()
    return client


def backoff(stage: Stage) -> Transport:
    client = stage.client()
    client.give(GET % b"/replay/x")
    stage.refused()
    return client


def waiting(stage: Stage) -> Transport:
    client = connecting(stage)
    stage.connected()
    return client


def waiting_with_fallback(stage: Stage) -> Transport:
    client = connecting_with_fallback(stage)
    stage.connected()
    return client


def waiting_for_the_body(stage: Stage) -> Transport:
    client = stage.client()
    client.give(POST % b"/p/x")
    stage.connected()
    return client


def waiting_on_a_resting_connection(stage: Stage) -> Transport:
    """Its end must not look like the idle-close race, which is repeated."""
    client = stage.client()
    client.give(GET % b"/p/1")
    stage.connected().give(OK)
    client.give(GET % b"/p/2")
    return client


def half_an_answers_head(stage: Stage) -> Transport:
    client = connecting(stage)
    stage.connected().give(b"HTTP/1.1 200 O")
    return client


def interim(stage: Stage) -> Transport:
    client = connecting(stage)
    stage.connected().give(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    return client


def relaying(stage: Stage) -> Transport:
    client = connecting_with_fallback(stage)
    stage.connected().give(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
    return client


def relaying_early(stage: Stage) -> Transport:
    """The answer has begun before the request's body was whole."""
    client = stage.client()
    client.give(POST % b"/p/x")
    stage.connected().give(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
    return client


def held_back(stage: Stage) -> Transport:
    """The client takes nothing, so the backend is not read."""
    client = connecting(stage)
    backend = stage.connected()
    client.stuck = True
    backend.give(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 100_000)
    assert not backend.reading
    return client


def upload_held_back(stage: Stage) -> Transport:
    """The backend takes nothing, so the client is not read."""
    client = stage.client()
    client.give(b"POST /p/x HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\n")
    backend = stage.connected()
    backend.stuck = True
    client.give(b"x" * 100_000)
    assert not client.reading
    return client


def upload_before_a_connection(stage: Stage) -> Transport:
    client = stage.client()
    client.give(b"POST /p/x HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\n")
    client.give(b"x" * 100_000)
    assert not client.reading
    return client


def pipelined(stage: Stage) -> Transport:
    """One under way, two behind it that never begin."""
    client = stage.client()
    client.give(GET % b"/p/1" + GET % b"/p/2" + GET % b"/none")
    stage.connected()
    return client


def pipelined_too_far(stage: Stage) -> Transport:
    client = stage.client()
    client.give(GET % b"/p/1" + GET % b"/p/x" * 1000)
    stage.connected()
    assert not client.reading
    return client


def error_behind(stage: Stage) -> Transport:
    client = stage.client()
    client.give(GET % b"/p/1" + b"NONSENSE\r\n\r\n")
    stage.connected()
    return client


def upgrading(stage: Stage) -> Transport:
    client = stage.client()
    client.give(UPGRADE + b"early")
    stage.connected()
    return client


def tunnel(stage: Stage) -> Transport:
    client = upgrading(stage)
    stage.transports[-1].give(SWITCH)
    return client


def tunnel_held_back(stage: Stage) -> Transport:
    client = tunnel(stage)
    client.stuck = True
    stage.transports[-1].give(b"x" * 100_000)
    assert not stage.transports[-1].reading
    return client


STATES: dict[str, tuple[Callable[[Stage], Transport], list[str]]] = {
    # state: (how to get there, what must come out when the client leaves)
    "nothing-sent": (nothing_sent, []),
    "half-a-head": (half_a_head, []),
    "reading": (reading, []),
    "queued": (queued, ["recorded 499 client_left v1>-"]),
    "connecting": (connecting, ["a dial cancelled", "recorded 499 client_left v1>-"]),
    "connecting-with-fallback": (
        connecting_with_fallback,
        ["a dial cancelled", "recorded 499 client_left v1>-"],
    ),
    "connecting-to-the-fallback": (
        connecting_to_the_fallback,
        ["b dial cancelled", "recorded 499 backend_connect v1>-"],
    ),
    "backoff": (backoff, ["recorded 499 backend_connect v1>-"]),
    "waiting": (waiting, ["a cut", "recorded 499 client_left v1>-"]),
    "waiting-with-fallback": (waiting_with_fallback, ["a cut", "recorded 499 client_left v1>-"]),
    "waiting-for-the-body": (waiting_for_the_body, ["a cut", "recorded 499 client_left v1>-"]),
    "waiting-on-a-resting-connection": (
        waiting_on_a_resting_connection,
        ["a cut", "recorded 499 client_left v1>-"],
    ),
    "half-an-answers-head": (half_an_answers_head, ["a cut", "recorded 499 client_left v1>-"]),
    "interim": (interim, ["a cut", "recorded 499 client_left v1>-"]),
    "relaying": (relaying, ["a cut", "recorded 499 client_left v1>v1"]),
    "relaying-early": (relaying_early, ["a cut", "recorded 499 client_left v1>v1"]),
    "held-back": (held_back, ["a cut", "recorded 499 client_left v1>v1"]),
    "upload-held-back": (upload_held_back, ["a cut", "recorded 499 client_left v1>-"]),
    "upload-before-a-connection": (
        upload_before_a_connection,
        ["a dial cancelled", "recorded 499 client_left v1>-"],
    ),
    "pipelined": (pipelined, ["a cut", "recorded 499 client_left v1>-"]),
    "pipelined-too-far": (pipelined_too_far, ["a cut", "recorded 499 client_left v1>-"]),
    "error-behind": (error_behind, ["a cut", "recorded 499 client_left v1>-"]),
    "upgrading": (upgrading, ["a cut", "recorded 499 client_left v1>-"]),
    "tunnel": (tunnel, ["a closed", "recorded 101 good v1>v1"]),
    "tunnel-held-back": (tunnel_held_back, ["a closed", "recorded 101 good v1>v1"]),
}


@pytest.mark.parametrize("by_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("state", STATES)
def test_the_client_leaves(stage: Stage, state: str, by_reset: bool) -> None:
    reach, expected = STATES[state]
    client = reach(stage)
    stage.take()
    client.leave(ConnectionResetError() if by_reset else None)
    assert stage.take() == expected
    if state == "queued":  # somebody else's request goes on
        stage.transports[-1].give(OK) if stage.transports[-1].name == "n" else None
        next(t for t in stage.transports if t.name == "n" and not t.closing).give(OK)
    stage.turn()
    stage.clean()
    assert not stage.worker.connections or state == "queued"
    assert not stage.worker.unread


@pytest.mark.parametrize("state", STATES)
def test_nothing_happens_later(stage: Stage, state: str) -> None:
    """No fallback, no retry, no second record, however long one waits."""
    reach, _ = STATES[state]
    client = reach(stage)
    client.leave()
    stage.turn()
    stage.take()
    recorded = len(stage.outcomes)
    stage.wait(12.0)
    late = [line for line in stage.take() if "dialled" in line or "<" in line]
    if state == "queued":
        late = [line for line in late if not line.startswith("first<")]
        recorded += 1  # the first one's own
    assert late == []
    assert len(stage.outcomes) == recorded


@pytest.mark.parametrize("state", ["connecting", "connecting-with-fallback"])
def test_a_connection_that_comes_too_late_is_let_go(stage: Stage, state: str) -> None:
    reach, _ = STATES[state]
    client = reach(stage)
    dial = stage.dials[-1]
    client.leave()
    dial.over = False  # the cancellation crossed with the connection
    backend = stage.connected()
    assert backend.written == b""
    assert backend.closing
    stage.clean()


def test_a_client_that_leaves_while_its_response_is_written(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end comes between two events of one read: as the interim response goes out, before the final one."""
    client = connecting(stage)
    backend = stage.connected()
    write = client.write

    def write_and_leave(data: bytes) -> None:
        write(data)
        client.leave()

    monkeypatch.setattr(client, "write", write_and_leave)
    backend.give(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    assert client.lost
    stage.turn()
    stage.clean()
    assert [outcome.status for outcome in stage.outcomes] == [499]


# Over real sockets --------------------------------------------------------------------------------------
AT_ONCE = 1.5
"""Seconds: half of the shortest limit that would end the backend's connection too."""


@pytest.fixture(scope="module")
def shared_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    found = Rig(tmp_path_factory.mktemp("rig"))
    found.start()
    yield found
    found.stop()


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    shared_rig.fresh()
    yield shared_rig
    shared_rig.clean()


PLANS: dict[str, tuple[bytes, list[bytes | str | float | Flood]]] = {
    "waiting": (GET % b"/p/x", [HOLD]),
    "waiting-for-the-body": (POST % b"/p/x", [HOLD]),
    "relaying": (GET % b"/p/x", [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", HOLD]),
    "streaming": (
        GET % b"/p/x",
        [b"HTTP/1.1 200 OK\r\n\r\n", *[step for _ in range(500) for step in (b"x" * 100, 0.002)]],
    ),
    "held-back": (GET % b"/p/x", [b"HTTP/1.1 200 OK\r\n\r\n", Flood(1 << 30)]),
    "pipelined-too-far": (GET % b"/p/x" + GET % b"/none" * 2000, [HOLD]),
    "upgrading": (UPGRADE, [HOLD]),
    "tunnel": (UPGRADE, [SWITCH]),
}


@pytest.mark.parametrize("by_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("name", PLANS)
def test_the_backend_learns_at_once(rig: Rig, name: str, by_reset: bool) -> None:
    data, steps = PLANS[name]
    spent: list[float] = []
    while len(spent) < 5 and min(spent, default=AT_ONCE) >= AT_ONCE:  # a busy machine may stand still
        rig.a.plans.append(steps)
        known = len(rig.a.connections)
        client = rig.client()
        client.send(data)
        rig.until(lambda known=known: len(rig.a.connections) > known)  # type: ignore[misc]
        if name in ("relaying", "streaming", "held-back", "tunnel"):
            client.socket.recv(10)
        if name in ("held-back", "pipelined-too-far"):
            client.send(0.05)
        backend = rig.a.connections[-1]
        assert backend.open
        began = time.perf_counter()
        if by_reset:
            client.reset()
        else:
            client.socket.close()
        rig.until(lambda backend=backend: not backend.open)  # type: ignore[misc]
        spent.append(time.perf_counter() - began)
    assert min(spent) < AT_ONCE


def test_two_hundred_clients_leave_at_once(rig: Rig) -> None:
    rig.a.plans.extend([HOLD] for _ in range(200))
    clients = [rig.client() for _ in range(200)]
    for client in clients:
        client.send(GET % b"/large/x")  # with time to connect on a busy machine
    rig.until(lambda: len(rig.requests) == 200)
    for client in clients:
        client.socket.close()
    rig.until(lambda: not any(connection.open for connection in rig.a.connections))
    assert not rig.worker.active
