"""Several processes behind one port.

The parent holds the listening sockets and serves nothing, so a worker that dies takes only its own connections with it:
the others accept those that wait in the sockets' queues.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Final

from gateway import build, serving
from gateway.config.document import Document
from gateway.config.faults import ConfigError
from gateway.config.load import load_file, read_text
from gateway.runtime import process
from gateway.runtime.data_dir import data_dir, workers_folder
from gateway.telemetry.log import configure
from gateway.telemetry.shared_values import share_values

log = logging.getLogger("turnout.supervisor")

MIN_LIFETIME_S: Final = 10.0
"""A worker that ends earlier is replaced after a pause."""
RESTART_PAUSE_S: Final = 2.0
POLL_S: Final = 0.1
EXIT_MARGIN_S: Final = 15.0
"""Workers are killed this long after the grace period of their requests. Their end takes 12 s if the store hangs:
5 each for the record and the lease, 2 for traces."""
MAX_WAIT_S: Final = 86_400.0
"""The operating system waits for 24 days at most, and Python raises OverflowError beyond."""
PR_SET_PDEATHSIG: Final = 1
CLEAN_EXIT_CODES: Final = (0, -signal.SIGTERM)
"""A running worker drains and exits with 0; one that does not handle signals yet has nothing to drain."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Those that the supervisor handles."""


def supervise(path: Path, workers: int, overrides: Mapping[str, str]) -> int:
    """Run ``workers`` processes until a signal; return 0 if all of them ended cleanly.

    Raises ConfigError, OSError.
    """
    text = read_text(path)
    document = load_file(path)
    configure(document.telemetry.log)
    log.info("%s", build.described())
    sockets = serving.listening(document)
    log.info("serving %s · %d workers", serving.described(document), workers)
    with _metrics_folder(document, overrides) as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        process.freeze_collector()  # or it would write to what the workers share
        arguments = (path, sockets, dict(overrides), text, workers, os.getpid())
        pool = WorkerPool(_worker, arguments, workers, sockets=sockets)
        return pool.run(document.shutdown.grace)


@contextmanager
def _metrics_folder(document: Document, overrides: Mapping[str, str]) -> Iterator[Path]:
    # Not in a temporary directory: only the gateway's own directory may be writable.
    directory = data_dir(overrides.get("store", document.store), document.record.spool)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(workers_folder(directory))
        except OSError as error:
            raise OSError(
                f"the workers share their metrics in {directory}, and it is not writable: {error}. "
                "Name a writable directory under 'record.spool', or run one worker."
            ) from error
        yield folder


def _worker(
    path: Path,
    sockets: list[socket.socket],
    overrides: Mapping[str, str],
    fallback_config: str,
    workers: int,
    parent: int,
) -> None:
    _end_with_parent(parent)
    share_values()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"
    )
    try:
        code = serving.serve(
            path, sockets=sockets, overrides=overrides, fallback_config=fallback_config, workers=workers
        )
    except (ConfigError, OSError) as error:  # as `turnout run` of one process: a line, and no trace
        log.error("a worker could not start: %s", error)
        code = serving.START_FAILED
    raise SystemExit(code)


def _begin(target: Callable[..., None], *arguments: Any) -> None:
    """Run ``target`` in a new process, which only the supervisor ends until it handles signals."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    target(*arguments)


def _end_with_parent(parent: int) -> None:
    """Make this worker drain if its parent is killed: it would hold the port, and not be replaced."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # the parent was killed before the call
        raise SystemExit(1)


class WorkerPool:
    """A fixed number of processes; each that ends is replaced."""

    def __init__(
        self,
        target: Callable[..., None],
        arguments: tuple[Any, ...],
        size: int,
        now: Callable[[], float] = time.monotonic,
        *,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        """``sockets``: those of ``arguments`` on which the workers listen; `close` closes them here too."""
        # Forked, a worker need not import anything, which takes a second of computing, and shares the memory of what is
        # imported. The supervisor has one thread, and each worker its own randomness, threads and connections. System
        # libraries of macOS may not outlive a fork.
        if sys.platform == "linux":
            self._context = multiprocessing.get_context("fork")
        else:
            self._context = multiprocessing.get_context("spawn")
        self._target = target
        self._arguments = arguments
        self._sockets = sockets
        self._now = now
        self._size = size
        self._not_before = now()
        """The earliest time of the next start."""
        self.workers: dict[BaseProcess, float] = {}
        """Each process, and when it was started."""
        self.ending = False

    def run(self, grace: float) -> int:
        """Run until a signal; return the exit code. ``grace``: seconds for the requests in flight at the end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, self._reload)
        self.fill()
        first = tuple(self.workers)
        while not self.ending:
            time.sleep(POLL_S)
            if first and all(worker.exitcode == serving.START_FAILED for worker in first):
                self.close(grace)
                return serving.START_FAILED
            self.reap()
            self.fill()
        return self.close(grace)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self.ending and number == signal.SIGINT:
            self._send(number)  # to each worker its second: it skips the grace period
        self.ending = True

    def _reload(self, number: int, frame: FrameType | None) -> None:
        self._send(number)

    def _send(self, number: int) -> None:
        for worker in self.workers:
            if worker.pid is not None and worker.is_alive():
                # One that has just been waited for, and does not know it yet, still seems alive.
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, number)

    def fill(self) -> None:
        """Start the workers that are missing, unless the last one ended so early that a pause is due."""
        while not self.ending and len(self.workers) < self._size and self._now() >= self._not_before:
            worker = self._context.Process(target=_begin, args=(self._target, *self._arguments))
            if sys.platform != "linux":
                resource_tracker.ensure_running()  # it would unblock signals
            # Inherited until it has handlers of its own: Ctrl-C reaches the whole group.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                worker.start()
            except OSError as error:  # too many processes, or too little memory for one more
                self._not_before = self._now() + RESTART_PAUSE_S
                log.error("a worker could not be started: %s; trying again in %g s", error, RESTART_PAUSE_S)
                return
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self.workers[worker] = self._now()

    def reap(self) -> None:
        """Remove the workers that have ended."""
        for worker, started in tuple(self.workers.items()):
            if worker.is_alive():
                continue
            del self.workers[worker]
            _forget(worker.pid)
            early = self._now() - started < MIN_LIFETIME_S
            if early:
                self._not_before = self._now() + RESTART_PAUSE_S
            when = f"in {RESTART_PAUSE_S:g} s" if early else "now"
            log.error(
                "worker %s ended with exit code %s; starting another %s", worker.pid, worker.exitcode, when
            )

    def close(self, grace: float) -> int:
        """End all workers; return 0 if all of them ended cleanly, else 1."""
        for each in self._sockets:  # else the kernel would take connections that no worker serves
            each.close()
        for worker in self.workers:
            worker.terminate()
        deadline = time.monotonic() + grace + EXIT_MARGIN_S
        for worker in self.workers:
            while worker.is_alive() and (left := deadline - time.monotonic()) > 0.0:
                worker.join(min(left, MAX_WAIT_S))
            if worker.is_alive():
                worker.kill()
                worker.join()
            if worker.exitcode not in CLEAN_EXIT_CODES:
                log.error("worker %s did not end cleanly: exit code %s", worker.pid, worker.exitcode)
        return 0 if all(worker.exitcode in CLEAN_EXIT_CODES for worker in self.workers) else 1


def _forget(pid: int | None) -> None:
    """Remove the gauges of a worker that has ended."""
    if pid is not None:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid)  # type: ignore[no-untyped-call]
