"""The periodic work of a gateway process: which loops run, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.ingest.sealing_keys import SEALING_KEYS
from gateway.loops.alarms import ALARMS_S, Alarms
from gateway.loops.archiving import ARCHIVE_S, Archiving
from gateway.loops.histories import HISTORIES_S, Histories
from gateway.loops.periodic import Step, periodically
from gateway.loops.probes import PROBES_S
from gateway.loops.rates import RATES_S, Rates
from gateway.loops.status_gauges import STATUS_GAUGES_S, StatusGauges
from gateway.loops.upkeep import PRUNE_S, Believed, prune_store
from gateway.loops.webhooks import WEBHOOKS_S, Webhooks
from gateway.running import Gateway
from gateway.state.last_state import LAST_STATE_S, LastState

GAUGES_S: Final = 1.0
NODES_S: Final = 5.0


def start_loops(
    gateway: Gateway,
    webhooks: Webhooks,
    status_gauges: StatusGauges,
    last_state: LastState | None,
    workers: int,
) -> None:
    """Start every loop. ``workers``: how many processes share the port."""
    api, in_force, store, probes = gateway.api, gateway.in_force, gateway.store, gateway.probes
    allocations, document, now = in_force.allocations, in_force.document, in_force.now
    events, before = gateway.events, api.joining.before
    # By a clock that is ahead for a moment, the hour that still runs would be archived for the last time.
    believed = Believed(now, asyncio.get_running_loop().time)
    archiving = Archiving(store, document=document, leads=lambda: allocations.leads, clock=believed)
    alarms = Alarms(
        store,
        allocations,
        clock=now,
        events=events,
        raised=lambda route, code: in_force.metrics.alarms.labels(route, code).inc(),
        dropped=lambda: gateway.recorder.dropped.total(),
        reported=lambda: (api.rewards.counts.total(), api.rewards.rejections),
        copies=lambda: in_force.worker.shadow.large_bodies(),
        troubles=lambda: api.fleet.troubles() | archiving.troubles(),
        lost_rows=api.fleet.lost_rows,
        refusing=api.controller.refusing,
    )

    def start(name: str, step: Step, interval: Callable[[], float], *, delay: bool = False) -> None:
        gateway.tasks.spawn(periodically(name, step, interval, api.outage, delay=delay))

    def allocation_s() -> float:
        return document().loops.allocation

    def watch_s() -> float:
        return document().loops.watch

    async def follow_replicas() -> None:
        events.wake()
        in_force.sealer.renew(await store.secrets(SEALING_KEYS))

    start("allocations", before(allocations.step), allocation_s)
    start("controllers of routes", before(api.controller.step), allocation_s)
    start("probes", lambda: probes.step(document().backends), lambda: PROBES_S)
    start("alarms", before(lambda: alarms.step(document())), lambda: ALARMS_S, delay=True)

    async def prune() -> None:
        await prune_store(store, allocations, document, believed, archiving.keep_from)

    start("pruning", prune, lambda: PRUNE_S, delay=True)
    start("the archive", archiving.step, lambda: ARCHIVE_S)
    if store.rates is not None:
        rates = Rates(store.rates, gateway.owner, lambda: in_force.registry.buckets, workers)
        start("rates of keys", rates.step, lambda: RATES_S)
    start("the configuration", before(gateway.configuration.step), watch_s, delay=True)
    start("other replicas", follow_replicas, watch_s, delay=True)
    if last_state is not None:
        start("the last state", last_state.step, lambda: LAST_STATE_S)

    async def write_weights() -> None:
        if allocations.leads:
            await api.fleet.write_weights()

    start("weights of HTTPRoutes", before(write_weights), allocation_s)
    start("nodes of engines", lambda: api.fleet.share(store), lambda: NODES_S)
    start("histories", Histories(store, lambda: allocations.leads).step, lambda: HISTORIES_S)
    start("webhooks", lambda: webhooks.step(document()), lambda: WEBHOOKS_S)
    start("gauges", api.gauges.step, lambda: GAUGES_S)
    start("gauges of states", lambda: status_gauges.step(document()), lambda: STATUS_GAUGES_S)
