"""Several processes behind one port: started, watched, replaced when they die, ended together.

The parent holds the listening sockets and serves nothing, so a worker that dies takes only its own connections
with it: what waits in the sockets' queues is accepted by the others.
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
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Final

from gateway import build, serving
from gateway.config.document import Document
from gateway.config.load import load_file, read_text
from gateway.runtime.data_dir import data_dir, workers_folder
from gateway.telemetry.log import configure

log = logging.getLogger("turnout.supervisor")

BREATH: Final = 1.0
"""Seconds a worker must have lived for its replacement to start at once; a shorter life costs a pause."""
PAUSE: Final = 2.0
PR_SET_PDEATHSIG: Final = 1
WELL: Final = (0, -signal.SIGTERM)
"""How a worker may end when it is told to: a running one drains and exits with 0, one that has not got as far as
handling signals has nothing to drain."""


def supervise(path: Path, workers: int, overrides: Mapping[str, str]) -> int:
    """Runs ``workers`` processes until a signal; 0 when all of them ended well."""
    text = read_text(path)
    document = load_file(path)
    configure(document.telemetry.log)
    log.info("%s", build.described())
    sockets = serving.listening(document)
    log.info("serving %s · %d workers", serving.described(document), workers)
    with _metrics_folder(document, overrides) as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        return _Family(path, workers, sockets, overrides, text).run(document.shutdown.grace)


@contextmanager
def _metrics_folder(document: Document, overrides: Mapping[str, str]) -> Iterator[Path]:
    # Not in a temporary directory: everything but the gateway's own directory may be read-only.
    directory = data_dir(overrides.get("store", document.store), document.record.spool)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(workers_folder(directory))
        except OSError as error:
            raise OSError(
                f"the workers share their metrics in {directory}, and it can't be written: {error}. "
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
    _end_with(parent)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"
    )
    raise SystemExit(
        serving.serve(
            path, sockets=sockets, overrides=overrides, fallback_config=fallback_config, workers=workers
        )
    )


def _end_with(parent: int) -> None:
    """A worker whose parent is killed drains: nobody would replace it, and it would hold the port."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was killed before we had asked
        raise SystemExit(1)


class _Family:
    def __init__(
        self,
        path: Path,
        workers: int,
        sockets: list[socket.socket],
        overrides: Mapping[str, str],
        fallback_config: str,
    ) -> None:
        # Spawned and not forked: each worker draws its own randomness and has its own threads and connections.
        self._context = multiprocessing.get_context("spawn")
        self._arguments = (path, sockets, dict(overrides), fallback_config, workers, os.getpid())
        self._workers = workers
        self._children: list[tuple[BaseProcess, float]] = []
        self._ending = False

    def run(self, grace: float) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        for _ in range(self._workers):
            self._start()
        first = [child for child, _ in self._children]
        while not self._ending:
            time.sleep(0.1)
            self._replace_dead()
            if all(child.exitcode == serving.START_FAILED for child in first):
                self._wait(grace)
                return serving.START_FAILED
        return self._wait(grace)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ending = True

    def _start(self) -> None:
        child = self._context.Process(target=_worker, args=self._arguments)
        child.start()
        self._children.append((child, time.monotonic()))

    def _replace_dead(self) -> None:
        for child, born in tuple(self._children):
            if child.is_alive():
                continue
            self._children.remove((child, born))
            _forget(child.pid)
            log.error("worker %s ended with %s; another takes its place", child.pid, child.exitcode)
            if time.monotonic() - born < BREATH:
                time.sleep(PAUSE)
            if not self._ending:
                self._start()

    def _wait(self, grace: float) -> int:
        for child, _ in self._children:
            child.terminate()
        deadline = time.monotonic() + grace + 5.0
        for child, _ in self._children:
            child.join(max(0.0, deadline - time.monotonic()))
            if child.is_alive():
                child.kill()
                child.join()
            if child.exitcode not in WELL:
                log.error("worker %s did not end well: %s", child.pid, child.exitcode)
        return 0 if all(child.exitcode in WELL for child, _ in self._children) else 1


def _forget(pid: int | None) -> None:
    """The gauges of a worker that is gone count no more."""
    if pid is not None:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid)  # type: ignore[no-untyped-call]
