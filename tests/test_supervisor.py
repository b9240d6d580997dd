"""The supervisor's worker pool, with real processes and a clock that the test moves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.supervisor import MIN_LIFETIME_S, RESTART_PAUSE_S, WorkerPool


@pytest.fixture(autouse=True)
def metrics_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the pool looks for the gauges of workers that have ended."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))


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


def test_a_worker_that_has_served_is_replaced_immediately() -> None:
    clock = Clock()
    pool = WorkerPool(sys.exit, (1,), 1, clock)
    pool.fill()
    clock.at += MIN_LIFETIME_S
    ended(pool)
    pool.fill()
    assert len(pool.workers) == 1
    ended(pool)
