"""Small models run on the event loop, at the end of its turn: no thread is woken, and no lock is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from backends.batching.entry import Entry, Report
from backends.batching.execution import Executable, run_batch
from backends.batching.queue import Queue
from backends.batching.turns import Turns
from backends.errors import ModelFailed
from backends.threads import Overrun

log = logging.getLogger("turnout.backend")

MAX_BATCH_S: Final = 0.005
"""Maximum duration of a full batch, measured at warm-up, of a model that runs on the loop."""
DEMOTION_S: Final = 0.05
"""A batch that computes for longer moves its model to a thread."""
MAX_STRIKES: Final = 3
STRIKE_WINDOW_S: Final = 60.0
"""`MAX_STRIKES` batches in this time that take longer without computing (a model that sleeps, or a machine that is
busy) do as well."""
INTERRUPT_S: Final = 1.0
"""A batch that takes longer is interrupted."""
GUARDED_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGURG)


class LoopInstance:
    """Runs the batches of one version between two turns of the event loop."""

    def __init__(
        self,
        name: str,
        queue: Queue,
        executable: Executable,
        deliver: Callable[[Report], None],
        demote: Callable[[], None],
    ) -> None:
        self._name = name
        self._queue = queue
        self._executable = executable
        self._deliver = deliver
        self._demote = demote
        self._turns = Turns(queue, self._turn)
        self._strikes: deque[float] = deque(maxlen=MAX_STRIKES)
        """When batches took too long without computing."""
        self._ended = False
        executable.enter()

    def wake(self) -> None:
        """The queue has a new entry."""
        self._turns.wake()

    def end(self) -> None:
        """Runs what waits, and releases the model."""
        while len(self._queue) and not self._ended:
            self._turn()
        if not self._ended:  # else a thread has the model, and runs what still waits
            self.detach().close()

    def detach(self) -> Executable:
        """Gives the model up, with the queue as it is."""
        self._ended = True
        self._turns.cancel()
        return self._executable

    def _turn(self) -> None:
        if self._ended:
            return
        batch = self._queue.take_now()
        if not batch:
            return
        start, computed = time.perf_counter(), time.thread_time()
        report = self._run(batch)
        now, computed = time.perf_counter(), time.thread_time() - computed
        self._deliver(report)
        if now - start > DEMOTION_S and self._is_slow(now, now - start, computed):
            log.warning("%s took too long on the event loop; it moves to a thread", self._name)
            self._demote()
        elif len(self._queue):
            self.wake()

    def _is_slow(self, now: float, took: float, computed: float) -> bool:
        """Whether a batch over `DEMOTION_S` was the model's doing rather than a slow moment of the machine."""
        self._strikes.append(now)
        repeated = len(self._strikes) == MAX_STRIKES and now - self._strikes[0] < STRIKE_WINDOW_S
        return repeated or computed > DEMOTION_S or took > INTERRUPT_S

    def _run(self, batch: list[Entry]) -> Report:
        try:
            GUARD.started = time.perf_counter()
            return run_batch(self._name, self._executable, batch)
        except Overrun:  # it came between two steps of ours rather than inside the model
            fault = ModelFailed(f"{self._name} exceeded the time limit of a batch")
            return Report(time.perf_counter_ns(), failed=[(entry, fault) for entry in batch])
        finally:
            GUARD.started = 0.0


class Guard:
    """Interrupts a batch that holds the event loop.

    A thread watches the clock and signals the main thread; the handler raises `Overrun` there, in the
    model's code, and only while a batch runs. It also restores handlers that a model has replaced.
    """

    def __init__(self) -> None:
        self.started = 0.0
        """When the running batch began, by `time.perf_counter`; 0.0: none runs."""
        self._thread: threading.Thread | None = None
        self._handlers: dict[int, Any] = {}

    def watch(self) -> bool:
        """Starts watching; False outside the main thread, where signals can't be handled."""
        if self._thread is not None:
            return True
        if threading.current_thread() is not threading.main_thread():
            return False
        signal.signal(signal.SIGURG, self._interrupt)
        self._handlers = {number: signal.getsignal(number) for number in GUARDED_SIGNALS}
        self._thread = threading.Thread(
            target=self._watch,
            args=(threading.get_ident(), asyncio.get_running_loop()),
            name="loop guard",
            daemon=True,
        )
        self._thread.start()
        return True

    def _watch(self, main: int, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            time.sleep(INTERRUPT_S / 4)
            if any(signal.getsignal(number) != handler for number, handler in self._handlers.items()):
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._restore)
            started = self.started
            if started and time.perf_counter() - started > INTERRUPT_S:
                signal.pthread_kill(main, signal.SIGURG)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) != handler and handler is not None:
                log.warning(
                    "a model has replaced the handler of %s; it is restored", signal.Signals(number).name
                )
                signal.signal(number, handler)
                signal.siginterrupt(number, False)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.started and time.perf_counter() - self.started > INTERRUPT_S:
            self.started = 0.0  # once: the handler may run again while the batch unwinds
            raise Overrun


GUARD: Final = Guard()
