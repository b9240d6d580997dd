"""One route as this process is serving it now, for the control API."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from gateway.clock import Clock
from gateway.compile.arrange import RouteAllocation
from gateway.control.gateway_api import RouteStatus
from gateway.dataplane.worker import Worker
from gateway.transport.address import Address
from gateway.transport.balancer import Backend


def route_status(
    worker: Worker, name: str, held: RouteAllocation | None, wall: Clock, *, by_epoch: bool
) -> RouteStatus | None:
    """Return how the route runs; None if it is not served. ``held``: its allocation."""
    routed = worker.snapshot.routes.get(name)
    if held is None or routed is None:
        return None
    health = {
        key: [_health(variant.backend, address, wall) for address in variant.backend.addresses]
        for key, variant in routed.variants.items()
    }
    shadows: dict[str, dict[str, int]] = {variant.name: {} for variant, _ in routed.shadows}
    for (route, shadow, event), count in worker.shadow.counts.items():
        if route == name:
            shadows.setdefault(shadow, {})[event] = count
    return RouteStatus(
        held.epoch, worker.snapshot.revision, held.allocation, health, shadows, held.contextual, by_epoch
    )


def _health(backend: Backend, address: Address, wall: Clock) -> dict[str, Any]:
    now = perf_counter()
    run = backend.health.failing(address)
    failing = None
    if run is not None:
        failing = {"attempts": run.attempts, "error": run.error, "since": wall() - (now - run.since)}
    return {
        "address": address.name,
        "state": backend.health.state(address, now),
        "failing": failing,
        "responded": backend.health.responded(address),
        "in_flight": address.in_flight,
        "waiting": len(backend.limiter.waiting),
    }
