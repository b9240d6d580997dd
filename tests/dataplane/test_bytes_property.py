"""Whatever the segments: no byte is lost, doubled or swapped, in either direction.

The oracles are parsers that share nothing with the gateway: a strict reader of ours (`tests.support.client`) and h11,
which httpx uses. What is well-formed must arrive as it was sent; what is not must never be understood differently
by the two sides.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.shows import (
    CUTS,
    RELAXED,
    Asked,
    Show,
    Told,
    answers_in,
    asked,
    reset,
    split,
    theatre,
    told,
)
from tests.support.client import Cut
from tests.support.stage import Stage

__all__ = ["theatre"]


@RELAXED
@given(
    st.lists(asked(), min_size=1, max_size=6),
    st.lists(told(), min_size=1, max_size=3),
    CUTS,
    CUTS,
    st.lists(st.integers(0, 1000), min_size=1, max_size=40),
)
def test_nothing_is_lost_doubled_or_swapped(
    theatre: Stage,
    requests: list[Asked],
    answers: list[Told],
    request_cuts: list[int],
    answer_cuts: list[int],
    choices: list[int],
) -> None:
    reset(theatre)
    segments = split(b"".join(request.data for request in requests), request_cuts)
    show = Show(theatre, segments, answers, answer_cuts)
    turn = 0
    while show.step(choices[turn % len(choices)]):
        turn += 1
        assert turn < 5_000, "it does not end"
    if show.client.stuck:
        show.client.take()
        theatre.turn()
        while show.step(1):
            pass
    assert not show.segments
    assert show.seen == [(r.method, r.target, r.body) for r in requests]
    found = answers_in(show.client.written, [r.method for r in requests])
    expected = [
        b"" if r.method == b"HEAD" else answers[place % len(answers)].body for place, r in enumerate(requests)
    ]
    assert [answer.body for answer in found] == expected
    assert [outcome.answer_bytes for outcome in theatre.outcomes] == [len(body) for body in expected]
    assert [outcome.request_bytes for outcome in theatre.outcomes] == [len(r.body) for r in requests]


@RELAXED
@given(told(), CUTS, st.integers(0, 200), st.booleans())
def test_a_cut_answer_is_never_taken_for_whole(
    theatre: Stage, answer: Told, cuts: list[int], short: int, by_reset: bool
) -> None:
    reset(theatre)
    client = theatre.client()
    client.give(b"GET /p/x HTTP/1.1\r\nhost: h\r\n\r\n")
    backend = theatre.connected()
    data = answer.data[: max(0, len(answer.data) - 1 - short)]
    for piece in split(data, cuts):
        backend.give(piece)
    reset_by = ConnectionResetError() if by_reset or answer.framing == "close" else None
    backend.leave(reset_by)
    theatre.turn()
    try:
        (found,) = answers_in(client.written, [b"GET"])
    except Cut:
        assert "client cut" in theatre.take()
        assert client.written.count(b"x-decision-id: ") == 1
        return
    # Nothing of it went out: our own words, and nothing else.
    assert found.status == 502
    assert len(data) < len(answer.head)
