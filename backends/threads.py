"""Threads and processes that cannot keep this one from ending, and the interruption of a model that hangs."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger("turnout.backend")


class Overrun(BaseException):
    """Raised inside a model that exceeds a time limit; no `except Exception` stops it."""


def end(status: int) -> int:
    """``status``; but the process ends here if the interpreter would wait for what a model has started."""
    main, children = threading.main_thread(), multiprocessing.active_children()
    left = [thread.name for thread in threading.enumerate() if thread is not main and not thread.daemon]
    left += [child.name for child in children if not child.daemon]
    if left:
        log.warning("ending without what a model has started: %s", ", ".join(left))
        for child in children:
            child.kill()
        logging.shutdown()
        os._exit(status)
    return status


def interrupt(thread: threading.Thread) -> None:
    """Raises `Overrun` in ``thread`` if it runs Python code; native code is left to run to its end."""
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Overrun))


async def in_daemon(
    name: str, function: Callable[[], T], discard: Callable[[T], object] = lambda result: None
) -> T:
    """The result of ``function``, run in a daemon thread; whatever it raises is raised here.

    Cancelling the caller interrupts the thread.

    `asyncio.to_thread` waits at exit for its threads, which a model's code may block.

    Args:
        name: Of the thread.
        discard: Called with a result that comes after the caller was cancelled.
    """
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001  raised in the caller
                future.set_exception(error)
            else:
                future.set_result(result)
        except Overrun as late:  # it came behind the end of `function`, to a caller that has gone
            if not future.done():
                future.set_exception(late)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if not future.done():
            interrupt(thread)
        if not future.cancelled():
            future.add_done_callback(lambda done: None if done.exception() else discard(done.result()))
        raise
