"""What a copy to a shadow costs the primary: no shadow, a healthy, a dead, a hanging, a long-winded one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import peers, traffic
from benchmarks.bench import Bench, Options, bench
from benchmarks.children import free_ports
from benchmarks.peers import Peer
from benchmarks.result import Column, Result, Section
from benchmarks.rounds import Sample, interleave
from benchmarks.servers import odd

RATE = 200.0
"""Requests per second: with 4 MiB in answer to each copy, that is all that one core beside can send."""
CONNECTIONS = 32

_KINDS = {
    "none": "no shadow",
    "another": "healthy",
    "dead": "dead",
    "hang": "hanging",
    "huge": "4 MiB responses",
}
_MAKERS: dict[str, tuple[str, Callable[..., Peer], str, str]] = {
    "nginx": ("nginx", peers.nginx, "nginx.conf", "nginx_shadow.conf"),
    "envoy": ("Envoy", peers.envoy, "envoy.yaml", "envoy_shadow.yaml"),
    "turnout": ("**Turnout**", peers.turnout, "turnout.yaml", "turnout_shadow.yaml"),
}

_COLUMNS = (
    Column("requests/s", "rate", 1, 0),
    Column("p50 ms", "p50_us", 1e-3, 2),
    Column("p99 ms", "p99_us", 1e-3, 2, spread=True),
    Column("CPU µs/request", "cpu_us", 1, 1, spread=True),
)
_LOADED = (Column("requests/s", "rate", 1, 0, spread=True), _COLUMNS[1], _COLUMNS[3])


def run(options: Options) -> Result:
    """Those of the peers that can mirror, with every kind of shadow; fixed rate, then closed loop."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="turnout-bench-")))
        ports = {"dead": free_ports(1)[0]}
        for kind in ("another", "hang", "huge"):
            child, found = odd.start(directory, options.cores.backend, kind, options.priority)
            stack.enter_context(child)
            ports[kind] = found[0]
        all_of_them = _peers([name for name in options.peers if name in _MAKERS], ports)
        ours = replace(options, peers=tuple(all_of_them))
        made = stack.enter_context(bench(ours, peers=all_of_them))
        labels = {name: peer.label for name, peer in all_of_them.items()}
        return Result("shadow", options, _sections(made, labels), made.missing)


def _peers(names: list[str], ports: dict[str, int]) -> dict[str, Peer]:
    made = {}
    for name in names:
        label, make, without, beside = _MAKERS[name]
        for kind, word in _KINDS.items():
            template = without if kind == "none" else beside
            extra = {} if kind == "none" else {"SHADOW": str(ports[kind])}
            made[f"{name}-{kind}"] = make(f"{name}-{kind}", f"{label}, {word}", template, extra)
    return made


def _sections(made: Bench, labels: dict[str, str]) -> list[Section]:
    requests = made.requests(traffic.INFER, traffic.INFER_BODY)
    rounds = made.options.rounds

    def fixed(name: str) -> Sample:
        return made.fixed(made.running[name], requests, RATE)

    def closed(name: str) -> Sample:
        return made.closed(name, requests, CONNECTIONS)

    return [
        Section(
            f"{RATE:g} requests a second",
            _COLUMNS,
            interleave(made.names, rounds, fixed, title="fixed rate", before=made.only),
            labels=labels,
        ),
        Section(
            f"Closed loop, concurrency {CONNECTIONS}",
            _LOADED,
            interleave(made.names, rounds, closed, title="closed loop", before=made.only),
            labels=labels,
        ),
    ]
