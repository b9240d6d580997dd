"""A route whose rows a test writes, with a clock of its own, and what the alarms say of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gateway.config.load import load
from gateway.loops.alarms import KIND, Alarm, Alarms
from gateway.loops.allocation import Allocations
from gateway.record.events import Outcome
from gateway.state.store import Store
from tests.support.heard import Heard
from tests.support.one_route import one_route

START = 1_800_000_000.0
CONFIG = one_route("{type: split, weights: {v1: 9, v2: 1}}")


def outcome(number: int, time: float, assigned: str, propensity: float) -> Outcome:
    return Outcome(
        decision=int(time * 1000).to_bytes(6, "big") + number.to_bytes(10, "big"),
        time=time, route="r", policy="split", revision=1, epoch=1,
        unit=number, sticky=False, assigned=assigned, served=assigned, propensity=propensity, forced=False,
        status=200, error="", fallback=False, attempts="", gateway_ms=0.1, backend_ms=1.0, total_ms=1.2,
        request_bytes=1, answer_bytes=1, request_id="", principal="", features="",
    )  # fmt: skip


class Scene:
    def __init__(self, store: Store) -> None:
        self.time = START
        self.store = store
        self.document = load(CONFIG, source="test", env={})
        self.events: list[tuple[str, str, str]] = []
        self.raised: list[tuple[str, str]] = []
        self.lost = 0
        self.allocations = Allocations(
            store, owner="me", clock=lambda: self.time, swap=lambda *_: None, announce=lambda _: None
        )
        self.watch = Alarms(
            store,
            self.allocations,
            clock=lambda: self.time,
            events=Heard(store, lambda: self.time, self.hear),
            raised=lambda route, code: self.raised.append((route, code)),
            dropped=lambda: self.lost,
        )

    def hear(self, kind: str, route: str, data: Mapping[str, Any]) -> None:
        self.events.append((kind, route, data["code"]))

    async def assign(self, share: float, requests: int, seed: int, **fields: Any) -> None:
        """``requests`` over ten seconds, of which ``share`` really go to v2 (it should be 0.1)."""
        rng = np.random.default_rng(seed)
        rows = [
            outcome(
                int(self.time * 1000) + n,
                self.time + n * 10.0 / requests,
                *(("v2", 0.1) if hit else ("v1", 0.9)),
            )._replace(**fields)
            for n, hit in enumerate(rng.random(requests) < share)
        ]
        await self.store.append(rows)
        self.time += 10.0

    async def look(self) -> list[str]:
        return [alarm.code for alarm in await self.see()]

    async def see(self) -> list[Alarm]:
        return await self.watch.look(self.document, "r", await self.store.load(KIND, "r"))
