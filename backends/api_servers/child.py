"""An API server: `python -m backends.api_servers.child SOCKET CHANNEL MEMORY MAX_BODY MAX_PENDING`.

``SOCKET`` listens for clients. ``CHANNEL`` leads to the main process; its end is the end of this one.
``MEMORY``: see `new_file`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
from typing import Final

import uvloop

from backends import memory
from backends.api_servers.forwarding import Forwarder
from backends.api_servers.messages import FromApiServer, FromMain, Message, MessageSocket
from backends.api_servers.shared import SharedMemory, halves
from backends.batching.pending import PendingBytes
from backends.http.listener import Listener

PR_SET_PDEATHSIG: Final = 1


async def serve(
    listening: socket.socket, channel: socket.socket, shared: SharedMemory, max_body: int, max_pending: int
) -> None:
    """Serves until the main process says stop, or is gone."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[float] = loop.create_future()

    def received(message: Message) -> None:
        if message[0] == FromMain.DRAIN:
            listener.drain()
        elif message[0] == FromMain.STOP:
            stop.set_result(message[1] / 1000)
        elif message[0] == FromMain.PING:
            messages.send(FromApiServer.PONG, 0)
        else:
            forwarder.received(message)

    messages = MessageSocket(received, shared)
    forwarder = Forwarder(max_body, PendingBytes(max_pending), messages.send, shared)
    listener = Listener(forwarder)
    messages.lost.add_done_callback(_end)
    await loop.create_unix_connection(lambda: messages, sock=channel)
    await listener.serve(listening)
    await listener.stop(await stop)
    messages.lost.remove_done_callback(_end)
    messages.close()


def _end(lost: object) -> None:
    os._exit(1)


def main() -> None:
    """Serves with the sockets that the command line names."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # sent to the whole group; the main process says when to end
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    listening, channel = (socket.socket(fileno=int(word)) for word in sys.argv[1:3])
    for one in (listening, channel):
        one.setblocking(False)
    file, *limits = map(int, sys.argv[3:])
    shared = SharedMemory(*halves(file))
    os.close(file)
    memory.keep_freed()
    uvloop.run(serve(listening, channel, shared, *limits))


if __name__ == "__main__":
    main()
