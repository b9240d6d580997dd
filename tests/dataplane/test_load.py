"""How busy a thread is, by the kernel's own account."""

from __future__ import annotations

import time

from gateway.runtime.loop_load import Load


def measured(load: Load, seconds: float, *, computing: bool) -> float:
    begun = time.perf_counter()
    load.measure(begun)
    if computing:
        while time.perf_counter() - begun < seconds:
            pass
    else:
        time.sleep(seconds)
    load.measure(time.perf_counter())
    return load.busy


ATTEMPTS = 20
"""A busy kernel may take the core between the reading of the clock and that of its account, so one of them counts."""


def test_a_thread_that_always_computes_is_busy_whoever_else_wants_the_core() -> None:
    assert any(0.9 < measured(Load(), 0.3, computing=True) < 1.1 for _ in range(ATTEMPTS))


def test_a_thread_that_sleeps_is_not() -> None:
    assert any(measured(Load(), 0.3, computing=False) < 0.5 for _ in range(ATTEMPTS))


def test_without_the_kernels_account_the_time_spent_computing_counts() -> None:
    load = Load()
    load.measure(0.0)
    assert load._file is not None
    load._file = load._file.with_name("no-such-file")
    load._since = 0.0
    assert measured(load, 0.3, computing=False) < 0.5
