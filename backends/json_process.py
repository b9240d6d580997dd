"""Large JSON is parsed in a process of its own: parsing holds the interpreter, so that all other requests would wait.

The process, `python -m backends.json_process FD`, starts with the first such request. ``FD`` is a socket to the
server; its end is the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from backends.errors import ServerError, Unavailable
from backends.threads import in_daemon
from backends.wire.request import Plan, plan_of
from backends.wire.signature import Signature


class JsonProcess:
    """The server's side; its requests are parsed one after the other."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Connection | None = None

    async def plan_of(self, text: memoryview, available: int, signature: Signature) -> Plan:
        """See `backends.wire.request.plan_of`. Raises InvalidInput, Unavailable."""
        # Callers must not be cancelled (`Request.abandon` only tells them): the turn would end before the thread has
        # its reply, and the next caller could take that for its own.
        async with self._turn:
            given = await in_daemon("JSON", partial(self._ask, (bytes(text), available, signature)))
        if isinstance(given, ServerError):
            raise given
        return given

    def _ask(self, question: Any) -> Plan | ServerError:
        try:
            if self._channel is None:
                self._start()
            assert self._channel is not None
            self._channel.send(question)
            return self._channel.recv()  # type: ignore[no-any-return]
        except (EOFError, OSError):
            self._end()
            return Unavailable("the process that parses large JSON has ended; send the request again")
        except BaseException:  # Overrun: the reply would be taken for that to the next question
            self._end()
            raise

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._channel = Connection(ours.detach())
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "backends.json_process", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
            )

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def main() -> None:
    """Serves until the server has gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the server says when to end
        signal.signal(number, signal.SIG_IGN)
    with Connection(int(sys.argv[1])) as channel, contextlib.suppress(EOFError, OSError):
        while True:
            text, available, signature = channel.recv()
            try:
                channel.send(plan_of(memoryview(text), available, signature)[0])
            except ServerError as error:
                channel.send(error)


if __name__ == "__main__":
    main()
