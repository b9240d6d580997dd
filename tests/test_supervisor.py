"""The supervisor's worker pool, with real processes and a clock that the test moves."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from gateway import serving
from gateway.config.load import load_file
from gateway.ingest.recorder import Recorder
from gateway.state.redis import link
from gateway.supervisor import EXIT_MARGIN_S, MIN_LIFETIME_S, RESTART_PAUSE_S, WorkerPool, _worker
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.shared_values import share_values
from gateway.telemetry.tracing.exporter import Exporter


@pytest.fixture(autouse=True)
def metrics_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the pool looks for the gauges of workers that have ended."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))


@pytest.fixture
def signals() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def ended(pool: WorkerPool) -> None:
    for worker in pool.workers:
        worker.join(30)
        assert worker.exitcode == 1
    pool.reap()
    assert not pool.workers


def test_a_worker_that_ends_early_is_replaced_after_a_pause() -> None:
    clock = Clock()
    pool = WorkerPool(sys.exit, (1,), 2, clock)
    pool.fill()
    assert len(pool.workers) == 2
    clock.at += MIN_LIFETIME_S / 2  # a crash while it loads
    ended(pool)
    pool.fill()
    assert not pool.workers
    clock.at += RESTART_PAUSE_S
    pool.fill()
    assert len(pool.workers) == 2
    ended(pool)


def see_a_dead_backend() -> None:
    share_values()
    metrics = Metrics()
    for number in range(100):
        metrics.requests.labels(f"r{number}", "v1", "2xx").inc()
    metrics.show(metrics.healthy, {("b", "http://127.0.0.1:9"): False})
    metrics.show(metrics.failing, {("b", "http://127.0.0.1:9"): True})
    sys.exit(1)


def test_what_a_worker_saw_of_backends_ends_with_it(tmp_path: Path) -> None:
    """A backend was down for good in the metrics if a worker crashed while it was."""
    pool = WorkerPool(see_a_dead_backend, (), 1)
    pool.fill()
    ended(pool)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    left = {metric.name: len(metric.samples) for metric in registry.collect()}
    assert (left["turnout_build_info"], left["turnout_requests"]) == (1, 100)
    assert not {name for name in left if name.startswith("turnout_backend_")}
    files = [file.stat() for file in tmp_path.glob("*.db")]
    assert all(file.st_blocks * 512 >= file.st_size for file in files), (
        "or a full disk ends the worker: SIGBUS"
    )


def test_a_worker_has_the_time_that_its_end_takes_while_the_store_hangs() -> None:
    """It was killed before, and the gateway's exit code was 1."""
    record, traces = (signature(each.close).parameters["timeout"].default for each in (Recorder, Exporter))
    assert record + link._TIMEOUT_S + traces < EXIT_MARGIN_S


def test_a_worker_that_has_served_is_replaced_immediately() -> None:
    clock = Clock()
    pool = WorkerPool(sys.exit, (1,), 1, clock)
    pool.fill()
    clock.at += MIN_LIFETIME_S
    ended(pool)
    pool.fill()
    assert len(pool.workers) == 1
    ended(pool)


@pytest.mark.usefixtures("signals")
def test_a_signal_during_the_start_starts_no_further_workers() -> None:
    def now() -> float:
        if pool.workers:
            os.kill(os.getpid(), signal.SIGTERM)
        return 100.0

    pool = WorkerPool(time.sleep, (600.0,), 8, lambda: 100.0)
    pool._now = now
    assert pool.run(5.0) == 0
    assert len(pool.workers) == 2  # the second was about to start


@pytest.mark.usefixtures("signals")
def test_an_interrupt_of_the_whole_group_does_not_reach_a_worker_that_loads() -> None:
    pool = WorkerPool(time.sleep, (600.0,), 2)
    pool.fill()
    for worker in pool.workers:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
    assert pool.close(5.0) == 0


def test_a_worker_that_the_machine_has_no_room_for_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    pool = WorkerPool(sys.exit, (1,), 1, clock)
    pool.fill()  # the resource tracker runs from here on
    ended(pool)
    clock.at += RESTART_PAUSE_S
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest := os.dup(0))  # the lowest free one: tests before this may have left gaps
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        pool.fill()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not pool.workers
    assert "a worker could not be started" in caplog.text
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    pool.fill()
    assert not pool.workers, "after a pause"
    clock.at += RESTART_PAUSE_S
    pool.fill()
    assert len(pool.workers) == 1
    ended(pool)


def test_a_worker_without_room_for_its_metrics_says_so_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "turnout.yaml"
    path.write_text(f"listen: 127.0.0.1:0\nstore: sqlite:///{tmp_path}/turnout.db\n")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "absent"))
    pool = WorkerPool(_worker, (path, [], {}, path.read_text(), 1, os.getpid()), 1)
    pool.fill()
    (worker,) = pool.workers
    worker.join(60)
    assert worker.exitcode == serving.START_FAILED
    logged = capfd.readouterr().err
    assert "a worker could not start: [Errno 2] No such file or directory" in logged
    assert "Traceback" not in logged


@pytest.mark.long
def test_a_worker_that_is_spawned_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS: it is handed the listening sockets, and imports everything itself."""
    path = tmp_path / "turnout.yaml"
    path.write_text(f"listen: 127.0.0.1:0\nstore: sqlite:///{tmp_path}/turnout.db\n")
    sockets = serving.listening(load_file(path))
    monkeypatch.setattr(sys, "platform", "darwin")
    pool = WorkerPool(_worker, (path, sockets, {}, path.read_text(), 1, os.getpid()), 1, sockets=sockets)
    assert pool._context.get_start_method() == "spawn"
    pool.fill()
    host, port = sockets[0].getsockname()
    try:
        assert httpx.get(f"http://{host}:{port}/-/healthz").status_code == 200
    finally:
        code = pool.close(30.0)
    assert (code, [worker.exitcode for worker in pool.workers]) == (0, [0])


def test_a_signal_while_a_worker_is_waited_for_ends_nothing() -> None:
    pool = WorkerPool(sys.exit, (1,), 1)
    pool.fill()
    (worker,) = pool.workers
    assert worker.pid is not None
    os.waitpid(worker.pid, 0)  # as far as `reap` may have come
    pool._reload(signal.SIGHUP, None)


def test_a_grace_period_of_a_month_is_waited_for() -> None:
    pool = WorkerPool(time.sleep, (0.2,), 1)
    pool.fill()
    assert pool.close(30 * 86_400.0) == 0
