"""The client leaves, in every state that a request can be in: the backend learns of it at once, nothing is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from gateway.dataplane.exchange import states
from tests.faults.rig import FaultRig, request
from tests.support.backend import HOLD, RESET, chunked
from tests.support.client import Client

CONFIG = """
backends:
  a: {url: "http://127.0.0.1:@A@", ejection: null}
  narrow: {url: "http://127.0.0.1:@A@", ejection: null, limit: {in_flight: 1, waiting: 5, wait: 5s}}
  full: {url: "http://127.0.0.1:@DEAD@", ejection: null}
  b: {url: "http://127.0.0.1:@B@", ejection: null}
routes:
  plain:
    match: {path: /plain}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: single, variant: v1}
    fallback: [v2]
  body:
    match: {path: /body}
    unit: {json: user}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
  narrow:
    match: {path: /narrow}
    variants: {v1: {backend: narrow}}
    policy: {type: single, variant: v1}
  full:
    match: {path: /full}
    variants: {v1: {backend: full}}
    policy: {type: single, variant: v1}
    timeouts: {connect: 5s}
  again:
    match: {path: /again}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    retry: {replayable: true, backoff: {base: 5s, max: 5s}}
"""


@contextlib.contextmanager
def reading(rig: FaultRig, client: Client) -> Iterator[None]:
    client.send(request("/body", body=b'{"user": 1}')[:-3])
    yield


@contextlib.contextmanager
def queued(rig: FaultRig, client: Client) -> Iterator[None]:
    rig.next("a", HOLD)
    with rig.client() as first:
        first.send(request("/narrow"))
        rig.until(lambda: rig.backends["a"].requests)
        client.send(request("/narrow"))
        yield


@contextlib.contextmanager
def connecting(rig: FaultRig, client: Client) -> Iterator[None]:
    with rig.full_listener():
        client.send(request("/full"))
        yield


@contextlib.contextmanager
def backoff(rig: FaultRig, client: Client) -> Iterator[None]:
    rig.next("a", RESET)
    client.send(request("/again"))
    yield


@contextlib.contextmanager
def waiting(rig: FaultRig, client: Client) -> Iterator[None]:
    rig.next("a", HOLD)
    client.send(request("/plain"))
    rig.until(lambda: rig.backends["a"].requests)
    yield


@contextlib.contextmanager
def sending(rig: FaultRig, client: Client) -> Iterator[None]:
    client.send(request("/plain", body=bytes(1000))[:-500])
    rig.until(lambda: rig.backends["a"].requests)
    yield


@contextlib.contextmanager
def relaying(rig: FaultRig, client: Client) -> Iterator[None]:
    rig.next("a", chunked(b"abc", end=b""), HOLD)
    client.send(request("/plain"))
    while b"abc" not in client.buffer:
        assert client._more()
    yield


@contextlib.contextmanager
def held_back(rig: FaultRig, client: Client) -> Iterator[None]:
    """The answer is not read on, because the client takes nothing."""
    rig.next("a", chunked(*[bytes(1 << 20)] * 16, end=b""), HOLD)
    client.send(request("/plain"))
    rig.until(lambda: any(c.write_paused for c in rig.connections))
    yield


STATES: dict[str, tuple[Callable[..., contextlib.AbstractContextManager[None]], int, int | None]] = {
    "reading": (reading, states.READING, None),
    "queued": (queued, states.QUEUED, 499),
    "connecting": (connecting, states.CONNECTING, 499),
    "backoff": (backoff, states.BACKOFF, 499),
    "sending": (sending, states.WAITING, 499),
    "waiting": (waiting, states.WAITING, 499),
    "relaying": (relaying, states.RELAYING, 499),
    "held-back": (held_back, states.RELAYING, 499),
}
"""Name → (how to get there, the state, the status in the record; None: there was no decision to record)."""


@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize("name", STATES)
def test_a_client_that_leaves(rig: FaultRig, name: str, how: str) -> None:
    arrange, state, status = STATES[name]
    client = rig.client(receive_buffer=4096)
    with arrange(rig, client):
        rig.until(lambda: state in [getattr(x, "state", None) for x in rig.worker.active])
        if how == "closes":
            client.socket.close()
        else:
            client.reset()
        rig.until(lambda: state not in [getattr(x, "state", None) for x in rig.worker.active])
        if name in ("sending", "waiting", "relaying", "held-back"):
            rig.until(lambda: not any(c.open for c in rig.backends["a"].connections))
    rig.until(lambda: not rig.worker.active)
    if status is None:
        assert rig.outcomes == []
    else:
        first = next(o for o in rig.outcomes if o.route == rig.outcomes[0].route)
        assert (first.status, first.error) in ((499, "client_left"), (499, "backend_reset"))
        assert not first.fallback
    assert rig.backends["b"].requests == []
