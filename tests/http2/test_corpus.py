"""The corpus against the layer without I/O: what must end, ends; what may pass, passes."""

from __future__ import annotations

import pytest

from tests.http2.case import Case
from tests.http2.corpus import CASES
from tests.http2.echo import Server
from tests.http2.raw import GOOD, headers


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "bytewise"])
@pytest.mark.parametrize("case", [case for case in CASES if case.expected], ids=lambda case: case.name)
def test_case(case: Case, step: int) -> None:
    server = Server()
    server.start()
    step = step or len(case.sent)
    if step == 1 and len(case.sent) > 4000:
        step = 997
    for place in range(0, len(case.sent), step):
        server.receive(case.sent[place : place + step], 1.0)
    verdict, _, code = case.expected.partition(" ")
    reply = server.reader.replies.get(1)
    if verdict == "goaway":
        assert server.reader.goaway == code
        assert server.ended
        return
    assert reply is not None
    if code == "STREAM_CLOSED" and server.ended:  # the response was out before the frame came
        assert server.reader.goaway == code
        return
    assert not server.ended
    if verdict == "reset":
        assert reply.reset == code
    else:
        assert (reply.status, reply.reset) == (int(verdict), "")
    server.receive(headers(GOOD, 101), 1.0)
    assert server.reader.replies[101].status == 200
    assert server.reader.replies[101].ended


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)
