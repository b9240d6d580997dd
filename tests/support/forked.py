"""Programs as processes of their own that need not import everything again.

``python -m gateway.cli`` computes for a second until everything is imported, ``backends.cli`` for two, and the tests
start hundreds. A nursery imports what a program needs once per run of pytest, then forks for each start. What runs
is the program's own ``__main__``, with its arguments, environment, directory, output, signals and exit code.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from select import select
from typing import IO, Any

ROOT = Path(__file__).parent.parent.parent
NEEDS: Mapping[str, Sequence[str]] = {
    "gateway.cli": ("gateway.commands.run", "gateway.supervisor", "gateway.state.sqlite", "uvloop"),
    "backends.cli": ("torch", "backends.app", "backends.runtime.device"),
    "tests.support.worker": ("tests.support.collected",),
}
"""Module → what it needs; what is not named here is imported after the fork."""
MAX_MESSAGE_BYTES = 1 << 20


class Forked:
    """The part of `subprocess.Popen` that tests use."""

    def __init__(
        self, module: str, *options: str, stdout: IO[Any] | None = None, stderr: IO[Any] | None = None
    ) -> None:
        wanted = {"options": options, "environment": dict(os.environ), "directory": str(Path.cwd())}
        news, teller = os.pipe()
        self._news = os.fdopen(news, "rb", buffering=0)
        self._lock = threading.Lock()
        streams = (1 if stdout is None else stdout.fileno(), 2 if stderr is None else stderr.fileno())
        nursery(module).start(wanted, [teller, 0, *streams])
        os.close(teller)
        self.pid = self._number()
        self.returncode: int | None = None

    def _number(self) -> int:
        line = self._news.readline()
        assert line.endswith(b"\n"), "the nursery has ended"
        return int(line)

    def _ended(self, timeout: float | None) -> int | None:
        with self._lock:
            if self.returncode is None:
                with selectors.DefaultSelector() as selector:
                    selector.register(self._news, selectors.EVENT_READ)
                    if not selector.select(timeout):
                        return None
                self.returncode = self._number()
                self._news.close()
            return self.returncode

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """One for all processes of a run of pytest; ends with the last of them. What it has forked goes on."""

    def __init__(self, module: str) -> None:
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID", os.getpid())
        place = Path(tempfile.gettempdir()) / f"turnout-{run}-{module}"
        self._requests = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with _locked(place):
            try:
                self._requests.connect(str(place))
            except (FileNotFoundError, ConnectionRefusedError):  # none, or left by a process that was killed
                place.unlink(missing_ok=True)
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as served:
                    served.bind(str(place))
                    served.listen()
                    words = ["-m", "tests.support.forked", module, str(place), str(served.fileno())]
                    subprocess.run(
                        [sys.executable, *words],
                        cwd=ROOT,
                        pass_fds=[served.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        check=True,
                    )
                self._requests.connect(str(place))
        atexit.register(self._requests.close)

    def start(self, wanted: Mapping[str, Any], files: Sequence[int]) -> None:
        socket.send_fds(self._requests, [json.dumps(wanted).encode()], files)


@cache
def nursery(module: str) -> Nursery:
    return Nursery(module)


@contextmanager
def _locked(place: Path) -> Iterator[Path]:
    with (file := place.with_suffix(".lock")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield file


def serve(place: Path, served: socket.socket) -> None:
    """Forks for each request; returns in the new process, which is all but the program that was asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guardians are not waited for
    clients: list[socket.socket] = []
    message = b""
    while not message:
        ready = select([served, *clients], [], [])[0][0]
        if ready is served:
            clients.append(served.accept()[0])
            continue
        message, files, _, _ = socket.recv_fds(ready, MAX_MESSAGE_BYTES, 4)
        if not message:
            clients.remove(ready)
            ready.close()
            if not clients:
                _end(place, served)
        elif os.fork():
            message = b""
            for file in files:
                os.close(file)
    for each in (served, *clients):
        each.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    teller, *streams = files
    if pid := os.fork():  # the guardian of the process says how it ended
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.write(teller, b"%d\n" % pid)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(BrokenPipeError):  # none is left to hear it
            os.write(teller, b"%d\n" % ended)
        os._exit(0)
    os.close(teller)
    for number, file in enumerate(streams):
        os.dup2(file, number)
        os.close(file)
    wanted = json.loads(message)
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.chdir(wanted["directory"])
    sys.argv[1:] = wanted["options"]


def run(program: str) -> None:
    """As ``python -m program``, but what was imported is not cleared at the end.

    To clear it would write to each page that is shared with the nursery, and take as long as a gateway's start.
    """
    try:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(end.code)


def _end(place: Path, served: socket.socket) -> None:
    """Unless another process comes at this moment."""
    with _locked(place) as lock:
        if not select([served], [], [], 0)[0]:
            place.unlink()
            lock.unlink()
            os._exit(0)


if __name__ == "__main__":
    if os.fork():
        os._exit(0)  # it belongs to none of the processes that it serves
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as long as a process wants more
    program = sys.argv[1]
    gc.disable()
    for name in NEEDS.get(program, ()):
        import_module(name)
    # A collection in each of the processes would look through all of it, and copy its pages.
    gc.freeze()
    gc.enable()
    serve(Path(sys.argv[2]), socket.socket(fileno=int(sys.argv[3])))
    run(program)
