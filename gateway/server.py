"""The composition root: the only module that knows every room.

`Gateway` is one process: it opens the store, puts the configuration in force, starts the loops and hands the
data plane its `Worker`. `gateway.serving` puts it on sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway import clock
from gateway.auth.jwt import Tokens
from gateway.auth.principal import Authenticator
from gateway.compile.plans import period
from gateway.compile.prepare import Prepared, View, prepare
from gateway.compile.registry import Registry
from gateway.compile.revisions import Revisions
from gateway.compile.snapshot import swap
from gateway.config.advice import of_another_gateway
from gateway.config.document import Document
from gateway.config.load import Examined
from gateway.config.source import Source
from gateway.config.watch import Signatures
from gateway.control.app import ControlApp
from gateway.control.gateway_api import Action, RouteStatus
from gateway.control.route_status import route_status
from gateway.dataplane.shadow.comparer import Comparer
from gateway.dataplane.shadow.dispatcher import Shadower
from gateway.dataplane.snapshot import Snapshot, VariantPlan
from gateway.dataplane.worker import Worker
from gateway.ingest.recorder import NullOutcomeSink, Recorder
from gateway.ingest.request_lookup import RequestIds
from gateway.ingest.rewards import SEALING_KEYS, RewardIngest
from gateway.ingest.spool import Spool
from gateway.loops.alarms import ALARMS_S, Alarms
from gateway.loops.allocation import Allocations
from gateway.loops.configuration import Configuration
from gateway.loops.controller import Controller
from gateway.loops.events import Events
from gateway.loops.gauges import Gauges, show_allocation
from gateway.loops.periodic import Step, periodically
from gateway.loops.probes import PROBES_S, Probes
from gateway.loops.rates import RATES_S, Rates
from gateway.loops.upkeep import PRUNE_S, prune_store
from gateway.loops.webhooks import WEBHOOKS_S, Webhooks
from gateway.record.decision_id import Sealer
from gateway.runtime.data_dir import data_dir
from gateway.runtime.threads import pool
from gateway.state import open_store
from gateway.state.base import Event, Published, Revision, StoreUnavailable
from gateway.state.outage import StoreOutage
from gateway.state.store import Store
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing.traces import Traces
from gateway.transport.address import Address
from policies.allocation.model import Allocation
from policies.contextual.bandit import Ensemble

log = logging.getLogger("turnout")


class Gateway:
    """One process of the gateway; also the control API's `Context`."""

    store: Store
    rewards: RewardIngest

    def __init__(
        self,
        path: Path,
        *,
        overrides: Mapping[str, str] | None = None,
        fallback_config: str = "",
        workers: int = 1,
    ) -> None:
        """``workers``: processes that share the port. The other arguments are those of `Source`."""
        self.source = Source(path, overrides or {}, fallback_config)
        self.workers = workers
        self.now = clock.wall
        self.metrics_ = Metrics()
        self.worker: Worker | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.tokens: Tokens | None = None
        self.files: Signatures = {}
        self.listener: ssl.SSLContext | None = None
        self.fetching: asyncio.Task[None] | None = None
        self.ending = False
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"

    # Life ---------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Everything up, in an order in which each part finds what it needs. Raises ConfigError."""
        loop = asyncio.get_running_loop()
        self.loop = loop
        loop.set_default_executor(pool())
        text, document = self.source.first()
        self.own = document
        self.store = open_store(document.store)
        self.outage = StoreOutage(self.now)
        await self.store.open()
        self.events = Events(self.store, self.now)
        self.sealer = Sealer(await self.store.secrets(SEALING_KEYS))
        self.registry = Registry(loop, self._tell_health, part=1.0 / self.workers)
        self.random = clock.chance()
        self.traces = Traces(chance=self.random, wall=self.now)
        requests = RequestIds(self.store, self.document, self.now, self._packed_features)
        self.recorder = Recorder(
            self.store if document.record.enabled else NullOutcomeSink(),
            capacity=document.record.capacity,
            interval=document.record.flush,
            sinks=(self.metrics_.outcomes,),
            outage=self.outage,
            index=requests.index,
        )
        self.allocations = Allocations(
            self.store, owner=self.owner, clock=self.now, swap=self._swap, announce=self._announce
        )
        await self.allocations.start()
        self.controller = Controller(
            self.store, self.allocations, clock=self.now, emit=self.events.emit_quietly
        )
        await self.controller.start(document)
        self.spool = Spool(data_dir(document.store, document.record.spool), self.store)
        await self.spool.open()
        self.rewards = RewardIngest(
            self.store,
            self.sealer,
            clock=self.now,
            spool=self.spool,
            allowed=self._takes,
            period=self._period,
            request_lookup=requests,
        )
        self.application = ControlApp(self)
        self.revisions = Revisions(
            self.store,
            clock=self.now,
            env=os.environ,
            prepare=self._prepare,
            commit=self._commit,
            tell=self._tell,
            name=str(self.source.path),
            origin=f"{socket.gethostname()}:{self.source.path.resolve()}",
        )
        await self.revisions.start(text)
        await self._settle()
        assert self.worker is not None
        self.worker.start()
        self._spawn(self.recorder.run())
        self._spawn(self.spool.run())
        self.gauges = Gauges(self.metrics_, self.registry, self.worker, self._counts)
        self._start_loops(text or "")

    def _start_loops(self, text: str) -> None:
        """``text``: of the configuration file, as it was looked at."""
        document, now, emit = self.document, self.now, self.events.emit_quietly
        self.probes = Probes(self.registry, self.random)
        files = Configuration(self.source.path, text, self.revisions, lambda: self.files)
        alarms = Alarms(
            self.store,
            self.allocations,
            clock=now,
            emit=emit,
            raised=lambda route, code: self.metrics_.alarms.labels(route, code).inc(),
            dropped=lambda: self.recorder.dropped.total(),
        )

        def start(name: str, step: Step, interval: Callable[[], float], *, delay: bool = False) -> None:
            self._spawn(periodically(name, step, interval, self.outage, delay=delay))

        def pace() -> float:
            return document().loops.allocation

        start("allocations", self.allocations.step, pace)
        start("controllers of routes", self.controller.step, pace)
        start("probes", lambda: self.probes.step(document().backends), lambda: PROBES_S)
        start("alarms", lambda: alarms.step(document()), lambda: ALARMS_S, delay=True)
        start(
            "pruning",
            lambda: prune_store(self.store, self.allocations, document(), now),
            lambda: PRUNE_S,
            delay=True,
        )
        if self.store.rates is not None:
            rates = Rates(self.store.rates, self.owner, lambda: self.registry.buckets, self.workers)
            start("rates of keys", rates.step, lambda: RATES_S)
        start("the configuration", files.step, lambda: document().loops.watch, delay=True)
        start("other replicas", self._follow, lambda: document().loops.watch, delay=True)
        source = f"/turnout/{socket.gethostname()}"
        self.webhooks = Webhooks(self.store, now, lambda: self.allocations.leads, source)
        start("webhooks", lambda: self.webhooks.step(document()), lambda: WEBHOOKS_S)
        start("gauges", self.gauges.step, lambda: 1.0)

    async def _settle(self) -> None:
        """The first allocations are published before the first request, so that its epoch is known to all."""
        with contextlib.suppress(StoreUnavailable):
            await self.allocations.step()

    async def stop(self) -> None:
        """What is in flight has ended or has been cut; the record is flushed, then everything closes."""
        self.ending = True
        self.events.end()
        self.probes.close()
        self.application.close()
        if self.worker is not None:
            for connection in tuple(self.worker.connections):
                connection.end()
            self.worker.stop()  # behind them, for their ends may set off copies
        for task in tuple(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.recorder.close()
        await self.traces.close()
        await self.spool.close()
        with contextlib.suppress(StoreUnavailable):
            await self.store.release("allocation", self.owner)
        await self.store.close()

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a loop has died: %s", task.get_coro(), exc_info=task.exception())

    def _packed_features(self, route: str, features: str) -> bytes:
        """What a sealed id carries of an outcome's features; empty where the route declares none any more."""
        assert self.worker is not None
        found = self.worker.snapshot.routes.get(route)
        return b"" if found is None or found.sight is None else found.sight.packed(json.loads(features))

    def _takes(self, route: str, metric: str) -> bool:
        """Whether the route takes values of the metric (`routes.NAME.feedback`)."""
        found = self._document.routes.get(route)
        return found is None or found.feedback is None or metric in found.feedback

    # Configuration --------------------------------------------------------------------------------------
    async def _prepare(self, found: Examined, source: str) -> Prepared:
        """Builds a document beside the loop; nothing is in force before `_commit`."""
        if found.document is not None:
            found = replace(found, document=self.source.overridden(found.document))
        view = View(
            registry=self.registry,
            traces=self.traces,
            statics=self.sealer.static,
            chance=self.random,
            now=self.now(),
            tokens=self.tokens,
            states=dict(self.controller.states),
            published=self.allocations.published,
        )
        return await asyncio.to_thread(prepare, found, view, source=source)

    def _commit(self, prepared: Prepared, revision: Revision) -> None:
        """Puts in force what was prepared: assignments, which can't fail."""
        document, snapshot = prepared.document, prepared.snapshot
        snapshot.revision = revision.revision
        self._document, self._revision = document, revision
        for said in of_another_gateway(document, self.own):
            log.warning("%s", said)
        self.controller.take(document, prepared.steering)
        self.allocations.take(document, prepared.held)
        self.rewards.metrics = document.metrics
        self.traces.take(prepared.exporter)
        self._verify_by(prepared.tokens)
        self.listener, self.files = prepared.listener, prepared.files
        self.registry.take(prepared.draft)
        if self.worker is None:
            self.worker = self._worker(snapshot)
        else:
            self.worker.snapshot = snapshot  # the one assignment that requests see
        for name, held in prepared.held.items():
            show_allocation(self.metrics_, name, held.epoch, held.allocation)
        self.metrics_.configured(revision.revision, self.now())

    def _verify_by(self, tokens: Tokens | None) -> None:
        """Tokens fetch their keys for as long as they are in force."""
        if tokens is self.tokens:
            return
        if self.fetching is not None:
            self.fetching.cancel()
        self.tokens = tokens
        self.fetching = self._spawn(tokens.run()) if tokens is not None else None

    def _worker(self, snapshot: Snapshot) -> Worker:
        shadow = Shadower(
            limits=snapshot.limits.shadow,
            pool=self._shadow_address,
            record=self._shadowed,
            comparer=Comparer(),
        )
        worker = Worker(
            loop=self.loop,
            snapshot=snapshot,
            application=self.application,
            wall=self.now,
            random=self.random,
            new_decision=self.sealer.new_decision,
            seal=self.sealer.seal,
            offer=self.recorder.offer,
            shadow=shadow,
        )
        shadow.worker = worker
        worker.addresses = lambda: tuple(self.registry.addresses.values())
        worker.healths = lambda: tuple(self.registry.healths.values())
        return worker

    def _shadow_address(self, variant: VariantPlan) -> Address:
        addresses = variant.backend.shadows
        return addresses[int(self.random() * len(addresses))]

    def _shadowed(self, shadowed: Any) -> None:
        self.recorder.offer_shadowed(shadowed)
        self.metrics_.shadowed((shadowed,))

    def _swap(self, name: str, epoch: int, allocation: Allocation, ensemble: Ensemble | None) -> None:
        assert self.worker is not None
        if swap(self.worker.snapshot, name, epoch, allocation, ensemble, self.sealer.static):
            show_allocation(self.metrics_, name, epoch, allocation)

    def _tell_health(self, kind: str, data: Mapping[str, Any]) -> None:
        level = logging.INFO if data["state"] in ("healthy", "returned") else logging.WARNING
        log.log(level, "%(backend)s at %(address)s: %(state)s (%(reason)s)", data)
        self._tell(kind, data)

    def _tell(self, kind: str, data: Mapping[str, Any]) -> None:
        self._spawn(self.events.emit_quietly(kind, "", data))

    def _announce(self, record: Published) -> None:
        data = {"epoch": record.epoch, "allocation": dict(record.probabilities), "reason": record.reason}
        self._spawn(self.events.emit_quietly("allocation", record.route, data))

    # Loops ----------------------------------------------------------------------------------------------
    async def _follow(self) -> None:
        """Takes up other processes' keys and events."""
        self.events.wake()
        self.sealer.renew(await self.store.secrets(SEALING_KEYS))

    def _counts(self) -> list[tuple[Any, Counter[Any]]]:
        m = self.metrics_
        m.reloaded.set(self.revisions.problem is None)
        return [
            (m.record, self.recorder.counts),
            (m.rewards, self.rewards.counts),
            (m.spans, self.traces.counts),
            (m.webhooks, self.webhooks.counts),
        ]

    # The control API's context --------------------------------------------------------------------------
    def document(self) -> Document:
        return self._document

    def revision(self) -> Revision:
        return self._revision

    def refused_config(self) -> Mapping[str, Any] | None:
        problem = self.revisions.problem
        return None if problem is None else problem.shown()

    def route_status(self, route: str) -> RouteStatus | None:
        assert self.worker is not None
        return route_status(self.worker, route, self.allocations.held.get(route), self.now)

    def ready(self) -> tuple[bool, str]:
        if self.ending or self.worker is None or self.worker.draining:
            return False, "The gateway is shutting down."
        return True, ""

    def authenticator(self) -> Authenticator:
        assert self.worker is not None
        return self.worker.snapshot.authenticator

    def metrics(self) -> bytes:
        self.gauges.update()
        return self.metrics_.text()

    def _period(self, route: str, epoch: int, decided: float) -> str:
        steered = self.allocations.steering.get(route)
        override = steered.override if steered is not None else None
        competing = override.competing if override is not None else None
        return period(self._document.routes.get(route), epoch, decided, competing)

    async def rollout(
        self, route: str, action: Action, weight: float | None, by: str, reason: str = ""
    ) -> Mapping[str, Any]:
        return await self.controller.command(route, action, weight, by, reason)

    async def rollout_state(self, route: str) -> Mapping[str, Any] | None:
        return await self.controller.describe_rollout(route)

    def stop_state(self, route: str) -> Mapping[str, Any] | None:
        return self.controller.describe_stop_rule(route)

    async def check_config(self, text: str, by: str) -> None:
        await self.revisions.check(text, by)

    async def put_config(self, text: str, by: str, if_match: str | None) -> Revision:
        return await self.revisions.propose(text, by, if_match)

    async def restore_config(self, revision: int, by: str, if_match: str | None) -> Revision:
        return await self.revisions.restore(revision, by, if_match)

    async def emit(self, kind: str, route: str, data: Mapping[str, Any]) -> Event:
        return await self.events.emit(kind, route, data)

    async def next_events(self, after: int, timeout: float) -> list[Event]:
        return await self.events.wait(after, timeout)
