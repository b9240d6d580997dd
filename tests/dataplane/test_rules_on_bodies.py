"""What the bodies of requests and responses decide, and what becomes of copies, on the stage."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.record.events import Outcome
from gateway.record.usage import Usage
from tests.support.stage import Stage

ROUTES = """
  counted:
    match: {path: /counted}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    usage: true
  asked:
    match: {path: /asked}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    usage: request
  large:
    match: {path: /models, model: large}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
  small:
    match: {path: /models, model: small}
    variants: {v1: {backend: b}}
    policy: {type: single, variant: v1}
    body_limit: 100B
  told:
    match: {path: /told}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    errors: {client: [{status: 500, body: bad shape}]}
    retry: {attempts: 1}
  copied:
    match: {path: /copied}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: shadow, primary: v1, shadows: {v2: 100%}}
"""
COUNTS = b'{"usage": {"prompt_tokens": 3, "completion_tokens": 4}}'


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch, more=ROUTES)


def post(path: str, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


def answered(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found"])
def test_tokens_are_read_from_good_responses(stage: Stage, status: bytes) -> None:
    found: list[tuple[Any, ...]] = []
    stage.worker.offer_usage = lambda row, _, reader: found.append((Outcome(*row).status, reader.usage()))
    stage.client().give(post("/counted", b"{}"))
    stage.connected().give(answered(status, COUNTS))
    assert found == ([(200, Usage(3, 4, 0))] if status.startswith(b"2") else [])


def test_a_stream_that_does_not_ask_for_its_tokens_is_made_to(stage: Stage) -> None:
    asking: dict[str, Any] = {"stream": True, "n": 1}
    other = {"stream": False}
    for document, path in (
        (asking, "/asked/completions"),
        (other, "/asked/completions"),
        (asking, "/asked/x"),
    ):
        client = stage.client()
        client.give(post(path, json.dumps(document).encode()))
        backend = stage.connected()
        wanted = document
        if document is asking and path.endswith("completions"):
            wanted = {**asking, "stream_options": {"include_usage": True}}
        assert json.loads(backend.written.partition(b"\r\n\r\n")[2]) == wanted
        client.leave()
        stage.turn()


def test_the_limit_is_that_of_the_route_that_the_model_leads_to(stage: Stage) -> None:
    client = stage.client()
    for model in ("large", "small"):
        client.give(post("/models", json.dumps({"model": model, "x": "x" * 100}).encode()))
        if model == "large":
            stage.connected().give(answered(b"200 OK", b"served"))
            assert client.written.endswith(b"served")
    assert b'"code":"body_too_large"' in client.written
    assert b"more than the 100 bytes that this route takes" in client.written
    assert not stage.dials


@pytest.mark.parametrize(("body", "error"), [(b"bad shape", ""), (b"boom", "backend_status")])
def test_what_a_rule_does_not_tell_is_the_backends_fault(stage: Stage, body: bytes, error: str) -> None:
    client = stage.client()
    client.give(post("/told", b"{}"))
    stage.connected().give(answered(b"500 x", body))
    assert client.written.endswith(b"\r\n\r\n" + body)
    assert [(outcome.status, outcome.error) for outcome in stage.outcomes] == [(500, error)]


def counts(stage: Stage) -> dict[str, int]:
    dispatcher: Any = stage.worker.shadow
    return {what: number for (_, _, what), number in dispatcher.counts.items()}


def test_a_copy_whose_response_does_not_end_is_cut(stage: Stage) -> None:
    stage.client().give(post("/copied", b"{}"))
    stage.connected().give(answered(b"200 OK", b"served"))
    copy = stage.connected()
    copy.give(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(16):
        copy.give(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
    assert not copy.closing
    copy.give(b"1\r\nx\r\n")
    assert copy.closing
    assert counts(stage) == {"offered": 1, "sent": 1, "failed": 1}


def test_every_copy_that_waits_when_the_process_ends_is_counted(stage: Stage) -> None:
    client = stage.client()
    client.give(post("/copied", b"{}"))
    backend = stage.connected()
    backend.give(answered(b"200 OK", b"served"))
    for _ in range(69):
        client.give(post("/copied", b"{}"))
        backend.give(answered(b"200 OK", b"served"))
    dispatcher: Any = stage.worker.shadow
    assert (dispatcher.running, dispatcher.waiting) == (64, 6)
    dispatcher.close()
    assert (dispatcher.running, dispatcher.waiting, dispatcher.held) == (0, 0, 0)
    assert counts(stage) == {"offered": 70, "sent": 64, "failed": 64, "dropped:shutdown": 6}
