"""What every scenario shares: the options, a scratch directory, a backend, and the peers in front of it."""

from __future__ import annotations

import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks import machine, traffic
from benchmarks.children import StartError
from benchmarks.load.fixed import open_loop
from benchmarks.load.wrk import closed_loop
from benchmarks.peers import PEERS, Peer, Place, Running, start
from benchmarks.rounds import Sample, Series, interleave, progress
from benchmarks.servers import odd, plain
from benchmarks.usage import core_busy_us, usage


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line can say. ``seconds`` is the loaded window of one round."""

    peers: tuple[str, ...]
    rounds: int = 5
    seconds: float = 2
    concurrency: tuple[int, ...] = (1, 32, 256)
    priority: str = "0"
    pause: float = 0.3
    """Seconds between two rounds."""
    cores: machine.Cores = field(default_factory=machine.cores)


@dataclass(slots=True)
class Bench:
    """A running backend and running peers by name. ``missing`` says which peers could not start, and why."""

    options: Options
    directory: Path
    backends: tuple[int, int]
    running: dict[str, Running] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(self.running)

    def only(self, name: str) -> None:
        """Lets ``name`` alone run, so that it need not share its core with idle peers; then waits a while."""
        for other, running in self.running.items():
            if running.child is not None and other != name:
                running.child.freeze()
        child = self.running[name].child
        if child is not None:
            child.thaw()
        time.sleep(self.options.pause)

    def series(
        self, measure: Callable[[str], Sample], title: str, names: Sequence[str] | None = None
    ) -> dict[str, Series]:
        """All rounds of ``names`` (default: every peer), each measured while the others rest."""
        names = self.names if names is None else names
        return interleave(names, self.options.rounds, measure, title=title, before=self.only)

    def requests(self, path: str, body: bytes) -> Path:
        """A file of requests to ``path`` for wrk."""
        target = self.directory / f"requests-{len(list(self.directory.glob('requests-*')))}"
        traffic.write_requests(target, traffic.requests(path, body))
        return target

    def closed(self, name: str, requests: Path, connections: int, units: float = 1.0) -> Sample:
        """A round of a closed loop; ``cpu_us`` is per 1 / ``units`` of a request."""
        options, running = self.options, self.running[name]
        meter = Meter(running, options.cores.proxy)
        seen = closed_loop(
            running.port,
            requests,
            connections=connections,
            seconds=options.seconds,
            cores=options.cores.load,
            priority=options.priority,
        )
        figures = {"rate": seen.rate, "p50_us": seen.p50_us, "p99_us": seen.p99_us, "errors": seen.errors}
        figures["errors"] += not seen.requests  # wrk does not count those it still waits for
        return {**figures, **meter.read(seen.requests * units)}

    def fixed(self, running: Running, requests: Path, rate: float) -> Sample:
        """A round of an open loop at ``rate`` requests per second."""
        options = self.options
        meter = Meter(running, options.cores.proxy)
        seen = open_loop(
            running.port,
            requests,
            rate=rate,
            seconds=options.seconds,
            cores=options.cores.load,
            priority=options.priority,
        )
        figures = {name: value for name, value in asdict(seen).items() if name != "duration_us"}
        return {**figures, "rate": rate, **meter.read(seen.requests)}


def _infer_answer(answer: bytes) -> bool:
    return answer.decode() == traffic.INFER_ANSWER


@contextmanager
def bench(
    options: Options,
    *,
    peers: Mapping[str, Peer] = PEERS,
    cores: Sequence[int] | None = None,
    workers: int = 1,
    server: Literal["plain", "odd"] = "plain",
    check: tuple[str, bytes] = (traffic.INFER, traffic.INFER_BODY),
    same: Callable[[bytes], bool] = _infer_answer,
) -> Iterator[Bench]:
    """Starts the backend and each peer of ``options``, and asks each once for the path and body of ``check``.

    A peer that does not start, or whose answer is not the ``same``, is left out and named in ``missing``.
    """
    machine.raise_open_files()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnout-bench-")))
        launch = plain.start if server == "plain" else odd.start
        backend, ports = launch(directory, options.cores.backend, priority=options.priority)
        stack.enter_context(backend)
        made = Bench(options, directory, ports)
        place = Place(directory, cores or options.cores.proxy, ports, options.priority, workers)
        for name in options.peers:
            progress(f"starting {name}")
            try:
                running = stack.enter_context(start(peers[name], place))
                expect(running.port, *check, same)
            except (StartError, OSError, RuntimeError) as error:
                made.missing[name] = str(error)
            else:
                made.running[name] = running
        yield made


def expect(port: int, path: str, body: bytes, same: Callable[[bytes], bool], limit: float = 15.0) -> None:
    """Asks once; raises RuntimeError unless the answer is 200 and the ``same`` within ``limit`` seconds."""
    until = time.monotonic() + limit
    while True:
        status, got = _ask(port, path, body)
        if status == 200 and same(got):
            return
        if time.monotonic() > until or status not in (0, 502, 503):
            raise RuntimeError(f"the answer is not the backend's: {status} {got[:300]!r}")
        time.sleep(0.2)


def answers(port: int, path: str, body: bytes, wanted: str) -> bool:
    """Whether it answers with 200 and ``wanted``."""
    return _ask(port, path, body) == (200, wanted.encode())


def _ask(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    fields = {
        "content-type": "application/json",
        "x-user-id": "user-0",
        "authorization": f"Bearer {traffic.KEY}",
    }
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, headers=fields)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(asked, timeout=10) as got:
            return int(got.status), bytes(got.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except urllib.error.URLError as error:
        return 0, str(error.reason).encode()


@dataclass(slots=True)
class Meter:
    """CPU of a peer over a window: made when the window opens, read once when it closes."""

    running: Running
    cores: Sequence[int]
    _cpu: float = 0.0
    _busy: float = 0.0
    _start: float = 0.0

    def __post_init__(self) -> None:
        self._cpu, self._busy, self._start = self._now()

    def _now(self) -> tuple[float, float, float]:
        child = self.running.child
        cpu = usage(child.session).cpu_us if child else 0.0
        return cpu, sum(core_busy_us(core) for core in self.cores), time.monotonic()

    def read(self, units: float) -> dict[str, float]:
        """``cpu_us`` per unit of work; ``share`` of its cores that it used, ``others`` that others did."""
        cpu, busy, now = self._now()
        window = (now - self._start) * 1e6 * len(self.cores)
        mine, all_of_it = cpu - self._cpu, busy - self._busy
        return {
            "cpu_us": mine / units if units else float("nan"),
            "share": mine / window,
            "others": max(0.0, all_of_it - mine) / window,
        }


def rss(running: Running) -> int:
    """Resident bytes of the peer's processes; 0 where there is no peer."""
    return usage(running.child.session).rss if running.child else 0
