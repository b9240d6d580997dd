"""What a copy to a shadow costs the primary: no shadow, a healthy, a dead, a hanging, a long-winded one."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import peers, traffic
from benchmarks.bench import Options
from benchmarks.children import free_ports
from benchmarks.result import Column, Result
from benchmarks.scenarios.kinds import Maker, measured
from benchmarks.servers import odd

RATE = 200.0
"""Requests per second: with 4 MiB in answer to each copy, that is all that one core beside can send."""
_KINDS = {"another": "healthy", "dead": "dead", "hang": "hanging", "huge": "4 MiB responses"}
_MAKERS: dict[str, Maker] = {
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
        shadows = {kind: (word, {"SHADOW": str(ports[kind])}) for kind, word in _KINDS.items()}
        return measured(
            "shadow",
            options,
            _MAKERS,
            {"none": ("no shadow", None), **shadows},
            lambda made: made.requests(traffic.INFER, traffic.INFER_BODY),
            RATE,
            (_COLUMNS, _LOADED),
        )
