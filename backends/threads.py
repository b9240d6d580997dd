"""Work in a thread that cannot keep the process from ending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def in_daemon(name: str, function: Callable[[], T]) -> T:
    """The result of ``function``, run in a daemon thread; whatever it raises is raised here.

    `asyncio.to_thread` waits at exit for its threads, which a model's code may block.
    """
    future: Future[T] = Future()

    def run() -> None:
        future.set_running_or_notify_cancel()
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  raised in the caller
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(future)
