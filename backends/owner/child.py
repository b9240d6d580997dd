"""A device process: `python -m backends.owner.child FD`. It runs models for the server that started it.

``FD`` is a Unix socket over which each model's channel and shared memory arrive; its end is the end of the process.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Final

from backends import memory
from backends.batching.entry import Spans
from backends.batching.execution import attempt
from backends.errors import LoadError, ServerError
from backends.forks import FORKS
from backends.owner.layout import Layout, SlotMemory
from backends.owner.messages import Batch, Load, Ready, Result
from backends.owner.runner import Outputs, Runner

log = logging.getLogger("turnout.backend")

POISONED: Final = 70
"""Exit code after an error that makes the device unusable for this process."""
END_LIMIT_S: Final = 10.0
"""For models to finish their batches once the server has closed everything."""

Finish = Callable[[], Outputs]


class Worker:
    """One model: a thread starts the batches that arrive, another one finishes them in the same order."""

    def __init__(self, connection: Connection, runner: Runner, name: str) -> None:
        self._connection = connection
        self._runner = runner
        self._name = name
        self._started: SimpleQueue[tuple[Batch, Spans, Finish] | None] = SimpleQueue()

    def run(self) -> None:
        """Serves until the server closes the channel."""
        finisher = threading.Thread(target=self._finish_all, name=f"{self._name} finish")
        finisher.start()
        try:
            while True:
                batch: Batch = self._connection.recv()
                spans = Spans()
                self._started.put((batch, spans, self._begin(batch, spans)))
        except (EOFError, OSError):
            self._started.put(None)
        finisher.join()
        self._runner.close()

    def _begin(self, batch: Batch, spans: Spans) -> Finish:
        try:
            return self._runner.begin(batch, spans)
        except BaseException as error:  # noqa: BLE001  reported where the batch ends
            return partial(_raise, error)

    def _finish_all(self) -> None:
        self._runner.enter()
        while (started := self._started.get()) is not None:
            batch, spans, finish = started
            # Or the tensors of this batch stay while the next one is waited for.
            del started
            outcome = attempt(self._name, finish, self._runner.out_of_memory, batch.requests, batch.rows)
            del finish
            if isinstance(outcome, ServerError) and self._runner.poisoned():
                log.critical("%s made the device unusable for its process, which ends", self._name)
                logging.shutdown()
                os._exit(POISONED)
            try:
                self._connection.send(_result(batch, spans, outcome))
            except OSError:  # the server has gone
                return


def _result(batch: Batch, spans: Spans, outcome: Outputs | ServerError) -> Result:
    if isinstance(outcome, ServerError):
        return Result(batch.slot, spans, outcome.with_traceback(None))
    return Result(batch.slot, spans, inline=outcome)


def _raise(error: BaseException) -> Any:
    raise error


def serve(channel: int, file: int) -> None:
    """Loads one model and serves it."""
    with Connection(channel) as connection:
        try:
            load: Load = connection.recv()
            slots = SlotMemory(Layout.of(load.config), file)
        except (EOFError, OSError):
            return
        finally:
            os.close(file)
        try:
            runner = _runner(load, slots)
        except LoadError as error:
            connection.send(Ready(str(error)))
            return
        except BaseException as error:  # noqa: BLE001  a model's code may raise anything
            connection.send(Ready(f"{load.found.folder}: {type(error).__name__}: {error}"))
            return
        connection.send(Ready(buckets=runner.buckets))
        memory.settle(gone=False)
        Worker(connection, runner, f"{load.config.name} version {load.found.number}").run()
    del runner, slots
    memory.settle(gone=True)


def _runner(load: Load, slots: SlotMemory) -> Runner:
    from backends.runtime.load import runner  # PyTorch takes seconds to import

    try:
        return runner(load, slots)
    finally:
        FORKS.end_child()


def main() -> None:
    """Serves the channels that arrive, until the server closes the control socket."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the server says when to end
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    FORKS.serve()
    control = socket.socket(fileno=int(sys.argv[1]))
    workers = []
    while True:
        data, files, *_ = socket.recv_fds(control, 1, 2)
        if not data:
            break
        worker = threading.Thread(target=serve, args=tuple(files), name="model", daemon=True)
        worker.start()
        workers.append(worker)
    for worker in workers:
        worker.join(END_LIMIT_S)
    logging.shutdown()
    # Not the interpreter's own end, which can't be trusted with a thread inside a model.
    os._exit(0)


if __name__ == "__main__":
    main()
