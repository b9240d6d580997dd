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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from gateway import clock
from gateway.compile.plans import period, plan
from gateway.compile.registry import Registry
from gateway.compile.revisions import Revisions
from gateway.compile.snapshot import compile_document
from gateway.config.document import Document
from gateway.config.faults import ConfigError, Fault
from gateway.config.load import read_text
from gateway.config.watch import watch_file
from gateway.control.app import build
from gateway.control.context import Action, Live
from gateway.dataplane.auth import Authenticator, Verifier
from gateway.dataplane.comparing import Comparer
from gateway.dataplane.contextual import table
from gateway.dataplane.shadow import Shadower
from gateway.dataplane.snapshot import Snapshot
from gateway.dataplane.tokens import Tokens
from gateway.dataplane.worker import Worker
from gateway.errors import TurnoutError
from gateway.internal_errors import INTERNAL_ERRORS
from gateway.local_dir import local_dir
from gateway.loops.allocation import Allocations
from gateway.loops.guards import EVERY as GUARDS_S
from gateway.loops.guards import Guards
from gateway.loops.periodic import Step, periodically
from gateway.loops.probes import Probes
from gateway.loops.rollout import Rollouts
from gateway.loops.stops import Stops
from gateway.loops.upkeep import EVERY as PRUNE_S
from gateway.loops.upkeep import prune_store
from gateway.loops.watch import EVERY as WATCH_S
from gateway.loops.watch import Watch
from gateway.record import history
from gateway.record.events import Outcome, Shadowed
from gateway.record.recorder import Recorder
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

    def __init__(self, path: Path, *, overrides: Mapping[str, str] | None = None, spare: str = "") -> None:
        """``path``: the configuration file. ``overrides`` replace ``listen`` or ``store`` (the demo's).

        ``spare``: an earlier text of it that was good, for a worker that takes the place of one that died:
        where the file has a fault by now, it goes on with what the others have in force.
        """
        self.path = path
        self.spare = spare
        self.overrides = dict(overrides or {})
        self.now = clock.wall
        self.metrics_ = Metrics()
        self.worker: Worker | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.tokens: Tokens | None = None
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
        self.store = open_store(document.store)
        self.outage = StoreOutage(self.now)
        await self.store.open()
        self.sealer = Sealer(await self.store.secrets(SEALING_KEYS))
        self.registry = Registry(loop, self._tell_health)
        self.random = clock.chance()
        self.traces = Traces(chance=self.random, wall=self.now)
        self.recorder = Recorder(
            self.store if document.record.enabled else Unrecorded(),
            capacity=document.record.capacity,
            interval=document.record.flush,
            sinks=(self.metrics_.outcomes,),
            outage=self.outage,
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
        )
        self.application = build(self)
        self.revisions = Revisions(
            self.store, clock=self.now, env=os.environ, check=self._check, apply=self._apply
        )
        await self.revisions.start(text)
        await self._settle()
        assert self.worker is not None
        self.worker.start()
        self._spawn(self.recorder.run())
        self._spawn(self.spool.run())
        self._spawn(Probes(self.registry, self.random).run(self.document))
        self._spawn(self._watch(text or ""))
        self._start_loops()
        self._spawn(self._gauges())

    def _start_loops(self) -> None:
        guards = Guards(self.store, self.allocations, clock=self.now, emit=self._emit_quietly)
        watch = Watch(
            self.store,
            self.allocations,
            clock=self.now,
            emit=self._emit_quietly,
            raised=lambda route, code: self.metrics_.alarms.labels(route, code).inc(),
            dropped=lambda: self.recorder.dropped.total(),
        )

        def start(name: str, step: Step, interval: Callable[[], float], *, delay: bool = False) -> None:
            self._spawn(periodically(name, step, interval, self.outage, delay=delay))

        def pace() -> float:
            return self.document().loops.allocation

        start("allocations", self.allocations.step, pace)
        start("rollouts", self.rollouts.step, pace)
        start("stop rules", lambda: self.stops.step(self.document()), pace)
        start("guardrails of bandits", lambda: guards.step(self.document()), lambda: GUARDS_S)
        start("alarms", lambda: watch.step(self.document()), lambda: WATCH_S, delay=True)
        start("pruning", self._prune, lambda: PRUNE_S, delay=True)
        start("other replicas", self._follow, lambda: self.document().loops.watch, delay=True)

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
        from gateway.config.load import load

        return self._overridden(load(text, source=str(self.path), env=os.environ))

    def _overridden(self, document: Document) -> Document:
        return document.model_copy(update=self.overrides) if self.overrides else document

    def _check(self, document: Document) -> None:
        """What only the running gateway can tell: plans that add up, TLS files that load."""
        for name in document.routes:
            try:
                plan(document, name)
            except ValueError as error:
                raise ConfigError(
                    str(self.path), (Fault(0, 0, f"routes.{name}.policy", str(error), ""),)
                ) from error

    def _apply(self, document: Document, revision: Revision) -> None:
        document = self._overridden(document)
        self._document, self._revision = document, revision
        self.rollouts.arrange(document)
        snapshot = self._compiled(document, revision)
        self.rewards.metrics = document.metrics
        if self.worker is None:
            self.worker = self._worker(snapshot)
        else:
            self.worker.snapshot = snapshot  # the one assignment that puts it in force
            self.registry.retire(document)
        self._gauge_allocations()
        self.metrics_.revision.set(revision.revision)

    def _compiled(self, document: Document, revision: Revision) -> Snapshot:
        allocations = self.allocations.arrange(document)
        return compile_document(
            document,
            revision=revision.revision,
            registry=self.registry,
            allocations=allocations,
            statics=self.sealer.static,
            chance=self.random,
            verify=self._verifier(document),
            ensembles=self.allocations.ensembles,
            tracing=self.traces.arrange(document.telemetry.traces),
        )

    def _verifier(self, document: Document) -> Verifier | None:
        """Tokens keep their keys, and their fetching, as long as the section stays the same."""
        settings = document.auth.jwt if document.auth is not None else None
        if settings is None:
            return None
        if self.tokens is None or self.tokens.settings != settings:
            self.tokens = Tokens(settings)
            if self.fetching is not None:
                self.fetching.cancel()
            self.fetching = self._spawn(self.tokens.run())
        return self.tokens.verify

    def _worker(self, snapshot: Snapshot) -> Worker:
        shadow = Shadower(
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

    def _shadow_address(self, variant: Any) -> Any:
        backend = self._document.backends[variant.backend_name]
        place = int(self.random() * len(backend.addresses))
        return self.registry.address(backend, place, shadow=True)

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
        self._spawn(self._emit_quietly(kind, "", data))

    def _announce(self, record: Published) -> None:
        data = {"epoch": record.epoch, "allocation": dict(record.probabilities), "reason": record.reason}
        self._spawn(self._emit_quietly("allocation", record.route, data))

    async def _emit_quietly(self, kind: str, route: str, data: Mapping[str, Any]) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self.emit(kind, route, data)

    # Loops ----------------------------------------------------------------------------------------------
    async def _watch(self, known: str) -> None:
        """The configuration file: a good edit is taken, a bad one is reported and changes nothing."""
        async for found in watch_file(self.path, known, interval=self.document().loops.watch):
            if isinstance(found, ConfigError):
                log.error("the configuration stays as it is: %s", found)
                continue
            try:
                revision = await self.revisions.adopt_file(found)
            except (TurnoutError, StoreUnavailable) as error:
                log.error("the edited configuration could not be stored: %s", error)
                continue
            problem = self.revisions.problem
            if revision is not None:
                log.info("configuration revision %d is in force", revision.revision)
                await self._emit_quietly("config", "", {"revision": revision.revision, "author": "file"})
            elif problem is not None:
                log.error("the configuration stays as it is: %s", problem.error)
                await self._emit_quietly("config_refused", "", {"error": str(problem.error)})

    async def _follow(self) -> None:
        """Takes up other processes' keys, revisions and events."""
        self.news.set()
        self.sealer.renew(await self.store.secrets(SEALING_KEYS))
        await self.revisions.refresh()

    async def _gauges(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._update_metrics()

    def _update_metrics(self) -> None:
        worker = self.worker
        assert worker is not None
        m = self.metrics_
        m.connections.set(len(worker.connections))
        m.advance(m.refusals, worker.refusals)
        m.advance(m.internal_errors, INTERNAL_ERRORS.counts)
        m.advance(m.shadows, worker.shadow.counts)
        m.advance(m.record, self.recorder.counts)
        m.advance(m.rewards, self.rewards.counts)
        m.advance(m.spans, self.traces.counts)
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

    async def rollout(self, route: str, action: Action, weight: float | None, by: str) -> Mapping[str, Any]:
        section = self._document.routes.get(route)
        if section is not None and section.policy.type == "bandit":
            return await self.stops.command(route, section, action, by)
        return await self.rollouts.command(route, action, weight, by)

    async def rollout_state(self, route: str) -> Mapping[str, Any] | None:
        return await self.rollouts.describe(route)

    def stop_state(self, route: str) -> Mapping[str, Any] | None:
        return self.stops.describe(route)

    async def put_config(self, text: str, by: str, if_match: str | None) -> Revision:
        revision = await self.revisions.propose(text, by, if_match)
        await self._emit_quietly("config", "", {"revision": revision.revision, "author": by})
        return revision

    async def restore_config(self, revision: int, by: str, if_match: str | None) -> Revision:
        restored = await self.revisions.restore(revision, by, if_match)
        await self._emit_quietly("config", "", {"revision": restored.revision, "author": by})
        return restored

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
