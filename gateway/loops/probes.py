"""Active health checks: every address of a backend with ``health`` is probed on its own, over connections of its own.

A probe opens a connection, sends a request, reads the status of the response and closes. The first probe of an address
decides alone; after it, ``healthy`` good or ``unhealthy`` bad ones in a row change the verdict. Request and interval
follow the configuration; the verdict on an address outlives an edit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, Protocol

from gateway.config.backend import BackendConfig, HealthConfig
from gateway.transport.address import Address
from gateway.transport.grpc_probe import HEALTH_CHECK, GrpcProbe, health_check
from gateway.transport.health import Health
from gateway.transport.probe import ProbeRequest

PROBES_S: Final = 0.1
"""Seconds between two looks at what is due."""
JITTER: Final = 0.1
"""Share by which the time between two probes varies, so that many gateways do not ask in step."""


class Places(Protocol):
    """Where addresses and what is known of them are kept; `gateway.compile.registry.Registry`."""

    healths: dict[str, Health]

    def address(self, backend: BackendConfig, place: int) -> Address: ...
    def probe_address(self, backend: BackendConfig, place: int) -> Address: ...


@dataclass(slots=True)
class Watched:
    """One address of one backend, as its probes see it."""

    due: float
    good: int = 0
    bad: int = 0
    """In a row; one of them is 0."""
    verdict: bool | None = None
    """None before the first probe."""
    probing: asyncio.Task[None] | None = None

    def count(self, well: bool, rule: HealthConfig) -> bool:
        """Takes a probe's result; whether the verdict changed."""
        self.good, self.bad = (self.good + 1, 0) if well else (0, self.bad + 1)
        enough = self.good >= rule.healthy if well else self.bad >= rule.unhealthy
        if self.verdict is None or (enough and self.verdict != well):
            changed, self.verdict = self.verdict != well, well
            return changed
        return False


@dataclass
class Probes:
    """The loop. ``random`` draws from [0, 1)."""

    registry: Places
    random: Callable[[], float]
    watched: dict[tuple[str, str], Watched] = field(default_factory=dict)
    """By backend and address."""

    def close(self) -> None:
        """Ends the probes in flight."""
        for watched in self.watched.values():
            if watched.probing is not None:
                watched.probing.cancel()

    async def step(self, backends: Mapping[str, BackendConfig]) -> None:
        """Starts the probes that are due; forgets addresses that are not probed any more."""
        now = perf_counter()
        wanted = {
            (name, place): backend
            for name, backend in backends.items()
            if backend.health is not None
            for place in range(len(backend.addresses))
        }
        kept = set()
        for (name, place), backend in wanted.items():
            address = self.registry.address(backend, place)
            key = (name, address.name)
            kept.add(key)
            watched = self.watched.get(key)
            if watched is None:
                watched = self.watched[key] = Watched(now + self.random() * PROBES_S)
            if now >= watched.due and watched.probing is None:
                watched.probing = asyncio.get_running_loop().create_task(
                    self._probe(name, backend, place, address, watched)
                )
        for key in [key for key in self.watched if key not in kept]:
            self._forget(key)

    def _forget(self, key: tuple[str, str]) -> None:
        """No probe speaks for it any more: so it counts as healthy."""
        watched = self.watched.pop(key)
        if watched.probing is not None:
            watched.probing.cancel()
        health = self.registry.healths.get(key[0])
        if health is not None and watched.verdict is False:
            health.unwatched(key[1])

    async def _probe(
        self, name: str, backend: BackendConfig, place: int, address: Address, watched: Watched
    ) -> None:
        rule = backend.health
        assert rule is not None
        try:
            found = await ask(
                self.registry.probe_address(backend, place), request(backend, place, address), rule
            )
            well = not found
            if watched.count(well, rule):
                reason = found or f"{watched.good} good probes"
                self.registry.healths[name].probed(address, healthy=well, reason=reason, now=perf_counter())
        finally:
            watched.probing = None
            watched.due = perf_counter() + rule.every * (1.0 + JITTER * (2.0 * self.random() - 1.0))


def request(backend: BackendConfig, place: int, address: Address) -> list[bytes]:
    """Head and body of a probe: the path under the backend's base path, with the fields that it always gets."""
    rule = backend.health
    assert rule is not None
    given = {key.lower(): value for key, value in backend.headers.items()}
    fields = {"host": address.authority.decode(), "user-agent": "turnout", "accept": "*/*", **given}
    if rule.grpc is not None:
        fields["content-type"] = "application/grpc"
    lines = "".join(f"{key}: {value}\r\n" for key, value in fields.items())
    if rule.grpc is not None:
        head = f"POST {HEALTH_CHECK} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
        return [head, health_check(rule.grpc)]
    path = rule.path if rule.from_root else backend.addresses[place].path + rule.path
    return [f"{rule.method} {path} HTTP/1.1\r\n{lines}connection: close\r\n\r\n".encode("latin-1")]


async def ask(address: Address, sent: list[bytes], rule: HealthConfig) -> str:
    """Sends one probe; "" if the response is good, else what was wrong. Takes ``rule.timeout`` at most."""
    probe = GrpcProbe(sent) if rule.grpc is not None else ProbeRequest(sent)
    connecting = address.connect(probe)
    try:
        async with asyncio.timeout(rule.timeout):
            status, _, detail, _ = await probe.result
    except TimeoutError:
        return f"no response within {rule.timeout:g} s"
    finally:
        connecting.cancel()
        probe.abandon()
    if detail:
        return detail
    return "" if status in rule.status else f"status {status}"
