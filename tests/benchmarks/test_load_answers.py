"""A client must know exactly when an answer is whole: too early or too late falsifies every figure."""

from __future__ import annotations

import pytest

from benchmarks.load.answers import complete

HEAD = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 4\r\nX-Note: content-length: 9\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("cut", range(len(HEAD) + 4))
def test_no_part_of_an_answer_is_whole(cut: int) -> None:
    assert complete((HEAD + b"body")[:cut]) is None


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        (HEAD + b"body", True),
        (HEAD + b"body and more", False),
        (HEAD.replace(b"200", b"503") + b"body", False),
        (HEAD.replace(b"Content-Length", b"content-length") + b"body", True),
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", True),
        (CHUNKED.replace(b"200", b"500") + b"2\r\nno\r\n0\r\n\r\n", False),
    ],
)
def test_only_one_whole_answer_of_200_is_good(answer: bytes, good: bool) -> None:
    assert complete(answer) is good


def test_a_chunked_answer_lasts_until_its_last_chunk() -> None:
    assert complete(CHUNKED + b"2\r\nok\r\n") is None
