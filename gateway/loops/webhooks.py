"""Events sent to other systems: CloudEvents or Slack messages, at least once each, in order for each hook.

The leader reads the store's events and posts what a hook asks for. How far a hook has come is kept in the store,
so a new leader goes on where the last one stopped.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from gateway.clock import Clock
from gateway.config.document import Document
from gateway.config.service import WebhookConfig, webhook_key
from gateway.json_text import compact
from gateway.state import shapes
from gateway.state.base import Event, of_stored
from gateway.state.store import DocumentStore
from policies.rollout.events import in_words

log = logging.getLogger("turnout.webhooks")

KIND: Final = shapes.kind("webhooks", {"after": int, "since": float})
WEBHOOKS_S: Final = 1.0
"""Seconds between two looks."""
EVENTS_AT_ONCE: Final = 100
FIRST_DELAY_S: Final = 1.0
MAX_DELAY_S: Final = 300.0
"""Between two tries, doubling from the first."""


@dataclass(slots=True)
class Progress:
    """How far one hook has come."""

    version: int
    after: int
    """Id of the last event that was delivered or that the hook does not ask for."""
    since: float
    """Events before the hook was configured are not sent; 0 once all of them were passed."""
    failures: int = 0
    next_try: float = 0.0


@dataclass(slots=True)
class Webhooks:
    """Delivers events; see the module."""

    store: DocumentStore
    clock: Clock
    leads: Callable[[], bool]
    """Whether this process is the leader."""
    source: str
    """Names this gateway in what is sent."""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(host of the hook, delivered | failed) → number of posts; only ever grows."""
    _progress: dict[str, Progress] = field(default_factory=dict)
    _tls: ssl.SSLContext | None = None
    """Made once, in a thread: a client that makes its own holds up requests for 16 ms, each second."""

    async def step(self, document: Document) -> None:
        """Deliver what is new to every hook. Raises StoreUnavailable."""
        if not document.webhooks or not self.leads():
            self._progress.clear()  # another process may go on meanwhile
            return
        if self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        async with httpx.AsyncClient(verify=self._tls, follow_redirects=False) as client:
            deliveries = (self._deliver(client, hook) for hook in document.webhooks)
            for outcome in await asyncio.gather(*deliveries, return_exceptions=True):
                if outcome is not None:
                    raise outcome

    async def _deliver(self, client: httpx.AsyncClient, hook: WebhookConfig) -> None:
        progress = self._progress.get(identity(hook)) or await self._begin(identity(hook))
        if 0.0 < progress.next_try - self.clock() <= MAX_DELAY_S:  # further off: the clock was set back
            return
        before, loop = (progress.after, progress.since), asyncio.get_running_loop()
        end = loop.time() + hook.timeout  # a slow hook goes on in the next step, so that it delays no other
        found = await self.store.events(after=progress.after, limit=EVENTS_AT_ONCE)
        for event in found:
            if event.time >= progress.since and wants(hook, event):
                trouble = await self._post(client, hook, event)
                self._count(hook, "failed" if trouble else "delivered")
                if trouble:
                    self._postpone(hook, progress, trouble)
                    break
                progress.failures = 0
            progress.after = event.id
            if loop.time() > end:
                break
        else:
            if len(found) < EVENTS_AT_ONCE:
                progress.since = 0.0  # all later ones are new, also by a clock that is set back
        if (progress.after, progress.since) != before:
            await self._keep(identity(hook), progress)

    async def _begin(self, name: str) -> Progress:
        found = await self.store.load(KIND, name)
        if found is not None:
            progress = of_stored(Progress, json.loads(found[1]) | {"version": found[0]})
        else:
            progress = Progress(0, after=0, since=self.clock())
        self._progress[name] = progress
        if found is None:
            await self._keep(name, progress)
        return progress

    async def _keep(self, name: str, progress: Progress) -> None:
        text = json.dumps({"after": progress.after, "since": progress.since})
        if await self.store.save(KIND, name, text, expected=progress.version):
            progress.version += 1
        else:  # another leader has been here: go on from where it is
            self._progress.pop(name, None)

    def _postpone(self, hook: WebhookConfig, progress: Progress, trouble: str) -> None:
        # Python raises OverflowError at 2.0**1024, which a hook that is away for four days reaches.
        delay = min(FIRST_DELAY_S * 2.0 ** min(progress.failures, 60), MAX_DELAY_S)
        progress.failures += 1
        progress.next_try = self.clock() + delay
        if progress.failures in (1, 10):
            log.warning("webhook of %s: %s; next try in %g s", _host(hook), trouble, delay)

    def _count(self, hook: WebhookConfig, result: str) -> None:
        self.counts[_host(hook), result] += 1

    async def _post(self, client: httpx.AsyncClient, hook: WebhookConfig, event: Event) -> str:
        """Empty, or why the event was not taken."""
        body, kind = slack(event) if hook.format == "slack" else cloud_event(event, self.source)
        headers = {"content-type": kind, **hook.headers}
        if hook.secret is not None:
            headers |= signature(hook.secret, event, body, self.clock())
        fields = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        try:
            # The response's body is not read: it may be long, or never end.
            async with (
                asyncio.timeout(hook.timeout),
                client.stream("POST", hook.url, content=body, headers=fields, timeout=None) as response,
            ):
                return "" if response.is_success else f"status {response.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return f"{type(error).__name__} {error}".strip()


def identity(hook: WebhookConfig) -> str:
    """A name under which a hook's progress is kept; its URL may hold a secret."""
    return hashlib.sha256(f"{hook.format} {hook.url}".encode()).hexdigest()[:32]


def wants(hook: WebhookConfig, event: Event) -> bool:
    return event.kind in hook.events and (not hook.routes or event.route in hook.routes)


def _host(hook: WebhookConfig) -> str:
    return httpx.URL(hook.url).host


def cloud_event(event: Event, source: str) -> tuple[bytes, str]:
    """Body and media type: CloudEvents 1.0, structured JSON."""
    document = {
        "specversion": "1.0",
        "id": str(event.id),
        "source": source,
        "type": f"dev.turnout.{event.kind}",
        "time": datetime.fromtimestamp(event.time, UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": event.fields,
    }
    if event.route:
        document["subject"] = event.route
    return compact(document), "application/cloudevents+json"


def slack(event: Event) -> tuple[bytes, str]:
    """Body and media type: a Slack message."""
    try:
        text = sentence(event)
    except (TypeError, ValueError, OverflowError):  # of damaged values: none after it would be sent
        text = f"{_plain(event.route)} {event.kind}"
    return compact({"text": text}), "application/json"


def sentence(event: Event) -> str:
    """The event in words. What a client or a person wrote must not become markup."""
    data = event.fields
    about = f"*{_plain(event.route)}*: " if event.route else ""
    match event.kind:
        case "rollout":
            return f"{about}rollout {_plain(in_words(data))}"
        case "alarm":
            return f":warning: {about}{_plain(data.get('message', ''))}"
        case "alarm_over":
            return f"{about}the alarm {_plain(data.get('code', ''))} is over"
        case "config":
            return f"configuration revision {data.get('revision')} is in force (by {_plain(data.get('author', ''))})"
        case "config_refused":
            return f":warning: a configuration was refused: {_plain(data.get('error', ''))}"
        case "winner":
            return about + _of_winner(data)
    words = ", ".join(
        f"{key} {_plain(value)}" for key, value in data.items() if isinstance(value, str | int | float)
    )
    return f"{about}{event.kind}: {words}"


def _of_winner(data: Mapping[str, Any]) -> str:
    name, by, command = (_plain(data.get(key) or "") for key in ("winner", "by", "command"))
    match data.get("state"):
        case "learning":
            over = (
                "the hand-over was reverted" if data.get("before") == "handed_over" else "no winner any more"
            )
            return f"{over}, by {by}"
        case "handed_over":
            return f"{name} has won and gets everything, by {by}"
    return f"{name} has won; to hand over: {command}" if command else f"{name} has won"


def _plain(value: object) -> str:
    """Slack's three control characters, escaped."""
    return str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")[:500]


def signature(secret: str, event: Event, body: bytes, now: float) -> dict[str, str]:
    """The fields of Standard Webhooks (HMAC-SHA256 over id, time and body)."""
    stamp = str(int(now))
    signed = f"{event.id}.{stamp}.".encode() + body
    digest = base64.b64encode(hmac.digest(webhook_key(secret), signed, "sha256")).decode()
    return {"webhook-id": str(event.id), "webhook-timestamp": stamp, "webhook-signature": f"v1,{digest}"}
