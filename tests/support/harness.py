"""A gateway without a data plane: the control API's context over a real store, revisions and allocations."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.auth.principal import Authenticator, Principal
from gateway.compile.revisions import Revisions
from gateway.config.document import Document
from gateway.config.faults import ConfigError
from gateway.config.load import Examined
from gateway.config.policy import bandit_of
from gateway.control.gateway_api import Outage, RouteStatus
from gateway.dataplane.decide import Decided
from gateway.engines.fleet import Fleet
from gateway.errors import TurnoutError
from gateway.ingest.rewards import RewardIngest
from gateway.loops.allocation import Allocations
from gateway.loops.route_states import require_unchanged
from gateway.record.decision_id import Sealer
from gateway.state.base import Event, Revision
from gateway.state.events import Events
from gateway.state.sqlite import SqliteStore
from gateway.state.store import Store
from policies.contextual.features import Scalar
from policies.rollout.events import Command
from tests.support.in_force import prepared, put_in_force

KEYS: dict[str, str] = {
    "app": "scopes: [infer, feedback], routes: [digits]",
    "writer": "scopes: [feedback]",
    "reader": "scopes: [read]",
    "digits-reader": "scopes: [read], routes: [digits]",
    "two-reader": "scopes: [read], routes: [digits, shop]",
    "scraper": "scopes: [metrics]",
    "inferrer": "scopes: [infer]",
    "slow": "scopes: [read], rate: 1/s",
    "ops": "scopes: [admin]",
    "bound-admin": "scopes: [admin], routes: [digits]",
    "bound-scraper": "scopes: [metrics], routes: [digits]",
    "pilot": "scopes: [read, steer]",
    "editor": "scopes: [read, config]",
}
"""By id; the secret is the id itself."""


def auth() -> str:
    rows = [
        f'    - {{id: {name}, hash: "sha256:{hashlib.sha256(name.encode()).hexdigest()}", {rest}}}'
        for name, rest in KEYS.items()
    ]
    return "auth:\n  keys:\n" + "\n".join(rows) + "\n"


ROUTES = """\
metrics:
  correct: {type: boolean, description: the label was right}
  delay: {type: real, goal: minimize}
backends:
  a: {url: "http://127.0.0.1:9101"}
  b: {urls: ["http://127.0.0.1:9102", "http://127.0.0.1:9103"]}
routes:
  digits:
    match: {path: /v2/models/digits}
    variants: {v1: {backend: a}, v2: {backend: b}, v3: {backend: b}}
    policy: {type: bandit, metric: correct, floor: 1%}
    shadows: {v3: 50%}
    fallback: [v1]
  shop:
    match: {path: /v2/models/shop}
    variants: {old: {backend: a}, new: {backend: b}}
    policy:
      type: canary
      baseline: old
      candidate: new
      stages: [{weight: 10%, for: 10m}, {weight: 50%, for: 1h, min_samples: 500}]
      guardrails: [{metric: error_rate, max_increase: 1%}]
  quiet:
    match: {path: /v2/models/quiet}
    variants: {only: {backend: a}}
    policy: {type: single, variant: only}
"""


@dataclass(frozen=True)
class Read:
    """A document that nothing is built of."""

    document: Document


class Harness:
    """The `gateway.control.gateway_api.GatewayApi` of the tests. What a test wants to steer is an attribute."""

    def __init__(self, store: Store, sealer: Sealer, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.now = clock
        self.sealer = sealer
        self.rewards = RewardIngest(store, sealer, clock=clock)
        self.readiness = (True, "")
        self.outage: Outage | None = None
        self.rollouts: dict[str, dict[str, Any]] = {}
        self.stops: dict[str, dict[str, Any]] = {}
        self.holds: dict[str, str] = {}
        self.health: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.shadow_counts: dict[str, dict[str, dict[str, int]]] = {}
        self.allocations = Allocations(
            store, owner="harness", clock=clock, swap=lambda *_: None, announce=lambda _: None
        )
        self.fleet = Fleet(
            document=lambda: self.document(),
            revision=lambda: self.revision().revision,
            published=self.allocations.in_effect,
            sealer=sealer,
            record=lambda outcome: None,
            clock=clock,
        )
        self.known = Authenticator(None)
        self.events = Events(store, clock)

    async def start(self, text: str) -> None:
        await self.allocations.start()
        self.revisions = Revisions(
            self.store,
            clock=self.clock,
            env={},
            prepare=self._prepare,
            commit=self._apply,
            tell=lambda kind, data: self._tell(kind, data),
        )
        await self.revisions.start(text)
        await self.allocations.step()

    async def _prepare(self, found: Examined, source: str) -> Read:
        if found.document is None:
            raise ConfigError(source, found.faults)
        return Read(found.document)

    def _tell(self, kind: str, data: Mapping[str, Any]) -> None:
        if data.get("author") != "file":  # the start's: tests count what comes later
            self._telling = asyncio.ensure_future(self.emit(kind, "", data))

    def _apply(self, built: Read, revision: Revision) -> None:
        document = built.document
        self.rewards.metrics = document.metrics
        put_in_force(document, self.allocations)
        if document.auth is None:
            self.known = Authenticator(None)
            return
        keys = {}
        for key in document.auth.keys:
            routes = None if key.routes is None else frozenset(key.routes)
            bucket = None if key.rate is None else _bucket(key.rate)
            keys[key.digest] = Principal(key.id, frozenset(key.scopes), routes, bucket)
        self.known = Authenticator(keys)

    # The context ------------------------------------------------------------------------------------
    def document(self) -> Document:
        return self.revisions.document

    def revision(self) -> Revision:
        return self.revisions.current

    def route_status(self, route: str) -> RouteStatus | None:
        held = self.allocations.held.get(route)
        if held is None:
            return None
        document = self.document()
        health: Mapping[str, Sequence[Mapping[str, Any]]] = self.health.get(route) or {
            name: [
                {"address": str(a), "state": "healthy", "responded": True, "in_flight": 0, "waiting": 0}
                for a in document.backends[variant.backend].addresses
            ]
            for name, variant in document.routes[route].variants.items()
            if variant.backend
        }
        return RouteStatus(
            held.epoch,
            self.revision().revision,
            held.allocation,
            health,
            self.shadow_counts.get(route, {}),
            held.contextual,
            bandit_of(document.routes[route].policy) is None,
        )

    def ready(self) -> tuple[bool, str]:
        return self.readiness

    def decide(
        self,
        route: str,
        unit: str,
        features: Mapping[str, Scalar],
        principal: Principal,
        forced: str,
        request_id: str,
    ) -> Decided:
        raise NotImplementedError("needs a data plane; see tests/e2e/test_decide.py")

    def store_outage(self) -> Outage | None:
        return self.outage

    def authenticator(self) -> Authenticator:
        return self.known

    def metrics(self) -> bytes:
        return b"# TYPE turnout_up gauge\nturnout_up 1\n"

    async def rollout(self, route: str, word: Command) -> Mapping[str, Any]:
        action, weight, by, reason = word.action, word.weight, word.actor, word.reason
        if action == "resume" and self.holds.pop(route, ""):
            await self.emit("steered", route, word.trail())
            return {"state": "learning", "winner": None}
        state = self.rollouts.get(route)
        if state is None:
            raise TurnoutError("not_found", f"The route {route!r} has no rollout; its policy is no canary.")
        require_unchanged(word.seen, state["state"], self.allocations.held[route].epoch)
        if action == "promote" and state["state"] == "rolled_back":
            raise TurnoutError("conflict", "The rollout was rolled back; resume it first.")
        state["state"] = {
            "pause": "paused",
            "resume": "running",
            "confirm": "running",
            "restart": "running",
            "promote": "promoted",
            "rollback": "rolled_back",
        }.get(action, state["state"])
        state["weight"] = weight if weight is not None else state["weight"]
        await self.emit("rollout", route, {"action": action, "by": by, "actor": by, "reason": reason})
        await self.emit("steered", route, word.trail())
        return state

    async def rollout_state(self, route: str, max_age: float = 0.0) -> Mapping[str, Any] | None:
        return self.rollouts.get(route)

    async def held(self, route: str) -> str:
        return self.holds.get(route, "")

    def stop_state(self, route: str) -> Mapping[str, Any] | None:
        return self.stops.get(route)

    async def check_config(self, text: str, by: str) -> Mapping[str, Mapping[str, float]]:
        document = (await self.revisions.check(text, by)).document
        return await self.allocations.preview(document, prepared(document, self.allocations)[1])

    async def emit(self, kind: str, route: str, data: Mapping[str, Any]) -> Event:
        return await self.events.emit(kind, route, data)


def _bucket(rate: float) -> Any:
    from gateway.auth.principal import Bucket

    return Bucket(rate)


class Clock:
    """Time that a test moves."""

    def __init__(self, at: float = 1_800_000_000.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


@asynccontextmanager
async def started(path: Path, text: str | None = None, clock: Clock | None = None) -> AsyncIterator[Harness]:
    """A harness over the SQLite file ``path``; ``text`` is the configuration (default: `auth` and `ROUTES`)."""
    store = SqliteStore(path)
    await store.open()
    sealer = Sealer(await store.secrets("decision-id"))
    made = Harness(store, sealer, clock or Clock())
    try:
        await made.start(text if text is not None else auth() + ROUTES)
        yield made
    finally:
        await store.close()
