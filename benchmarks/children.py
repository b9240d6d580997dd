"""Processes that end with the harness: their own group each, and killed with the parent whatever happens."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_CONNECT_WAIT = 0.05
_SERVER_PORTS = (20_000, 32_000)
_CHANCE = random.SystemRandom()
_CLAIMS = os.open(Path(tempfile.gettempdir(), f"turnout-ports-{os.getuid()}"), os.O_RDWR | os.O_CREAT, 0o600)
"""A file of which a process locks a byte for each port that it was given; the kernel ends locks with the process."""
_taken: set[int] = set()
_LAUNCH = Path(__file__).with_name("launch.py")


class StartError(Exception):
    """A child ended, or did not listen in time; the message has the end of its log."""


class Child:
    """A process group pinned to a set of cores, with its log in a file.

    It leads a session of its own, so the session id names exactly its descendants, both for counting
    their CPU time (`benchmarks.usage`) and for ending them.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        cores: Sequence[int],
        log: Path,
        env: dict[str, str] | None = None,
        priority: str = "0",
    ) -> None:
        self.name = name
        self._log = log
        self._out: IO[bytes] = log.open("wb")
        self._process = subprocess.Popen(
            [*wrapper(cores, priority), *command],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )

    @property
    def session(self) -> int:
        return self._process.pid

    def tail(self, size: int = 2000) -> str:
        return self._log.read_bytes()[-size:].decode(errors="replace")

    def wait_listening(self, port: int, limit: float = 30.0) -> None:
        """Returns once 127.0.0.1:port takes connections; raises StartError after ``limit`` seconds."""
        until = time.monotonic() + limit
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise StartError(f"{self.name} ended with {self._process.returncode}:\n{self.tail()}")
            if listening(port):
                return
            time.sleep(_CONNECT_WAIT)
        raise StartError(f"{self.name} did not listen on port {port} within {limit:g} s:\n{self.tail()}")

    def stop(self, grace: float = 3.0) -> None:
        """SIGTERM to the whole group, SIGKILL to what is left after ``grace`` seconds."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._out.close()

    def freeze(self) -> None:
        """Stops the whole group where it is: it takes no time from others until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def wrapper(cores: Sequence[int], priority: str = "0") -> list[str]:
    """The words before a command that pin it and let the kernel end it should the harness be killed."""
    return [sys.executable, str(_LAUNCH), ",".join(map(str, cores)), priority]


def before(priority: str) -> str:
    """The priority of what measures, so that it sees an answer when it comes, not when others pause."""
    return "realtime:6" if priority == "realtime" else priority


def listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    """Distinct ports of 127.0.0.1 that nothing is bound to, and that belong to this process until it ends.

    They lie below the range from which the kernel takes the source ports of outgoing connections, and no other
    process of this user is given one, be it before its server binds, between two starts, or where nobody listens.
    """
    found: set[int] = set()
    while len(found) < count:
        port = _CHANCE.randrange(*_SERVER_PORTS)
        if port in _taken:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            fcntl.lockf(_CLAIMS, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)  # a byte for each port
            probe.bind(("127.0.0.1", port))
            found.add(port)
            _taken.add(port)
    return list(found)


def free_port() -> int:
    """One of `free_ports`."""
    return free_ports(1)[0]


def end_on_signals() -> None:
    """SIGTERM and SIGHUP unwind the stack like Ctrl-C does, so that every ``with`` ends its children."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
