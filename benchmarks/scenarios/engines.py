"""What units, decision ids and rows add to the bare routing of a proxy that is an engine, and what its rows cost."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks import traffic
from benchmarks.bench import Bench, Options, answers, bench
from benchmarks.children import Child, StartError, free_ports
from benchmarks.peers import BIN, Peer, Place, Running, render
from benchmarks.result import Column, Result, Section
from benchmarks.rounds import Sample, progress
from benchmarks.usage import usage

CONNECTIONS: Final = 32
SETTLE_S: Final = 2.5
"""Seconds after a round until all of its rows are in the record: nodes send them at least once a second."""
BASELINE_S: Final = 4.0
START_S: Final = 60.0
_CLI: Final = (sys.executable, "-m", "gateway.cli")

_COLUMNS: Final = (
    Column("requests/s", "rate", 1, 0, spread=True),
    Column("p99 ms", "p99_us", 1e-3, 2),
    Column("CPU µs/request", "cpu_us", 1, 1, spread=True),
    Column("the agent's", "agent_us", 1, 1, spread=True),
    Column("the gateway's", "gateway_us", 1, 1, spread=True),
)
_LABELS: Final = {
    "envoy-engine": "Envoy: units, ids, rows",
    "envoy-sealed-engine": "Envoy: the same, ids sealed",
    "haproxy-engine": "HAProxy: units, ids, rows",
    "haproxy-sealed-engine": "HAProxy: the same, ids sealed",
}


@dataclass(slots=True)
class Receiver:
    """A process that gets the rows. ``idle``: µs of CPU that it uses in a second without any."""

    child: Child
    idle: float = 0.0
    _cpu: float = field(default=0.0, init=False)
    _since: float = field(default=0.0, init=False)

    def start(self) -> None:
        self._cpu, self._since = usage(self.child.session).cpu_us, time.monotonic()

    def read(self) -> float:
        """µs of CPU since `start` that are due to rows."""
        used = usage(self.child.session).cpu_us - self._cpu
        return used - self.idle * (time.monotonic() - self._since)


class Fleet:
    """A gateway, and a node of each engine in front of the backends of ``made``."""

    def __init__(self, made: Bench, folder: Path, stack: ExitStack) -> None:
        self._made, self._folder, self._stack = made, folder, stack
        port, *self._ports = free_ports(5)
        options = made.options
        place = Place(folder, options.cores.backend, made.backends, options.priority)
        self._config = render("turnout_engines.yaml", place, port, {})
        self.gateway = Receiver(self._child("gateway", [*_CLI, "run", "--config", self._config]))
        self.gateway.child.wait_listening(port)
        self._url = f"http://127.0.0.1:{port}"
        self.agents: dict[str, Receiver] = {}

    def _child(self, name: str, command: Sequence[str], *, proxy: bool = False) -> Child:
        options = self._made.options
        cores = options.cores.proxy if proxy else options.cores.backend
        log = self._folder / f"{name}.log"
        return self._stack.enter_context(
            Child(name, command, cores=cores, log=log, priority=options.priority)
        )

    def _bootstrap(self, engine: str, port: int, *options: str) -> Path:
        words = [*_CLI, "engine", "bootstrap", engine, "--config", self._config, "--node", "node"]
        words += ["--listen", f"127.0.0.1:{port}", "--url", self._url, *options]
        path = self._folder / f"{engine}.conf"
        path.write_text(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        return path

    def envoy(self, engine: str = "envoy") -> None:
        port, name = self._ports.pop(), f"{engine}-engine"
        path = self._bootstrap(engine, port)
        config = path.rename(path.with_suffix(".json"))
        words = [str(BIN / "envoy"), "-c", str(config), "--concurrency", "1", "--disable-hot-restart"]
        self._serve(name, port, self._child(name, [*words, "-l", "error"], proxy=True))

    def haproxy(self, engine: str = "haproxy") -> None:
        port, files = self._ports.pop(), self._folder / engine
        path = self._bootstrap(engine, port, "--files", str(files))
        agent = self._child(f"{engine}-agent", [*_CLI, "engine", "agent", str(path)])
        until = time.monotonic() + START_S
        while not (files / "routes.cfg").exists():
            if time.monotonic() > until:
                raise StartError(f"the agent wrote no files:\n{agent.tail()}")
            time.sleep(0.1)
        words = ["haproxy", "-W", "-S", str(files / "master.sock"), "-f", str(path)]
        name = f"{engine}-engine"
        child = self._child(name, [*words, "-f", str(files / "routes.cfg")], proxy=True)
        self._serve(name, port, child)
        self.agents[name] = Receiver(agent)

    def _serve(self, name: str, port: int, child: Child) -> None:
        """Wait until the node has its routes, and count it among the running peers."""
        until = time.monotonic() + START_S
        while not answers(port, traffic.INFER, traffic.INFER_BODY, traffic.INFER_ANSWER):
            if time.monotonic() > until:
                raise StartError(f"{name} serves no route:\n{child.tail()}")
            time.sleep(0.2)
        self._made.running[name] = Running(Peer(name, _LABELS[name], None, lambda: ""), port, child)

    def rest(self) -> None:
        """Measure what the gateway and the agents use without rows."""
        time.sleep(SETTLE_S)
        receivers = [self.gateway, *self.agents.values()]
        for receiver in receivers:
            receiver.start()
        time.sleep(BASELINE_S)
        for receiver in receivers:
            receiver.idle = receiver.read() / BASELINE_S


def run(options: Options) -> Result:
    """nginx, Envoy and HAProxy that route, and the latter two as engines; closed loop, round by round."""
    bare = tuple(name for name in ("nginx", "envoy", "haproxy") if name in options.peers)
    with ExitStack() as stack:
        made = stack.enter_context(bench(replace(options, peers=bare)))
        # The path of a socket has at most 107 bytes.
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="turnout-")))
        fleet = Fleet(made, folder, stack)
        starts: dict[str, list[Callable[[], None]]] = {
            "envoy": [fleet.envoy, partial(fleet.envoy, "envoy-sealed")],
            "haproxy": [fleet.haproxy, partial(fleet.haproxy, "haproxy-sealed")],
        }
        for name in [*made.running]:
            for start in starts.get(name, []):
                progress(f"starting {name} as an engine")
                try:
                    start()
                except (StartError, OSError, subprocess.CalledProcessError) as error:
                    made.missing[f"{name}-engine"] = str(error)
        fleet.rest()
        requests = made.requests(traffic.INFER, traffic.INFER_BODY)

        def measure(name: str) -> Sample:
            if name not in _LABELS:
                return made.closed(name, requests, CONNECTIONS)
            receivers = {"gateway_us": fleet.gateway}
            if name in fleet.agents:
                receivers["agent_us"] = fleet.agents[name]
            for receiver in receivers.values():
                receiver.start()
            sample = made.closed(name, requests, CONNECTIONS)
            time.sleep(SETTLE_S)
            number = sample["rate"] * options.seconds
            return sample | {title: one.read() / number for title, one in receivers.items()}

        series = made.series(measure, "engines")
        title = f"Closed loop, concurrency {CONNECTIONS}"
        section = Section(title, _COLUMNS, series, ratio="cpu_us", labels=_LABELS)
        return Result("engines", replace(options, peers=bare), [section], made.missing)
