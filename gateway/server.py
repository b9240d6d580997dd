"""The composition root: `compose` connects the parts of one gateway process. `gateway.serving` puts it on sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import inf
from time import monotonic
from typing import Any

from gateway import clock
from gateway.compile.prepare import Prepared
from gateway.compile.registry import Registry
from gateway.compile.revisions import Revisions
from gateway.config.document import Document
from gateway.config.source import Source
from gateway.control.app import ControlApp
from gateway.dataplane.client.http2.session import Session
from gateway.dataplane.client.http2.stream import RequestStream
from gateway.dataplane.shadow.comparer import Comparer
from gateway.dataplane.shadow.dispatcher import ShadowDispatcher
from gateway.dataplane.snapshot import Snapshot
from gateway.dataplane.variant import VariantPlan
from gateway.dataplane.worker import Worker
from gateway.engines.fleet import Fleet
from gateway.in_force import InForce
from gateway.ingest.recorder import NullOutcomeSink, Recorder, Sink
from gateway.ingest.request_lookup import RequestIds
from gateway.ingest.rewards import RewardIngest
from gateway.ingest.sealing_keys import SEALING_KEYS, STARTING_S
from gateway.ingest.spool import Spool
from gateway.ingest.stamped import StampedUnits
from gateway.ingest.usage import UsageRewards
from gateway.loops.allocation import Allocations
from gateway.loops.configuration import Configuration
from gateway.loops.controller import Controller
from gateway.loops.gauges import Gauges
from gateway.loops.joining import Joining
from gateway.loops.probes import Probes
from gateway.loops.status_gauges import StatusGauges
from gateway.loops.webhooks import Webhooks
from gateway.record.decision_id import Sealer
from gateway.running import Gateway, RunningGateway
from gateway.runtime.data_dir import data_dir
from gateway.runtime.own_methods import own_methods
from gateway.runtime.tasks import Tasks
from gateway.runtime.threads import pool
from gateway.schedule import start_loops
from gateway.state import open_store
from gateway.state.base import ALLOCATION, Published, StoreUnavailable
from gateway.state.events import Events
from gateway.state.last_state import LastState
from gateway.state.outage import StoreOutage
from gateway.state.store import Store
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing.traces import Traces
from gateway.transport.address import Address
from gateway.transport.http2_session import BackendStream, Http2Session

log = logging.getLogger("turnout")
# Clients and backends share the classes of HTTP/2; apart, CPython executes them faster.
for _cls in (RequestStream, Session, BackendStream, Http2Session):
    own_methods(_cls)


async def compose(source: Source, *, workers: int = 1) -> Gateway:
    """Start one process. ``workers``: how many processes share the port.

    Raises ConfigError, StoreUnavailable.
    """
    loop = asyncio.get_running_loop()
    loop.set_default_executor(pool())
    tasks, metrics, now, chance = Tasks(loop), Metrics(), clock.wall, clock.chance()
    owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    text, document = source.first()
    store, outage = open_store(document.store), StoreOutage(now)
    directory = data_dir(document.store, document.record.spool)
    last_state = LastState(directory, store.address, store.memory, now) if store.memory else None

    async def read_store() -> None:
        await allocations.start()
        await controller.start(document)
        await revisions.rejoin(text)

    joining = Joining(store, last_state, outage, read_store)
    start = await joining.begin()
    # Replicas that went on write their configuration back into a store that was emptied, also if a worker that started
    # before this one has stored its file in it.
    shared = store.memory is not None and start is store
    made = max((one.time for one in await store.revision_entries(limit=1)), default=inf) if shared else 0.0
    settled_at = monotonic() + STARTING_S if now() - made < STARTING_S else 0.0
    events = Events(store, now)
    sealer = Sealer(await start.secrets(SEALING_KEYS))
    traces = Traces(chance=chance, wall=now)

    async def emit(kind: str, route: str, data: Mapping[str, Any]) -> None:
        with contextlib.suppress(StoreUnavailable):  # the event is lost
            await events.emit(kind, route, data)

    def tell(kind: str, data: Mapping[str, Any], route: str = "") -> None:
        tasks.spawn(emit(kind, route, data))

    # Closures read `in_force`, which comes last, since it assigns to all of these.
    request_ids = RequestIds(
        store, lambda: in_force.document(), now, lambda *of: in_force.packed_features(*of)
    )
    access_log = AccessLog(lambda: in_force.document().telemetry.access_log)
    recorder = _recorder(store, document, (metrics.outcomes, access_log), outage, request_ids)
    allocations = Allocations(
        store,
        owner=owner,
        clock=now,
        swap=lambda *published: in_force.swap(*published),
        announce=lambda published: tell(ALLOCATION, _announcement(published), published.route),
        may_publish=lambda leads: revisions.may_publish(leads),
        lags=lambda: revisions.lags,
    )
    await allocations.start(start)
    controller = Controller(
        store,
        allocations,
        clock=now,
        events=events,
        waits=lambda route, epoch: fleet.waits(route, epoch),
    )
    await controller.start(document, start)
    spool = Spool(directory, store)
    await spool.open()
    rewards = RewardIngest(
        store,
        sealer,
        clock=now,
        spool=spool,
        allowed=lambda route, metric: in_force.takes_reward(route, metric),
        period=lambda *decision: in_force.period(*decision),
        request_lookup=request_ids,
        stamped_units=StampedUnits(
            store,
            lambda route: in_force.has_unit(route),
            lambda route: in_force.document().joins_rows(route),
            lambda: in_force.document().record.flush,
        ),
        starting_s=STARTING_S if store.memory else 0.0,  # no other replica writes into a file
        settled=lambda: joining.state_time is None and monotonic() >= settled_at,
    )

    fleet = Fleet(
        document=lambda: in_force.document(),
        revision=lambda: in_force.revision().revision,
        published=allocations.in_effect,
        sealer=sealer,
        record=recorder.offer_batch,
        clock=now,
    )

    usage = UsageRewards(rewards, lambda: in_force.document(), metrics.first_token)

    def make_worker(snapshot: Snapshot) -> Worker:
        return _worker(loop, snapshot, in_force, recorder, usage, application)

    in_force = InForce(
        source=source,
        own=document,
        now=now,
        chance=chance,
        tasks=tasks,
        metrics=metrics,
        registry=Registry(loop, lambda kind, data: _tell_health(tell, kind, data), part=1.0 / workers),
        traces=traces,
        sealer=sealer,
        allocations=allocations,
        controller=controller,
        rewards=rewards,
        changed=fleet.wake,
        make_worker=make_worker,
    )
    revisions: Revisions[Prepared] = Revisions(
        store,
        clock=now,
        env=os.environ,
        prepare=in_force.prepare,
        commit=in_force.commit,
        tell=tell,
        name=str(source.path),
        origin=f"{socket.gethostname()}:{source.path.resolve()}",
        earlier=source.fallback_config,
    )
    webhooks = Webhooks(store, now, lambda: allocations.leads, f"/turnout/{socket.gethostname()}")

    def counts() -> list[tuple[Any, Counter[Any]]]:
        metrics.reloaded.set(revisions.problem is None)
        return [
            (metrics.record, recorder.counts),
            (metrics.rewards, rewards.counts),
            (metrics.rejected_rewards, rewards.rejections),
            (metrics.tokens, usage.tokens),
            (metrics.cost, usage.cost),
            (metrics.without_usage, usage.missing),
            (metrics.spans, traces.counts),
            (metrics.webhooks, webhooks.counts),
        ]

    gauges = Gauges(metrics, in_force.registry, lambda: in_force.worker, counts)
    status_gauges = StatusGauges(metrics, store, controller, allocations, spool, outage, joining, fleet)
    api = RunningGateway(
        store, rewards, fleet, now, in_force, revisions, controller, events, gauges, outage, joining
    )
    application = ControlApp(api)
    if joining.state_time is None:
        await revisions.start(text)
    else:
        await revisions.recover(text, start)
    with contextlib.suppress(StoreUnavailable):
        await allocations.step(first=True)  # the first allocations are published before the first request
    in_force.worker.start()
    tasks.spawn(recorder.run())
    tasks.spawn(spool.run())
    tasks.spawn(usage.run())
    probes = Probes(in_force.registry, chance)
    files = Configuration(source.path, text or "", revisions, lambda: in_force.files)
    gateway = Gateway(
        api, application, in_force, store, owner, tasks, events, recorder, usage, spool, probes, files
    )
    start_loops(gateway, webhooks, status_gauges, last_state, workers)
    return gateway


def _recorder(
    store: Store, document: Document, sinks: Sequence[Sink], outage: StoreOutage, request_ids: RequestIds
) -> Recorder:
    return Recorder(
        store if document.record.enabled else NullOutcomeSink(),
        capacity=document.record.capacity,
        interval=document.record.flush,
        sinks=sinks,
        outage=outage,
        index=request_ids.index,
    )


def _worker(
    loop: asyncio.AbstractEventLoop,
    snapshot: Snapshot,
    in_force: InForce,
    recorder: Recorder,
    usage: UsageRewards,
    application: ControlApp,
) -> Worker:
    registry, chance, metrics = in_force.registry, in_force.chance, in_force.metrics

    def shadow_address(variant: VariantPlan) -> Address:
        addresses = variant.backend.shadows
        return addresses[int(chance() * len(addresses))]

    def record_shadow(row: Any) -> None:
        recorder.offer_shadowed(row)
        metrics.shadowed((row,))

    shadow = ShadowDispatcher(
        limits=snapshot.limits.shadow, pool=shadow_address, record=record_shadow, comparer=Comparer()
    )
    worker = Worker(
        loop=loop,
        snapshot=snapshot,
        application=application,
        wall=in_force.now,
        random=chance,
        new_decision=in_force.sealer.new_decision,
        seal=in_force.sealer.seal,
        offer=recorder.offer,
        offer_usage=usage.offer,
        shadow=shadow,
        addresses=lambda: tuple(registry.addresses.values()),
        healths=lambda: tuple(registry.healths.values()),
    )
    shadow.worker = worker
    return worker


def _announcement(published: Published) -> Mapping[str, Any]:
    allocation = dict(published.probabilities)
    return {"epoch": published.epoch, "allocation": allocation, "reason": published.reason}


def _tell_health(tell: Callable[[str, Mapping[str, Any]], None], kind: str, data: Mapping[str, Any]) -> None:
    level = logging.INFO if data["state"] in ("healthy", "returned") else logging.WARNING
    log.log(level, "%(backend)s at %(address)s: %(state)s (%(reason)s)", data)
    tell(kind, data)
