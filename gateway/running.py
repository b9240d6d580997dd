"""A running gateway process, and its face to the control API."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.auth.principal import Authenticator, Principal
from gateway.clock import Clock
from gateway.compile.prepare import Prepared
from gateway.compile.registry import Registry
from gateway.compile.revisions import Revisions
from gateway.config.document import Document
from gateway.control.app import ControlApp
from gateway.control.gateway_api import Outage, RouteStatus
from gateway.control.route_status import route_status
from gateway.dataplane.decide import Decided, decide
from gateway.dataplane.worker import Worker
from gateway.engines.fleet import Fleet
from gateway.in_force import InForce
from gateway.ingest.recorder import Recorder
from gateway.ingest.rewards import RewardIngest
from gateway.ingest.spool import Spool
from gateway.ingest.usage import UsageRewards
from gateway.internal_errors import INTERNAL_ERRORS
from gateway.loops.allocation import LAGGING_LEASE, LEASE
from gateway.loops.configuration import Configuration
from gateway.loops.controller import Controller
from gateway.loops.gauges import Gauges
from gateway.loops.joining import Joining
from gateway.loops.probes import Probes
from gateway.loops.route_views import edited_shares
from gateway.runtime.tasks import Tasks
from gateway.state.base import Revision, StoreUnavailable
from gateway.state.events import Events
from gateway.state.outage import StoreOutage
from gateway.state.store import Store
from policies.contextual.features import Scalar
from policies.rollout.events import Command


@dataclass
class RunningGateway:
    """The `gateway.control.gateway_api.GatewayApi`: forwards each request to the part that serves it."""

    store: Store
    rewards: RewardIngest
    fleet: Fleet
    clock: Clock
    in_force: InForce
    revisions: Revisions[Prepared]
    controller: Controller
    events: Events
    gauges: Gauges
    outage: StoreOutage
    joining: Joining

    def now(self) -> float:
        return self.clock()

    def document(self) -> Document:
        return self.in_force.document()

    def revision(self) -> Revision:
        return self.in_force.revision()

    def authenticator(self) -> Authenticator:
        return self.in_force.worker.snapshot.authenticator

    def ready(self) -> tuple[bool, str]:
        draining = self.in_force.worker.draining
        return not draining, "The gateway is shutting down." if draining else ""

    def store_outage(self) -> Outage | None:
        since = self.outage.since
        return None if since is None else Outage(since, self.joining.state_time)

    def decide(
        self,
        route: str,
        unit: str,
        features: Mapping[str, Scalar],
        principal: Principal,
        forced: str,
        request_id: str,
    ) -> Decided:
        return decide(self.in_force.worker, route, unit, features, principal, forced, request_id)

    def metrics(self) -> bytes:
        return self.gauges.text()

    def route_status(self, route: str) -> RouteStatus | None:
        held = self.in_force.allocations.held.get(route)
        by_epoch = self.in_force.by_epoch(route)
        return route_status(self.in_force.worker, route, held, self.clock, by_epoch=by_epoch)

    async def rollout(self, route: str, word: Command) -> Mapping[str, Any]:
        return await self.controller.command(route, word)

    async def rollout_state(self, route: str, max_age: float = 0.0) -> Mapping[str, Any] | None:
        return await self.controller.describe_rollout(route, max_age)

    def stop_state(self, route: str) -> Mapping[str, Any] | None:
        return self.controller.describe_stop_rule(route)

    async def held(self, route: str) -> str:
        return await self.controller.held(route)

    async def check_config(self, text: str, by: str) -> Mapping[str, Mapping[str, float]]:
        built = await self.revisions.check(text, by)
        shares = await self.in_force.allocations.preview(built.document, built.held)
        return shares | edited_shares(built.document, self.controller.states, self.clock())


@dataclass(frozen=True)
class Gateway:
    """One running process of the gateway."""

    api: RunningGateway
    application: ControlApp
    in_force: InForce
    store: Store
    owner: str
    """The name of this process in the store's leases."""
    tasks: Tasks
    events: Events
    recorder: Recorder
    usage: UsageRewards
    spool: Spool
    probes: Probes
    configuration: Configuration

    @property
    def worker(self) -> Worker:
        return self.in_force.worker

    @property
    def registry(self) -> Registry:
        return self.in_force.registry

    def reload(self) -> None:
        """Read the configuration and all files that it names again."""
        self.tasks.spawn(self.configuration.reload())

    async def stop(self) -> None:
        """End what is in flight, write the record, and close everything."""
        self.worker.draining = True
        self.events.end()
        self.probes.close()
        self.application.close()
        self.api.fleet.wake()
        # The worker after the connections, whose ends may start shadow requests.
        for end in (*[connection.end for connection in self.worker.connections], self.worker.stop):
            try:
                end()
            except Exception as error:  # noqa: BLE001 - all that follows must still be written
                INTERNAL_ERRORS.report(error)
        await self.tasks.close()
        # Usage not by its task, which is cancelled again while it writes; the fleet last: a connection that fails to
        # close costs nothing of the record.
        closings = (
            self._write_down,
            self.in_force.traces.close,
            self.spool.close,
            self._release,
            self.store.close,
        )
        for close in (*closings, self.api.fleet.close):
            try:
                await close()
            except Exception as error:  # noqa: BLE001 - as above
                INTERNAL_ERRORS.report(error)

    async def _write_down(self) -> None:
        # Together, since a store that is away takes seconds of both; and both to their end, which need the store.
        writing = asyncio.gather(self.usage.close(), self.recorder.close(), return_exceptions=True)
        for failure in await writing:
            if failure is not None:
                raise failure

    async def _release(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            for lease in LEASE, LAGGING_LEASE:
                await self.store.release(lease, self.owner)
