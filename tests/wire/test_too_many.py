"""More connections than there may be: who came too late is told so, and nobody else feels it."""

from __future__ import annotations

import contextlib

import pytest

from tests.support.client import Answer, Client
from tests.wire.rig import Rig

RIG = {"limits": "connections: 4, header_timeout: 1s"}
GET = b"GET /p/x HTTP/1.1\r\nhost: gateway.test\r\n\r\n"


def test_those_that_were_there_are_served_on(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(rig.client()) for _ in range(10)]
        rig.until(lambda: len(rig.connections) == 10)
        answers = [asked(client) for client in clients]
        assert [answer.status for answer in answers] == [200] * 4 + [503] * 6
        for answer in answers[4:]:
            assert answer.code == "too_many_connections"
            assert answer.all("retry-after") == [b"1"]
            assert answer.all("connection") == [b"close"]
        assert all(client.at_end() for client in clients[4:])
        assert [asked(client).status for client in clients[:4]] == [200] * 4
        clients[0].socket.close()
        rig.until(lambda: len(rig.connections) == 3)
        assert asked(stack.enter_context(rig.client())).status == 200


@pytest.mark.long
def test_who_came_too_late_and_says_nothing_does_not_stay(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(rig.client()) for _ in range(8)]
        for client in clients[:4]:
            assert asked(client).status == 200
        rig.until(lambda: len(rig.connections) == 4)
        assert all(client.at_end() for client in clients[4:])


def test_its_health_can_be_asked_all_the_same(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(rig.client()) for _ in range(5)]
        rig.until(lambda: len(rig.connections) == 5)
        clients[4].send(GET.replace(b"/p/x", b"/-/readyz"))
        assert clients[4].answer().status == 200


def asked(client: Client) -> Answer:
    client.send(GET)
    return client.answer()


def test_the_limit_holds_for_the_control_api(rig: Rig) -> None:
    """S15: whoever asked for health could stay."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(rig.client()) for _ in range(12)]
        rig.until(lambda: len(rig.connections) == 12)
        for client in clients:
            client.send(GET.replace(b"/p/x", b"/-/healthz"))
        assert [client.answer().status for client in clients] == [200] * 12
        assert all(client.at_end() for client in clients[4:])
        assert [asked(client).status for client in clients[:4]] == [200] * 4


def test_a_stream_of_events_is_no_way_to_stay(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(rig.client()) for _ in range(5)]
        rig.until(lambda: len(rig.connections) == 5)
        clients[4].send(GET.replace(b"/p/x", b"/-/events").replace(b"gateway.test", b"localhost"))
        answer = clients[4].answer()
        assert (answer.status, answer.code) == (503, "too_many_connections")
        assert clients[4].at_end()
        rig.until(lambda: not rig.worker.control_tasks)


def test_far_too_many_are_closed_unread(rig: Rig) -> None:
    refused = rig.worker.refusals["too_many_connections"]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(rig.client()) for _ in range(30)]
        rig.until(lambda: rig.worker.refusals["too_many_connections"] >= refused + 10)
        rig.until(lambda: len(rig.connections) == 20)
        assert [asked(client).status for client in clients[:4]] == [200] * 4
