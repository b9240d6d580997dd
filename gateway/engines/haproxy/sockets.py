"""Commands on the sockets of a HAProxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TAKEN_S: Final = 10.0
"""How long HAProxy may take to respond to a command, or to a reload."""
READ_BYTES: Final = 256 * 1024


async def command(socket: Path, text: str) -> str:
    """HAProxy's reply to a command on one of its sockets. Raises OSError."""
    return b"".join([part async for part in replies(socket, text)]).decode("latin-1")


async def replies(socket: Path, text: str) -> AsyncGenerator[bytes]:
    """The parts of HAProxy's reply to a command. Raises OSError."""
    try:
        with ExitStack() as opened:
            async with asyncio.timeout(TAKEN_S):
                made = await Connection.open(socket, opened)
            made.writer.write(f"{text}\n".encode())
            made.writer.write_eof()  # the master's socket stays open until then
            while True:
                async with asyncio.timeout(TAKEN_S):
                    part = await made.reader.read(READ_BYTES)
                if not part:
                    return
                yield part
    except TimeoutError as error:
        raise OSError(f"{socket} does not respond") from error


@dataclass(frozen=True, slots=True)
class Connection:
    """To the socket of one worker. It stays with the worker when a reload hands the socket to the next one."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, path: Path, opened: ExitStack) -> Connection:
        """One that is closed with ``opened``. Raises OSError."""
        made = cls(*await asyncio.open_unix_connection(path))
        opened.callback(made.writer.close)
        return made

    async def ask(self, text: str, end: bytes) -> str:
        """The reply to a command, up to ``end``. Raises TimeoutError, and OSError if the worker has ended."""
        self.writer.write(f"{text}\n".encode())
        try:
            async with asyncio.timeout(TAKEN_S):
                return (await self.reader.readuntil(end)).decode("latin-1")
        except asyncio.IncompleteReadError as error:
            raise OSError("HAProxy has closed the connection") from error
