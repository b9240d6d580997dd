"""Processes that a model forks: they must neither hold connections, nor take signals, nor go on as the server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import Final

FILES: Final = "/proc/self/fd"
INTERNET: Final = (socket.AF_INET, socket.AF_INET6)
FORKED: Final = 71
"""Exit code of a process that a model forked and that came back from the model."""


class Forks:
    """What a process that is forked from one that serves gives up."""

    def __init__(self) -> None:
        self.in_child = False
        """Whether this process was forked by a model."""
        self._serving = False
        self._ports: set[int] = set()
        os.register_at_fork(after_in_child=self._leave)

    def serve(self, port: int | None = None) -> None:
        """This process serves, on ``port`` if it listens itself."""
        self.in_child, self._serving = False, True
        if port is not None:
            self._ports.add(port)

    def end_child(self) -> None:
        """Ends a process that a model forked and that came back from the model; returns in any other one."""
        if self.in_child:
            os._exit(FORKED)

    def _leave(self) -> None:
        """Closes connections, whose clients would see no end of them, and gives signals their usual effect.

        The signals of this process would wake the event loop of the other one, which would end instead.
        """
        if not self._serving:
            return
        self.in_child = True
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGURG):
            signal.signal(number, signal.SIG_DFL)
        if self._ports:
            with contextlib.suppress(OSError):  # Linux only
                for name in os.listdir(FILES):
                    if _port(int(name)) in self._ports:
                        os.close(int(name))


def _port(file: int) -> int | None:
    """The local port of a socket; None for other files."""
    try:
        probe = socket.socket(fileno=file)
    except OSError:
        return None
    try:
        return int(probe.getsockname()[1]) if probe.family in INTERNET else None
    finally:
        # The descriptor belongs to another object, or to a library.
        probe.detach()


FORKS: Final = Forks()
