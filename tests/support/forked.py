"""Programs as processes of their own that need not import everything again.

``python -m gateway.cli`` computes for a second until everything is imported, ``backends.cli`` for two, and the tests
start hundreds. A nursery imports what a program needs once per process of pytest, then forks for each start. What runs
is the program's own ``__main__``, with its arguments, environment, directory, output, signals and exit code.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent.parent
NEEDS: Mapping[str, Sequence[str]] = {
    "gateway.cli": ("gateway.commands.run", "gateway.serving"),
    "backends.cli": ("torch", "backends.app", "backends.runtime.device"),
}
"""Module → what it needs; what is not named here is imported after the fork."""
MAX_MESSAGE_BYTES = 1 << 20


class Forked:
    """The part of `subprocess.Popen` that tests use."""

    def __init__(self, module: str, *options: str, stdout: IO[Any] | None = None, stderr: IO[Any]) -> None:
        wanted = {"options": options, "environment": dict(os.environ), "directory": str(Path.cwd())}
        news, teller = os.pipe()
        self._news = os.fdopen(news, "rb", buffering=0)
        self._lock = threading.Lock()
        nursery(module).start(wanted, [teller, 1 if stdout is None else stdout.fileno(), stderr.fileno()])
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
    """Ends with the process that started it."""

    def __init__(self, module: str) -> None:
        self._requests, served = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with served:
            words = [sys.executable, "-m", "tests.support.forked", module, str(served.fileno())]
            self._process = subprocess.Popen(words, cwd=ROOT, pass_fds=[served.fileno()])
        atexit.register(self._close)

    def _close(self) -> None:
        """What it has forked goes on."""
        self._process.terminate()
        self._process.wait()
        self._requests.close()

    def start(self, wanted: Mapping[str, Any], files: Sequence[int]) -> None:
        socket.send_fds(self._requests, [json.dumps(wanted).encode()], files)


@cache
def nursery(module: str) -> Nursery:
    return Nursery(module)


def serve(requests: socket.socket) -> None:
    """Forks for each of ``requests``; returns in the new process, which is all but the program that was asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guardians are not waited for
    while True:
        message, files, _, _ = socket.recv_fds(requests, MAX_MESSAGE_BYTES, 3)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            break
        for file in files:
            os.close(file)
    requests.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    teller, *streams = files
    if pid := os.fork():  # the guardian of the process says how it ended
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.write(teller, b"%d\n" % pid)
        os.write(teller, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os._exit(0)
    os.close(teller)
    for number, file in enumerate(streams, start=1):
        os.dup2(file, number)
        os.close(file)
    wanted = json.loads(message)
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.chdir(wanted["directory"])
    sys.argv[1:] = wanted["options"]


if __name__ == "__main__":
    program = sys.argv[1]
    for name in NEEDS.get(program, ()):
        import_module(name)
    serve(socket.socket(fileno=int(sys.argv[2])))
    runpy.run_module(program, run_name="__main__", alter_sys=True)
