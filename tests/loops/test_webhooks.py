"""Webhooks over real sockets: every event once, in order, through outages, restarts and changes of the leader."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config.document import Document
from gateway.config.service import WebhookConfig
from gateway.control.event_stream import framed
from gateway.loops.webhooks import MAX_DELAY_S, Webhooks, cloud_event, sentence, slack
from gateway.state.base import Event
from gateway.state.store import Store

SECRET = "a secret of ours"


class Receiver:
    """An HTTP server that keeps what is posted, and answers with `status`."""

    def __init__(self) -> None:
        self.status = 204
        self.posts: list[tuple[dict[str, str], bytes]] = []

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/hook"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:]
        fields = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(fields["content-length"]))
        if self.status < 300:
            self.posts.append((fields, body))
        writer.write(f"HTTP/1.1 {self.status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        writer.close()

    def events(self) -> list[Any]:
        return [json.loads(body) for _, body in self.posts]


class Now:
    time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    await found.start()
    yield found
    found.server.close()


@pytest.fixture
def now() -> Now:
    return Now()


def hooks(*given: WebhookConfig) -> Document:
    return Document(webhooks=given)


def sender(store: Store, now: Now, *, leads: bool = True) -> Webhooks:
    return Webhooks(store, now, lambda: leads, "/turnout/test")


async def tell(store: Store, now: Now, kind: str = "alarm", route: str = "digits", **data: object) -> Event:
    return await store.add_event(time=now(), kind=kind, route=route, data=json.dumps(data))


@pytest.mark.parametrize(
    ("secret", "key"),
    [(SECRET, SECRET.encode()), ("whsec_AAECAwQFBgcICQoLDA0ODw==", bytes(range(16)))],
    ids=["text", "base64"],
)
async def test_an_event_is_a_signed_cloud_event(
    secret: str, key: bytes, store: Store, now: Now, receiver: Receiver
) -> None:
    document = hooks(WebhookConfig(url=receiver.url, secret=secret, headers={"x-team": "ml"}))
    webhooks = sender(store, now)
    await webhooks.step(document)
    event = await tell(store, now, code="no_rewards", message="Nothing came")
    await webhooks.step(document)
    ((fields, body),) = receiver.posts
    assert fields["content-type"] == "application/cloudevents+json"
    assert fields["x-team"] == "ml"
    assert json.loads(body) == {
        "specversion": "1.0",
        "id": str(event.id),
        "source": "/turnout/test",
        "type": "dev.turnout.alarm",
        "subject": "digits",
        "time": "1970-01-01T00:16:40Z",
        "datacontenttype": "application/json",
        "data": {"code": "no_rewards", "message": "Nothing came"},
    }
    signed = f"{fields['webhook-id']}.{fields['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert fields["webhook-signature"] == f"v1,{expected}"


@pytest.mark.parametrize("secret", ["too short", "whsec_AAECAwQFBgcICQoL", "whsec_not base64 at all"])
def test_a_key_that_is_too_short_or_cannot_be_read_is_refused(secret: str) -> None:
    with pytest.raises(ValidationError, match="at least 16"):
        WebhookConfig(url="http://127.0.0.1:1", secret=secret)


async def test_only_what_a_hook_asks_for_and_nothing_of_before(
    store: Store, now: Now, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tell(store, now, number=0)
    now.time += 1
    document = hooks(WebhookConfig(url=receiver.url, events=("alarm", "rollout"), routes=("digits",)))
    webhooks = sender(store, now)
    loaded, load = list[object](), ssl.create_default_context

    def counted(**given: Any) -> ssl.SSLContext:
        loaded.append(given)
        return load(**given)

    monkeypatch.setattr(ssl, "create_default_context", counted)
    await webhooks.step(document)
    await tell(store, now, number=1)
    await tell(store, now, "allocation", number=2)
    await tell(store, now, "alarm", "other", number=3)
    await tell(store, now, "config", "", number=4)
    await tell(store, now, "rollout", number=5)
    await webhooks.step(document)
    assert [event["data"]["number"] for event in receiver.events()] == [1, 5]
    assert len(loaded) == 1, "certificates, which takes 16 ms"


@pytest.mark.slow
async def test_a_receiver_that_fails_gets_everything_later_in_order(
    store: Store, now: Now, receiver: Receiver
) -> None:
    document = hooks(WebhookConfig(url=receiver.url))
    webhooks = sender(store, now)
    await webhooks.step(document)
    receiver.status = 503
    for number in range(5):
        await tell(store, now, number=number)
    tried = 0
    for _ in range(120):
        before = webhooks.counts.total()
        await webhooks.step(document)
        tried += webhooks.counts.total() - before
        now.time += 1
    assert 5 <= tried <= 8, "pauses grow"
    receiver.status = 200
    now.time += 300
    await webhooks.step(document)
    assert [event["data"]["number"] for event in receiver.events()] == [0, 1, 2, 3, 4]
    assert webhooks.counts["127.0.0.1", "delivered"] == 5


async def test_a_receiver_that_is_away_for_days_is_tried_with_the_longest_pause(
    store: Store, now: Now
) -> None:
    document = hooks(WebhookConfig(url="http://127.0.0.1:1/hook"))
    webhooks = sender(store, now)
    await webhooks.step(document)
    await tell(store, now, number=0)
    (progress,) = webhooks._progress.values()
    progress.failures = 1500  # 300 s apart: five days
    await webhooks.step(document)
    assert progress.next_try == now.time + MAX_DELAY_S


async def test_a_clock_that_is_set_back_hides_nothing_and_delays_no_try(
    store: Store, now: Now, receiver: Receiver
) -> None:
    document = hooks(WebhookConfig(url=receiver.url))
    webhooks = sender(store, now)
    now.time = 100_000.0
    await webhooks.step(document)
    receiver.status = 503
    now.time -= 3600.0
    await tell(store, now, number=0)
    await webhooks.step(document)
    assert webhooks.counts["127.0.0.1", "failed"] == 1
    receiver.status = 204
    now.time -= 3600.0
    await webhooks.step(document)
    assert [event["data"]["number"] for event in receiver.events()] == [0]


async def test_one_dead_receiver_holds_up_no_other(store: Store, now: Now, receiver: Receiver) -> None:
    dead = WebhookConfig(url="http://127.0.0.1:1/hook")
    document = hooks(dead, WebhookConfig(url=receiver.url))
    webhooks = sender(store, now)
    await webhooks.step(document)
    await tell(store, now, number=0)
    await webhooks.step(document)
    assert len(receiver.posts) == 1
    assert webhooks.counts == {("127.0.0.1", "failed"): 1, ("127.0.0.1", "delivered"): 1}


class Dripping(Receiver):
    """Responds at once, with a body that never ends."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status
        self.sent = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.posts.append(({}, b""))
        with contextlib.suppress(OSError), contextlib.closing(writer):
            writer.write(f"HTTP/1.1 {self.status} x\r\ncontent-type: text/plain\r\n\r\n".encode())
            while True:
                writer.write(b"x" * 1024)
                await writer.drain()
                self.sent += 1024
                await asyncio.sleep(0.001)


async def test_the_body_of_a_response_is_not_read(store: Store, now: Now, receiver: Receiver) -> None:
    endless = Dripping(200)
    await endless.start()
    document = hooks(WebhookConfig(url=endless.url), WebhookConfig(url=receiver.url))
    webhooks = sender(store, now)
    await webhooks.step(document)
    await tell(store, now, number=0)
    async with asyncio.timeout(60):
        await webhooks.step(document)
    assert len(endless.posts) == len(receiver.posts) == 1
    assert webhooks.counts == {("127.0.0.1", "delivered"): 2}
    endless.server.close()


class Silent(Receiver):
    """Accepts connections and sends a byte of a head now and then."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            writer.write(b"HTTP/1.1 200 ")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)


async def test_a_receiver_that_never_finishes_delays_no_other(
    store: Store, now: Now, receiver: Receiver
) -> None:
    silent = Silent()
    await silent.start()
    document = hooks(WebhookConfig(url=silent.url, timeout=0.5), WebhookConfig(url=receiver.url))
    webhooks = sender(store, now)
    await webhooks.step(document)
    await tell(store, now, number=0)
    async with asyncio.timeout(60):
        await webhooks.step(document)
    assert len(receiver.posts) == 1
    assert webhooks.counts == {("127.0.0.1", "delivered"): 1, ("127.0.0.1", "failed"): 1}
    silent.server.close()


async def test_a_field_may_hold_latin_1(store: Store, now: Now, receiver: Receiver) -> None:
    document = hooks(WebhookConfig(url=receiver.url, headers={"x-team": "caf\u00e9"}))
    webhooks = sender(store, now)
    await webhooks.step(document)
    await tell(store, now, number=0)
    await webhooks.step(document)
    assert [fields["x-team"] for fields, _ in receiver.posts] == ["caf\u00e9"]


async def test_another_leader_goes_on_where_the_last_one_stopped(
    store: Store, now: Now, receiver: Receiver
) -> None:
    document = hooks(WebhookConfig(url=receiver.url))
    first, second = sender(store, now), sender(store, now)
    await first.step(document)
    for number in range(3):
        await tell(store, now, number=number)
        await first.step(document)
    await tell(store, now, number=3)
    await second.step(document)  # after a restart, or on another machine
    assert [event["data"]["number"] for event in receiver.events()] == [0, 1, 2, 3]
    follower = sender(store, now, leads=False)
    await tell(store, now, number=4)
    await follower.step(document)
    assert len(receiver.posts) == 4


@pytest.mark.slow
async def test_many_events_are_all_delivered(store: Store, now: Now, receiver: Receiver) -> None:
    document = hooks(WebhookConfig(url=receiver.url))
    webhooks = sender(store, now)
    await webhooks.step(document)
    for number in range(250):
        await tell(store, now, number=number)
    for _ in range(4):
        await webhooks.step(document)
    assert [event["data"]["number"] for event in receiver.events()] == list(range(250))


async def test_slack_gets_a_sentence(store: Store, now: Now, receiver: Receiver) -> None:
    document = hooks(WebhookConfig(url=receiver.url, format="slack"))
    webhooks = sender(store, now)
    await webhooks.step(document)
    reason = "error_rate breaches <5%>"
    stage: dict[str, Any] = {"source": "running", "target": "running", "stage": 1, "phase": "canary"}
    await tell(store, now, "rollout", **stage, weight=0.1, reason="passed", actor="")
    await tell(store, now, "rollout", **stage, weight=0.1, reason="resume: repaired", actor="ann")
    await tell(store, now, "rollout", source="running", target="rolled_back", weight=0.0, reason=reason)
    await webhooks.step(document)
    assert receiver.events() == [
        {"text": "*digits*: rollout running, stage 2, candidate at 10.0% (passed)"},
        {"text": "*digits*: rollout running, stage 2, candidate at 10.0% (resume: repaired, by ann)"},
        {
            "text": "*digits*: rollout running → rolled back, candidate at 0.0% (error_rate breaches &lt;5%&gt;)"
        },
    ]


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("alarm", {"message": "m"}, ":warning: *r*: m"),
        ("alarm_over", {"code": "c"}, "*r*: the alarm c is over"),
        ("winner", {"winner": "v2"}, "*r*: v2 has won"),
        (
            "winner",
            {"winner": "v2", "state": "asking", "by": "rule", "command": "c"},
            "*r*: v2 has won; to hand over: c",
        ),
        (
            "winner",
            {"winner": "v2", "state": "handed_over", "by": "ann", "command": "c"},
            "*r*: v2 has won and gets everything, by ann",
        ),
        (
            "winner",
            {"winner": None, "state": "learning", "before": "handed_over", "by": "ann"},
            "*r*: the hand-over was reverted, by ann",
        ),
        (
            "winner",
            {"winner": None, "state": "learning", "before": "asking", "by": "rule"},
            "*r*: no winner any more, by rule",
        ),
        ("ejection", {"address": "a", "state": "ejected"}, "*r*: ejection: address a, state ejected"),
        (
            "config",
            {"revision": 3, "author": "<!channel>"},
            "configuration revision 3 is in force (by &lt;!channel&gt;)",
        ),
    ],
)
def test_each_kind_has_its_words(kind: str, data: dict[str, Any], text: str) -> None:
    route = "" if kind == "config" else "r"
    assert sentence(Event(1, 0.0, kind, route, json.dumps(data))) == text


@pytest.mark.parametrize("damaged", ["NaN", "-Infinity", "1e999", 400 * "9", "null", '"y"', "[1]"])
def test_damaged_values_hold_up_neither_webhooks_nor_streams(damaged: str) -> None:
    for name in ("stage", "weight", "winner", "state", "message"):
        for kind in ("rollout", "winner", "alarm"):
            event = Event(1, 0.0, kind, "r", f'{{"source": "x", "target": "x", "{name}": {damaged}}}')
            for written in (slack(event)[0], cloud_event(event, "s")[0], framed(event)):
                assert b"r" in written
