"""What traces cost: switched off, on for no request, for 1 % and for all, with a collector that takes them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import peers, traffic
from benchmarks.bench import Bench, Options
from benchmarks.result import Column, Result
from benchmarks.scenarios.kinds import Maker, measured
from benchmarks.servers import odd

RATE = 1000.0
"""Requests per second: fewer than each can trace all of."""
_PERCENT = {"0": "on, no request", "1": "1 %", "100": "all"}
_MAKERS: dict[str, Maker] = {
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
        collector = str(found[0])
        traced = {p: (word, {"COLLECTOR": collector, "PERCENT": p}) for p, word in _PERCENT.items()}
        kinds = {"off": ("off", None), **traced}
        return measured("traces", options, _MAKERS, kinds, _requests, RATE, (_COLUMNS, _COLUMNS))


def _requests(made: Bench) -> Path:
    file = made.directory / "requests-without-traceparent"  # so that the share decides
    traffic.write_requests(file, map(traffic.untraced, traffic.requests()))
    return file
