"""What traces cost: switched off, on for no request, for 1 % and for all, with a collector that takes them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import peers, traffic
from benchmarks.bench import Bench, Options, bench
from benchmarks.peers import Peer
from benchmarks.result import Column, Result, Section
from benchmarks.rounds import Sample, interleave
from benchmarks.servers import odd

RATE = 1000.0
"""Requests per second: fewer than each can trace all of."""
CONNECTIONS = 32

_PERCENT = {"off": "off", "0": "on, no request", "1": "1 %", "100": "all"}
_MAKERS: dict[str, tuple[str, Callable[..., Peer], str, str]] = {
    "envoy": ("Envoy", peers.envoy, "envoy.yaml", "envoy_traces.yaml"),
    "turnout": ("**Turnout**", peers.turnout, "turnout.yaml", "turnout_traces.yaml"),
}

_COLUMNS = (
    Column("requests/s", "rate", 1, 0, spread=True),
    Column("p50 ms", "p50_us", 1e-3, 2),
    Column("p99 ms", "p99_us", 1e-3, 2, spread=True),
    Column("CPU µs/request", "cpu_us", 1, 1, spread=True),
)


def run(options: Options) -> Result:
    """Those of the peers that can trace: a fixed rate, then a closed loop, which leaves spans behind.

    Their CPU includes the sending of spans.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="turnout-bench-")))
        child, found = odd.start(directory, options.cores.backend, "plain", options.priority)
        stack.enter_context(child)
        all_of_them = _peers([name for name in options.peers if name in _MAKERS], str(found[0]))
        ours = replace(options, peers=tuple(all_of_them))
        made = stack.enter_context(bench(ours, peers=all_of_them))
        labels = {name: peer.label for name, peer in all_of_them.items()}
        return Result("traces", options, _sections(made, labels), made.missing)


def _peers(names: list[str], collector: str) -> dict[str, Peer]:
    made = {}
    for name in names:
        label, make, without, beside = _MAKERS[name]
        for percent, word in _PERCENT.items():
            template = without if percent == "off" else beside
            extra = {} if percent == "off" else {"COLLECTOR": collector, "PERCENT": percent}
            made[f"{name}-{percent}"] = make(f"{name}-{percent}", f"{label}, {word}", template, extra)
    return made


def _sections(made: Bench, labels: dict[str, str]) -> list[Section]:
    requests = made.directory / "requests-without-traceparent"  # so that the share decides
    traffic.write_requests(requests, map(traffic.untraced, traffic.requests()))
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
            _COLUMNS,
            interleave(made.names, rounds, closed, title="closed loop", before=made.only),
            labels=labels,
        ),
    ]
