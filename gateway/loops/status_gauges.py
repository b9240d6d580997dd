"""Prometheus gauges of what the store and the certificates say: rollouts, verdicts, alarms, allocations, expiry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from prometheus_client import Gauge

from gateway.compile.plans import canaries, in_force
from gateway.config.document import Document
from gateway.config.files import named_files
from gateway.config.policy import bandit_of
from gateway.engines.fleet import Fleet
from gateway.ingest.spool import Spool
from gateway.loops import alarms, guardrail_verdicts
from gateway.loops.allocation import Allocations
from gateway.loops.controller import Controller
from gateway.loops.joining import Joining
from gateway.loops.periodic import Failures, each_route
from gateway.state.outage import StoreOutage
from gateway.state.store import DocumentStore
from gateway.telemetry.metrics import Metrics

STATUS_GAUGES_S: Final = 5.0
Series = dict[tuple[str, ...], float]
"""Label values → value."""


@dataclass(frozen=True, slots=True)
class StatusGauges:
    """The gauges of one process. Every process shows the same, as far as the store says it."""

    metrics: Metrics
    store: DocumentStore
    controller: Controller
    allocations: Allocations
    spool: Spool
    outage: StoreOutage
    joining: Joining
    fleet: Fleet
    failures: Failures = field(default_factory=Failures)

    async def step(self, document: Document) -> None:
        """Set all of them. Raises StoreUnavailable, after those that need no store are set."""
        metrics = self.metrics
        metrics.store_ready.set(self.outage.since is None)
        metrics.started_without_store.set(self.joining.state_time is not None)
        metrics.spool_bytes.set(self.spool.waiting_bytes)
        metrics.show(
            metrics.certificate_expiry,
            {(path,): at for path, at in (await asyncio.to_thread(_expiries, named_files(document))).items()},
        )
        await self._show_allocations(document)
        self._show_engines(document)
        await self._show_alarms(document)
        await self._show_rollouts(document)

    async def _show_allocations(self, document: Document) -> None:
        metrics, published = self.metrics, self.allocations.published
        stored = {route: published[route][0] for route in document.routes if route in published}
        await self._show(metrics.published_at, {(route,): one.time for route, one in stored.items()})
        best: Series = {}
        bandits = [route for route in stored if bandit_of(document.routes[route].policy) is not None]
        for route in bandits:
            await asyncio.sleep(0)
            evidence = stored[route].evidence
            for variant, row in json.loads(evidence).get("variants", {}).items() if evidence else ():
                if "probability_best" in row:
                    best[route, variant] = row["probability_best"]
        await self._show(metrics.probability_best, best)

    def _show_engines(self, document: Document) -> None:
        metrics, states, rows = self.metrics, Series(), Series()
        for engine in document.engines:
            for node in self.fleet.shown(engine)["nodes"]:
                states[engine, node["node"], node["state"]] = 1.0
                rows[engine, node["node"], "delivered"] = node["delivered"]
                rows[engine, node["node"], "lost"] = node["lost"]
        metrics.show(metrics.engine_node_state, states)
        metrics.show(metrics.engine_rows, rows)

    async def _show_rollouts(self, document: Document) -> None:
        states: Series = {}
        stages: Series = {}
        verdicts: Series = {}

        async def show(route: str) -> None:
            shown = await self.controller.rollout_verdicts(route)
            if shown is None:
                return
            rollout, of_route = shown
            states[route, str(rollout.status)] = 1.0
            stages[route,] = rollout.stage + 1.0
            verdicts.update({(route, v.metric, v.verdict): 1.0 for v in of_route})

        await each_route("the gauges", canaries(document), show, self.failures)
        bandits = [name for name, route in document.routes.items() if in_force(route, ()) is not None]
        for route, (_, text) in (await self.store.load_all(guardrail_verdicts.KIND, bandits)).items():
            of_bandit = in_force(document.routes[route], json.loads(text)) or ()
            verdicts |= {(route, one["metric"], one["verdict"]): 1.0 for one in of_bandit}
        metrics = self.metrics
        await self._show(metrics.rollout_state, states)
        await self._show(metrics.rollout_stage, stages)
        await self._show(metrics.verdict, verdicts)

    async def _show_alarms(self, document: Document) -> None:
        standing: Series = {}
        kept = await self.store.load_all(alarms.KIND, (alarms.GATEWAY, *document.routes))
        for route, (_, text) in kept.items():
            for alarm in json.loads(text):
                standing[route, alarm["code"]] = 1.0
        await self._show(self.metrics.standing_alarm, standing)

    async def _show(self, gauge: Gauge, series: Series) -> None:
        """Sets a gauge in a turn of the loop of its own: for thousands of routes each takes up to 30 ms."""
        await asyncio.sleep(0)
        self.metrics.show(gauge, series)


def _expiries(paths: Iterable[str]) -> dict[str, float]:
    """When the first certificate to expire of each file does; without files that hold keys only or can't be read."""
    expiries = {}
    for path in paths:
        try:
            certificates = x509.load_pem_x509_certificates(Path(path).read_bytes())
        except (OSError, ValueError):
            continue
        expiries[path] = min(one.not_valid_after_utc.timestamp() for one in certificates)
    return expiries
