"""Background tasks end when the process does, whatever they do with their cancellation."""

from __future__ import annotations

import asyncio

import pytest

from gateway.runtime import tasks
from gateway.runtime.tasks import Tasks


async def test_a_task_that_swallows_its_cancellation_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen with redis-py in a stop right after the start: the loop around the step went on, and the process with it."""
    monkeypatch.setattr(tasks, "RECANCEL_S", 0.01)
    running = Tasks(asyncio.get_running_loop())
    swallowed = 0

    async def connect() -> None:
        nonlocal swallowed
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            swallowed += 1
            if swallowed > 2:
                raise

    async def repeat() -> None:
        while True:
            await connect()

    running.spawn(repeat())
    await asyncio.sleep(0)
    await asyncio.wait_for(running.close(), 60)
    assert swallowed == 3
    assert not running.running


async def test_without_tasks_there_is_nothing_to_wait_for() -> None:
    await Tasks(asyncio.get_running_loop()).close()
