"""Background threads stand back for the event loop, and the loop asks for short turns."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from gateway.runtime.threads import NICENESS_STEP, SWITCH_INTERVAL_S, lower_thread_priority, pool
from gateway.state.sqlite import SqliteStore

linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own here")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@linux
def test_every_thread_of_a_pool_has_a_lower_priority_and_the_maker_keeps_its_own() -> None:
    before = niceness()
    with pool(2) as made:
        assert [made.submit(niceness).result() for _ in range(4)] == [min(before + NICENESS_STEP, 19)] * 4
    assert niceness() == before


@linux
async def test_the_stores_writer_stands_back(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    try:
        assert await store._writer.run(lambda _: niceness()) == min(niceness() + NICENESS_STEP, 19)
    finally:
        await store.close()


@linux
def test_in_real_time_it_is_one_below() -> None:
    found: Future[tuple[int, int]] = Future()

    def work() -> None:
        thread = threading.get_native_id()
        try:
            os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(5))
        except PermissionError as error:
            found.set_exception(error)
            return
        lower_thread_priority()
        found.set_result((os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    try:
        assert found.result() == (os.SCHED_RR, 4)
    except PermissionError:
        pytest.skip("needs the right to real-time scheduling")


def test_the_loop_asks_for_short_turns() -> None:
    """In a process of its own, since the setting is the whole interpreter's."""
    script = (
        "import sys; from gateway.runtime.threads import prioritise_event_loop\n"
        "prioritise_event_loop(); print(sys.getswitchinterval())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert float(ended.stdout) == pytest.approx(SWITCH_INTERVAL_S)


@pytest.mark.parametrize(("parent", "lives"), [("os.getppid()", True), ("os.getppid() + 1", False)])
def test_a_side_process_whose_gateway_was_killed_before_it_started_ends(parent: str, lives: bool) -> None:
    """It and its resource tracker, 39 MB together, were left behind for good."""
    program = (
        "import os; from gateway.runtime.side_process import _start_process\n"
        f"_start_process({parent}); print('lives')"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (found.stdout == "lives\n") is lives, found.stderr
