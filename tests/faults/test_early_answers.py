"""A backend that answers before it has read the body, and closes: its answer lies before the reset that follows."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.faults.rig import FaultRig
from tests.support.client import Client

CONFIG = """
backends:
  a: {url: "http://127.0.0.1:@A@", ejection: null}
  hasty: {url: "http://127.0.0.1:@HASTY@", ejection: null}
routes:
  hasty:
    match: {path: /hasty}
    variants: {v1: {backend: hasty}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
    body_limit: 1GiB
"""
NAMES = ("a", "hasty")
SIZE = 5_000_000
REFUSAL = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"
LONG = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 20000\r\n\r\n" + b"x" * 20_000
CHUNKS = b"HTTP/1.1 401 Unauthorized\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"


@pytest.fixture
def hasty(rig: FaultRig) -> Iterator[list[bytes]]:
    """The bytes that a backend of its own thread answers with; it reads 100 bytes, answers and closes at once."""
    says: list[bytes] = [REFUSAL]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_hurry, args=(listening, says), daemon=True).start()
        rig.edit(CONFIG.replace("@HASTY@", str(listening.getsockname()[1])))
        yield says


def _hurry(listening: socket.socket, says: list[bytes]) -> None:
    with contextlib.suppress(OSError):
        while True:
            each, _ = listening.accept()
            with each, contextlib.suppress(OSError):
                each.recv(100)
                each.sendall(says[0])


def upload(client: Client, *, chunked: bool) -> None:
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % SIZE
    client.send(b"POST /hasty HTTP/1.1\r\nhost: test\r\n%b\r\n\r\n" % framing)
    for _ in range(SIZE // 50_000):
        client.send(b"c350\r\n" + b"x" * 50_000 + b"\r\n" if chunked else b"x" * 50_000)
    if chunked:
        client.send(b"0\r\n\r\n")


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(
    ("said", "status", "size"), [(REFUSAL, 413, 2), (LONG, 403, 20_000), (CHUNKS, 401, 3)]
)
def test_the_answer_is_not_eaten_by_the_reset(
    rig: FaultRig, hasty: list[bytes], said: bytes, status: int, size: int, chunked: bool
) -> None:
    hasty[0] = said
    for _ in range(10):
        with rig.client() as client:
            sending = threading.Thread(target=upload, args=(client,), kwargs={"chunked": chunked})
            sending.start()
            answer = client.answer()
            assert (answer.status, len(answer.body)) == (status, size)
            sending.join()
    rig.until(lambda: len(rig.outcomes) == 10)
    assert {(found.status, found.error) for found in rig.outcomes} == {(status, "")}


def test_half_an_answer_before_the_reset_is_a_cut(rig: FaultRig, hasty: list[bytes]) -> None:
    hasty[0] = REFUSAL[:-1]
    for _ in range(5):
        with rig.client() as client:
            sending = threading.Thread(target=upload, args=(client,), kwargs={"chunked": False})
            sending.start()
            assert client.at_end() or b"413" in client.buffer
            sending.join()
    rig.until(lambda: len(rig.outcomes) == 5)
    assert {found.error for found in rig.outcomes} == {"backend_truncated"}
