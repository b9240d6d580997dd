"""Edits of the configuration under load: nobody's request fails, and a stream goes on as it began."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from tests.faults.rig import FaultRig, request
from tests.support.backend import HOLD

CONFIG = """
backends:
  a: {url: "http://127.0.0.1:@A@", ejection: null}
  b: {url: "http://127.0.0.1:@B@", ejection: null}
routes:
  moved:
    match: {path: /moved}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: single, variant: v1}
"""
EDITED = CONFIG.replace("variant: v1", "variant: v2")
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n"


@pytest.mark.slow
def test_edits_fail_nobody_and_streams_stay_whole(rig: FaultRig) -> None:
    rig.next("a", HEAD, HOLD, b"5\r\nended\r\n0\r\n\r\n")
    bodies: set[bytes] = set()
    wrong: list[object] = []
    over = threading.Event()

    def ask() -> None:
        with rig.client() as client:
            while not over.is_set():
                client.send(request("/moved"))
                answer = client.answer()
                bodies.add(answer.body)
                if answer.status != 200:
                    wrong.append(answer)

    with rig.client() as stream:
        stream.send(request("/moved"))
        rig.until(lambda: rig.backends["a"].requests)
        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        for number in range(20):
            rig.edit(CONFIG if number % 2 else EDITED)
            time.sleep(0.01)
        over.set()
        for thread in asking:
            thread.join()
        rig.well("a")
        answer = stream.answer()
        assert (answer.status, answer.body) == (200, b"begunended")
    assert wrong == []
    assert bodies == {b"a|POST|/moved|2", b"b|POST|/moved|2"}


def test_small_pieces_leave_at_once_on_both_sides(rig: FaultRig) -> None:
    """Without TCP_NODELAY a piece would wait for the acknowledgement of the one before, 40 ms at worst."""
    with rig.client() as client:
        client.send(request("/moved"))
        assert client.answer().status == 200
        (ours,) = rig.connections
        (theirs,) = (c for a in rig.gateway.registry.addresses.values() for c in a.connections)
        for transport in (ours.transport, theirs.transport):
            found = transport.get_extra_info("socket")
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
