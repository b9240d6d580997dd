"""The API servers, seen from the main process: started, started again when one ends, and stopped together."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from time import monotonic
from typing import Final

from backends.api_servers.calls import Calls
from backends.api_servers.messages import FromMain, MessageSocket
from backends.api_servers.shared import SharedMemory, halves, new_file
from backends.app import App
from backends.http.listener import MAX_ACCEPT_S, address_of, bind
from backends.threads import in_daemon

log = logging.getLogger("turnout.backend")

MIN_LIFETIME_S: Final = 2.0
"""One that ends earlier is started again after a pause."""
RESTART_PAUSE_S: Final = 1.0
EXIT_MARGIN_S: Final = 2.0
"""They are killed this long after the limit of their requests."""
HANG_LIMIT_S: Final = 30.0
"""One that does not respond for this long is ended; at its start, for `START_FACTOR` times as long."""
PINGS: Final = 5
"""In that time."""
START_FACTOR: Final = 10


class ApiServers:
    """Processes on one port, which forward to ``app``. See `backends.http.listener.Listener`.

    The listening sockets are open here, too: connections that wait for a process that ends wait for the next one.
    """

    def __init__(
        self, app: App, count: int, max_body: int, max_pending: int, hang_limit: float = HANG_LIMIT_S
    ) -> None:
        self._app = app
        self._count = count
        self._limits = max_body, max_pending
        self.hang_limit = hang_limit
        """Seconds without a response after which a process is ended; may change at any time."""
        self._sockets: list[socket.socket] = []
        self._channels: set[MessageSocket] = set()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._keepers: list[asyncio.Task[None]] = []
        self._draining = False
        self._stop_ms: int | None = None

    async def start(self, host: str, port: int) -> str:
        """Listens; the address. Raises OSError."""
        self._sockets = await bind(host, port, self._count)
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(listening)) for listening in self._sockets]
        return address_of(self._sockets[0])

    def drain(self) -> None:
        """Lets responses end their connections."""
        self._draining = True
        for channel in self._channels:
            channel.send(FromMain.DRAIN)

    async def stop(self, limit: float) -> None:
        """Stops listening, and lets requests in flight finish within ``limit`` seconds."""
        self._stop_ms = int(limit * 1000)
        for channel in self._channels:
            channel.send(FromMain.STOP, self._stop_ms)
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=limit + MAX_ACCEPT_S + EXIT_MARGIN_S)
        for process in self._processes:
            process.kill()
        for keeper in self._keepers:
            keeper.cancel()
        for listening in self._sockets:
            listening.close()

    async def _keep(self, listening: socket.socket) -> None:
        """Has one process on ``listening`` until `stop`."""
        while self._stop_ms is None:
            started = monotonic()
            try:
                ended = f"ended with code {await self._run(listening)}"
            except Exception as error:  # noqa: BLE001  no process, thread or file is left; connections wait meanwhile
                ended = f"could not be started ({error})"
            if self._stop_ms is None:
                log.error("an API server %s; it is started again", ended)
                if monotonic() - started < MIN_LIFETIME_S:
                    await asyncio.sleep(RESTART_PAUSE_S)

    async def _run(self, listening: socket.socket) -> int:
        """One process from its start to its end; its exit code."""
        ours, theirs = socket.socketpair()
        file = new_file()
        files = listening.fileno(), theirs.fileno(), file
        words = [sys.executable, "-m", "backends.api_servers.child", *map(str, (*files, *self._limits))]
        try:
            memory = SharedMemory(*reversed(halves(file)))
            # In this thread, because the process ends with the thread that has started it; in a group of its own,
            # because a signal to that of the server would end it before it ignores signals.
            process = subprocess.Popen(words, pass_fds=files, process_group=0)  # noqa: ASYNC220
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(file)
        self._processes.add(process)
        channel = MessageSocket(lambda message: calls.received(message), memory)
        calls = Calls(self._app, channel.send, memory)
        self._channels.add(channel)
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: channel, sock=ours)
        watch = loop.create_task(self._watch(channel, process))
        # It was started while the server ends.
        if self._draining:
            channel.send(FromMain.DRAIN)
        if self._stop_ms is not None:
            channel.send(FromMain.STOP, self._stop_ms)
        try:
            await channel.lost
        finally:
            watch.cancel()
            self._channels.discard(channel)
            calls.abandon_all()
        code = await in_daemon("API server", process.wait)
        self._processes.discard(process)
        return code

    async def _watch(self, channel: MessageSocket, process: subprocess.Popen[bytes]) -> None:
        """Ends ``process`` once it has left `PINGS` pings in a row without a response.

        Pings are counted, not seconds: while this process or the machine is paused, no ping is sent.
        """
        missed = -(START_FACTOR - 1) * PINGS
        while missed < PINGS:
            channel.heard = False
            channel.send(FromMain.PING, 0)
            await asyncio.sleep(self.hang_limit / PINGS)
            missed = 0 if channel.heard else missed + 1
        log.error("an API server has not responded for %g s", self.hang_limit)
        process.kill()
