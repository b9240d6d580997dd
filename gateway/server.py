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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from gateway import clock
from gateway.compile.plans import period
from gateway.compile.prepare import Prepared, View, prepare
from gateway.compile.registry import Registry
from gateway.compile.revisions import Revisions
from gateway.config.document import Document
from gateway.config.faults import ConfigError
from gateway.config.files import listener_context
from gateway.config.load import Examined, load, read_text
from gateway.config.watch import Signatures
from gateway.control.app import build
from gateway.control.context import Action, Live
from gateway.dataplane.auth import Authenticator
from gateway.dataplane.comparing import Comparer
from gateway.dataplane.contextual import table
from gateway.dataplane.shadow import Shadower
from gateway.dataplane.snapshot import Snapshot, VariantPlan
from gateway.dataplane.tokens import Tokens
from gateway.dataplane.worker import Worker
from gateway.internal_errors import INTERNAL_ERRORS
from gateway.local_dir import local_dir
from gateway.loops.allocation import Allocations
from gateway.loops.configuration import Configuration
from gateway.loops.guards import EVERY as GUARDS_S
from gateway.loops.guards import Guards
from gateway.loops.periodic import Step, periodically
from gateway.loops.probes import LOOK as PROBES_S
from gateway.loops.probes import Probes
from gateway.loops.rates import RATES_S, Rates
from gateway.loops.rollout import Rollouts
from gateway.loops.stops import Stops
from gateway.loops.upkeep import EVERY as PRUNE_S
from gateway.loops.upkeep import prune_store
from gateway.loops.watch import EVERY as WATCH_S
from gateway.loops.watch import Watch
from gateway.loops.webhooks import WEBHOOKS_S, Webhooks
from gateway.record import history
from gateway.record.events import Outcome, Shadowed
from gateway.record.recorder import Recorder
from gateway.record.request_lookup import RequestIds
from gateway.record.rewards import SEALING_KEYS, RewardBook
from gateway.record.spool import Spool
from gateway.record.token import Sealer
from gateway.state import open_store
from gateway.state.base import Event, Published, Revision, Store, StoreUnavailable
from gateway.state.outage import StoreOutage
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.traces import Traces
from gateway.threads import pool
from gateway.transport.pool import Address, Backend
from policies.contextual import Ensemble
from policies.model import Allocation

log = logging.getLogger("turnout")


class Gateway:
    """One process of the gateway; also the control API's `Context`."""

    store: Store
    rewards: RewardBook

    def __init__(
        self, path: Path, *, overrides: Mapping[str, str] | None = None, spare: str = "", workers: int = 1
    ) -> None:
        """``path``: the configuration file. ``overrides`` replace ``listen`` or ``store`` (the demo's).

        ``spare``: an earlier text of it that was good, for a worker that takes the place of one that died:
        where the file has a fault by now, it goes on with what the others have in force. ``workers``: how many
        processes share the port.
        """
        self.path = path
        self.spare = spare
        self.workers = workers
        self.overrides = dict(overrides or {})
        self.now = clock.wall
        self.metrics_ = Metrics()
        self.worker: Worker | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.tokens: Tokens | None = None
        self.files: Signatures = {}
        self.listener: ssl.SSLContext | None = None
        self.fetching: asyncio.Task[None] | None = None
        self.news = asyncio.Event()
        self.ending = False
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"

    # Life ---------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Everything up, in an order in which each part finds what it needs. Raises ConfigError."""
        loop = asyncio.get_running_loop()
        self.loop = loop
        loop.set_default_executor(pool())
        text, document = self.first()
        self.own = document
        self.store = open_store(document.store)
        self.outage = StoreOutage(self.now)
        await self.store.open()
        self.sealer = Sealer(await self.store.secrets(SEALING_KEYS))
        self.registry = Registry(loop, self._tell_health, part=1.0 / self.workers)
        self.random = clock.chance()
        self.traces = Traces(chance=self.random, wall=self.now)
        requests = RequestIds(self.store, self.document, self.now, self._packed_features)
        self.recorder = Recorder(
            self.store if document.record.enabled else Unrecorded(),
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
        self.rollouts = Rollouts(self.store, self.allocations, clock=self.now, emit=self._emit_quietly)
        await self.rollouts.start(document)
        self.stops = Stops(self.store, self.allocations, clock=self.now, emit=self._emit_quietly)
        await self.stops.start(document)
        self.spool = Spool(local_dir(document.store, document.record.spool), self.store)
        await self.spool.open()
        self.rewards = RewardBook(
            self.store,
            self.sealer,
            clock=self.now,
            spool=self.spool,
            allowed=self._takes,
            period=self._period,
            request_lookup=requests,
        )
        self.application = build(self)
        self.revisions = Revisions(
            self.store,
            clock=self.now,
            env=os.environ,
            prepare=self._prepare,
            commit=self._commit,
            tell=self._tell,
            name=str(self.path),
            origin=f"{socket.gethostname()}:{self.path.resolve()}",
        )
        await self.revisions.start(text)
        await self._settle()
        assert self.worker is not None
        self.worker.start()
        self._spawn(self.recorder.run())
        self._spawn(self.spool.run())
        self._start_loops(text or "")

    def _start_loops(self, text: str) -> None:
        """``text``: of the configuration file, as it was looked at."""
        document, now, emit = self.document, self.now, self._emit_quietly
        guards = Guards(self.store, self.allocations, clock=now, emit=emit)
        self.probes = Probes(self.registry, self.random)
        files = Configuration(self.path, text, self.revisions, lambda: self.files)
        watch = Watch(
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
        start("rollouts", self.rollouts.step, pace)
        start("stop rules", lambda: self.stops.step(document()), pace)
        start("guardrails of bandits", lambda: guards.step(document()), lambda: GUARDS_S)
        start("probes", lambda: self.probes.step(document().backends), lambda: PROBES_S)
        start("alarms", lambda: watch.step(document()), lambda: WATCH_S, delay=True)
        start("pruning", self._prune, lambda: PRUNE_S, delay=True)
        if self.store.rates is not None:
            rates = Rates(self.store.rates, self.owner, lambda: self.registry.buckets, self.workers)
            start("rates of keys", rates.step, lambda: RATES_S)
        start("the configuration", files.step, lambda: document().loops.watch, delay=True)
        start("other replicas", self._follow, lambda: document().loops.watch, delay=True)
        source = f"/turnout/{socket.gethostname()}"
        self.webhooks = Webhooks(self.store, now, lambda: self.allocations.leads, source)
        start("webhooks", lambda: self.webhooks.step(document()), lambda: WEBHOOKS_S)
        start("gauges", self._gauges, lambda: 1.0)

    async def _prune(self) -> None:
        await prune_store(self.store, self.allocations, self.document(), self.now)

    async def _settle(self) -> None:
        """The first allocations are published before the first request, so that its epoch is known to all."""
        with contextlib.suppress(StoreUnavailable):
            await self.allocations.step()

    async def stop(self) -> None:
        """What is in flight has ended or has been cut; the record is flushed, then everything closes."""
        self.ending = True
        self.news.set()
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
    def first(self) -> tuple[str | None, Document]:
        """The file's text and what it says; None and what the spare one says where the file has a fault."""
        try:
            text = read_text(self.path)
            return text, self.loaded(text)
        except ConfigError:
            if not self.spare:
                raise
            return None, self.loaded(self.spare)

    def loaded(self, text: str) -> Document:
        return self._overridden(load(text, source=str(self.path), env=os.environ))

    def _overridden(self, document: Document) -> Document:
        return document.model_copy(update=self.overrides) if self.overrides else document

    async def _prepare(self, found: Examined, source: str) -> Prepared:
        """Builds a document beside the loop; nothing is in force before `_commit`."""
        if found.document is not None:
            found = replace(found, document=self._overridden(found.document))
        view = View(
            registry=self.registry,
            traces=self.traces,
            statics=self.sealer.static,
            chance=self.random,
            now=self.now(),
            tokens=self.tokens,
            states=dict(self.rollouts.states),
            published=self.allocations.published,
        )
        return await asyncio.to_thread(prepare, found, view, source=source)

    def _commit(self, prepared: Prepared, revision: Revision) -> None:
        """Puts in force what was prepared: assignments, which can't fail."""
        document, snapshot = prepared.document, prepared.snapshot
        snapshot.revision = revision.revision
        self._document, self._revision = document, revision
        self._warn_of_start_options(document)
        self.rollouts.take(document, prepared.moves)
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
        self._gauge_allocations()
        self.metrics_.configured(revision.revision, self.now())

    def _warn_of_start_options(self, document: Document) -> None:
        """Says what of ``document`` is not this process's own: it is read at start alone."""
        for key in ("listen", "control", "store"):
            wanted, own = getattr(document, key), getattr(self.own, key)
            if wanted != own:
                shown = (
                    "" if key == "store" else f" is {wanted} there and {own} here"
                )  # a store's may hold a secret
                log.warning(
                    "the configuration in force is not of this gateway: '%s'%s. Restart to change it; if another "
                    "gateway shares this store by mistake, give each a 'store' of its own",
                    key,
                    shown,
                )

    def listener_tls(self) -> ssl.SSLContext | None:
        """What listening sockets are opened with: each handshake takes the context that is in force then."""
        if self.own.tls is None:
            return None
        opened = listener_context(self.own.tls)

        def choose(handshake: ssl.SSLObject, name: str, _: ssl.SSLContext) -> None:
            if self.listener is not None:
                handshake.context = self.listener

        opened.sni_callback = choose
        return opened

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
        route = self.worker.snapshot.routes.get(name)
        if route is not None:
            route.table = table(
                name, epoch, allocation, route.variants, self.sealer.static, route.sight, ensemble
            )
            route.shadows = tuple((route.variants[v], share) for v, share in allocation.shadows)
            self._gauge_allocation(name, epoch, allocation)

    def _gauge_allocations(self) -> None:
        for name, held in self.allocations.held.items():
            self._gauge_allocation(name, held.epoch, held.allocation)

    def _gauge_allocation(self, name: str, epoch: int, allocation: Allocation) -> None:
        self.metrics_.epoch.labels(name).set(epoch)
        for variant, probability in allocation.as_dict().items():
            self.metrics_.share.labels(name, variant).set(probability)

    def _tell_health(self, kind: str, data: Mapping[str, Any]) -> None:
        level = logging.INFO if data["state"] in ("healthy", "returned") else logging.WARNING
        log.log(level, "%(backend)s at %(address)s: %(state)s (%(reason)s)", data)
        self._tell(kind, data)

    def _tell(self, kind: str, data: Mapping[str, Any]) -> None:
        self._spawn(self._emit_quietly(kind, "", data))

    def _announce(self, record: Published) -> None:
        data = {"epoch": record.epoch, "allocation": dict(record.probabilities), "reason": record.reason}
        self._spawn(self._emit_quietly("allocation", record.route, data))

    async def _emit_quietly(self, kind: str, route: str, data: Mapping[str, Any]) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self.emit(kind, route, data)

    # Loops ----------------------------------------------------------------------------------------------
    async def _follow(self) -> None:
        """Takes up other processes' keys and events."""
        self.news.set()
        self.sealer.renew(await self.store.secrets(SEALING_KEYS))

    async def _gauges(self) -> None:
        self._update_metrics()

    def _update_metrics(self) -> None:
        worker = self.worker
        assert worker is not None
        m = self.metrics_
        m.reloaded.set(self.revisions.problem is None)
        m.connections.set(len(worker.connections))
        m.advance(m.refusals, worker.refusals)
        m.advance(m.internal_errors, INTERNAL_ERRORS.counts)
        m.advance(m.shadows, worker.shadow.counts)
        m.advance(m.record, self.recorder.counts)
        m.advance(m.rewards, self.rewards.counts)
        m.advance(m.spans, self.traces.counts)
        m.advance(m.webhooks, self.webhooks.counts)
        now = perf_counter()
        for (endpoint, shadow), address in self.registry.addresses.items():
            if not shadow:
                m.in_flight.labels(str(endpoint)).set(address.in_flight)
                healths = worker.healths()
                well = all(h.barred(address, now) == "healthy" for h in healths)
                m.healthy.labels(str(endpoint)).set(1 if well else 0)
                failing = any(h.failing(address) is not None for h in healths)
                m.failing.labels(str(endpoint)).set(1 if failing else 0)

    # The control API's context --------------------------------------------------------------------------
    def document(self) -> Document:
        return self._document

    def revision(self) -> Revision:
        return self._revision

    def refused_config(self) -> Mapping[str, Any] | None:
        problem = self.revisions.problem
        return None if problem is None else problem.shown()

    def live(self, route: str) -> Live | None:
        assert self.worker is not None
        held = self.allocations.held.get(route)
        routed = self.worker.snapshot.routes.get(route)
        if held is None or routed is None:
            return None
        health = {
            name: [self._address_health(variant.backend, address) for address in variant.backend.addresses]
            for name, variant in routed.variants.items()
        }
        shadows: dict[str, dict[str, int]] = {variant.name: {} for variant, _ in routed.shadows}
        for (name, shadow, event), count in self.worker.shadow.counts.items():
            if name == route:
                shadows.setdefault(shadow, {})[event] = count
        return Live(
            held.epoch, self.worker.snapshot.revision, held.allocation, health, shadows, held.contextual
        )

    def _address_health(self, backend: Backend, address: Address) -> dict[str, Any]:
        now = perf_counter()
        run = backend.health.failing(address)
        failing = None
        if run is not None:
            since = self.now() - (now - run.since)
            failing = {"attempts": run.attempts, "error": run.error, "since": since}
        return {
            "address": address.name,
            "state": backend.health.state(address, now),
            "failing": failing,
            "in_flight": address.in_flight,
            "waiting": len(backend.gate.waiting),
        }

    def ready(self) -> tuple[bool, str]:
        if self.ending or self.worker is None or self.worker.draining:
            return False, "The gateway is shutting down."
        return True, ""

    def authenticator(self) -> Authenticator:
        assert self.worker is not None
        return self.worker.snapshot.authenticator

    def metrics(self) -> bytes:
        self._update_metrics()
        return self.metrics_.text()

    def _period(self, route: str, epoch: int, decided: float) -> str:
        move = self.allocations.moves.get(route)
        competing = move.competing if move is not None else None
        return period(self._document.routes.get(route), epoch, decided, competing)

    async def rollout(
        self, route: str, action: Action, weight: float | None, by: str, reason: str = ""
    ) -> Mapping[str, Any]:
        section = self._document.routes.get(route)
        if section is not None and section.policy.type == "bandit":
            return await self.stops.command(route, section, action, f"{by}: {reason}" if reason else by)
        return await self.rollouts.command(route, action, weight, by, reason)

    async def rollout_state(self, route: str) -> Mapping[str, Any] | None:
        return await self.rollouts.describe(route)

    def stop_state(self, route: str) -> Mapping[str, Any] | None:
        return self.stops.describe(route)

    async def check_config(self, text: str, by: str) -> None:
        await self.revisions.check(text, by)

    async def put_config(self, text: str, by: str, if_match: str | None) -> Revision:
        return await self.revisions.propose(text, by, if_match)

    async def restore_config(self, revision: int, by: str, if_match: str | None) -> Revision:
        return await self.revisions.restore(revision, by, if_match)

    async def emit(self, kind: str, route: str, data: Mapping[str, Any]) -> Event:
        event = await self.store.add_event(time=self.now(), kind=kind, route=route, data=json.dumps(data))
        await history.keep(self.store, event)
        self.news.set()
        return event

    async def next_events(self, after: int, timeout: float) -> list[Event]:
        deadline = self.loop.time() + timeout
        while True:
            self.news.clear()
            found = await self.store.events(after=after)
            left = deadline - self.loop.time()
            if found or left <= 0 or self.ending:
                return found
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.news.wait(), left)


class Unrecorded:
    """Where outcomes go with ``record: {enabled: false}``: into the metrics alone."""

    async def append(self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed] = ()) -> None:
        """Nothing is kept."""
