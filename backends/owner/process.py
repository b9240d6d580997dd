"""Device processes, seen from the server: each starts with its first model and ends with its last."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from typing import Final, cast

from backends.batching.entry import Report
from backends.batching.queue import Queue
from backends.config import ModelConfig
from backends.errors import LoadError
from backends.memory import shared_file
from backends.owner.layout import Layout, SlotMemory
from backends.owner.messages import Batch, Load, Ready, Result
from backends.owner.remote import RemoteInstance

log = logging.getLogger("turnout.backend")

LOAD_LIMIT_S: Final = 600.0
"""For loading one instance of a model."""
REPLY_POLL_S: Final = 0.25


class DeviceProcess:
    """A running device process. Its methods may be called in any thread."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.models = 0
        """Models that are loaded in it, or being loaded."""
        self.lost = False
        """Whether it has ended, or is about to: it takes no further models."""
        self._expected = False
        self._control, theirs = socket.socketpair()
        # Closed here: only the child's copy may keep it open, so that its end is noticed.
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "backends.owner.child", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
            )
        threading.Thread(target=self._wait, name=f"device process {key}", daemon=True).start()

    def open(self, memory: int) -> socket.socket:
        """A channel for one model, whose slots are in the file ``memory``. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"+"], [theirs.fileno(), memory])
        return ours

    def end(self) -> None:
        """Lets it end; it finishes what it holds."""
        self._expected = self._expected or not self.lost
        self.lost = True
        _close(self._control)

    def kill(self) -> None:
        """Ends it immediately."""
        self.lost = self._expected = True
        self._process.kill()

    def _wait(self) -> None:
        code = self._process.wait()
        self.lost = True
        if not self._expected:
            log.error(
                "the device process of %s ended with code %d; its models are loaded again", self.key, code
            )


class DeviceProcesses:
    """All device processes: one per GPU and precision; on CPUs, one per instance."""

    def __init__(self) -> None:
        self._processes: dict[str, DeviceProcess] = {}
        self._lock = threading.Lock()
        self._numbers = count()

    def load(self, load: Load) -> RemoteModel:
        """Loads a model, in a thread. Raises LoadError."""
        process = self._join(load)
        layout = Layout.of(load.config)
        channel = None
        try:
            memory = shared_file(layout.all_slots)
            try:
                channel = process.open(memory)
                mapped = SlotMemory(layout, memory)
            finally:
                os.close(memory)
            ready = _handshake(channel, load)
        except BaseException as error:  # Overrun, too: the load was given up
            if channel is not None:
                _close(channel)
            self.leave(process)
            if not process.models:
                process.kill()  # the model may hang
            if not isinstance(error, OSError | EOFError):
                raise
            raise LoadError(f"the device process ended while it loaded the model ({error!r})") from None
        if ready.fault:
            _close(channel)
            self.leave(process)
            raise LoadError(ready.fault)
        return RemoteModel(load.config, process, channel, mapped, ready)

    def leave(self, process: DeviceProcess) -> None:
        """A model of ``process`` is released."""
        with self._lock:
            process.models -= 1
            if process.models == 0:
                process.end()
            if process.lost and self._processes.get(process.key) is process:
                del self._processes[process.key]

    def _join(self, load: Load) -> DeviceProcess:
        key = f"{load.device} {load.config.precision}"
        if load.device == "cpu":
            key = f"cpu {next(self._numbers)}"
        with self._lock:
            process = self._processes.get(key)
            if process is None or process.lost:
                process = self._processes[key] = DeviceProcess(key)
            process.models += 1
            return process


DEVICE_PROCESSES: Final = DeviceProcesses()


def _close(channel: socket.socket) -> None:
    """Ends ``channel``, even if a process that a model forked holds a copy of it."""
    with contextlib.suppress(OSError):  # the other side has gone
        channel.shutdown(socket.SHUT_RDWR)
    channel.close()


def _handshake(channel: socket.socket, load: Load) -> Ready:
    """Raises OSError, EOFError."""
    connection = Connection(os.dup(channel.fileno()))
    with connection:
        connection.send(load)
        while not connection.poll(REPLY_POLL_S):
            pass  # here `interrupt` can end it
        reply = connection.recv()
    assert isinstance(reply, Ready)
    return reply


@dataclass(slots=True)
class RemoteModel:
    """A model that is loaded in a device process."""

    config: ModelConfig
    process: DeviceProcess
    socket: socket.socket
    memory: SlotMemory
    ready: Ready

    async def instance(self, name: str, queue: Queue, deliver: Callable[[Report], None]) -> RemoteInstance:
        """An instance that runs batches of ``queue`` here."""
        channel = _SocketChannel(self.process, self.socket)
        overlapping = bool(self.ready.buckets)
        made = RemoteInstance(
            self.config, name, queue, self.memory, channel, deliver, overlapping=overlapping
        )
        channel.instance = made
        self.socket.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=self.socket)
        return made

    def close(self) -> None:
        """Releases it without having been used."""
        _close(self.socket)
        DEVICE_PROCESSES.leave(self.process)


class _SocketChannel(asyncio.Protocol):
    """See `Channel`; frames as `multiprocessing.connection` has them."""

    instance: RemoteInstance

    def __init__(self, process: DeviceProcess, channel: socket.socket) -> None:
        self._process = process
        self._socket = channel
        self._buffer = bytearray()
        self._transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big", signed=True)
            start = 4
            if size == -1:  # a frame beyond 2 GiB
                size, start = int.from_bytes(self._buffer[4:12], "big"), 12
            if len(self._buffer) < start + size:
                return
            message = pickle.loads(memoryview(self._buffer)[start : start + size])
            del self._buffer[: start + size]
            assert isinstance(message, Result)
            self.instance.received(message)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.instance.ended.done():
            self._process.lost = True
            self.instance.lost()
        DEVICE_PROCESSES.leave(self._process)

    def send(self, batch: Batch) -> None:
        data = pickle.dumps(batch, pickle.HIGHEST_PROTOCOL)
        size = len(data)
        frame = size.to_bytes(4, "big") if size < 1 << 31 else b"\xff\xff\xff\xff" + size.to_bytes(8, "big")
        self._transport.writelines((frame, data))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the process has gone
            self._socket.shutdown(socket.SHUT_RDWR)  # as in `_close`
        self._transport.close()

    def kill(self) -> None:
        self._process.kill()
        self.close()
