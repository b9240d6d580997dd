"""Reads the rows of a node's workers, each until it has logged its last one.

A worker keeps its rows in a ring; its command ``show events -w`` hands over what the ring holds, then what follows. A
reload replaces the worker, but the old one does not end while that command runs: it is left once it has no clients any
more, so that no row of theirs is lost.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.engines.haproxy.config import RING

LOOK_S: Final = 0.25
TAKEN_S: Final = 10.0
"""How long HAProxy may take to respond to a command, or to a reload."""
_READ_BYTES: Final = 256 * 1024
_PROMPT: Final = b"\n> "
_FACT: Final = re.compile(r"^(Pid|Start_time_sec|Stopping|CurrConns): (\d+)$", re.MULTILINE)


class Rings:
    """The rows of all workers of a node."""

    def __init__(
        self,
        admin: Path,
        take: Callable[[str, str], None],
        room: asyncio.Event,
        group: asyncio.TaskGroup,
    ) -> None:
        """``admin``: HAProxy's socket. ``take``: gets a worker's name and a row, unless ``room`` is not set."""
        self._admin = admin
        self._take = take
        self._room = room
        self._group = group
        self._workers: dict[str, _Worker] = {}
        self._attaching = asyncio.Lock()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            with suppress(OSError):  # it does not run
                await self.attach()
            for worker in [*self._workers.values()]:
                await self._leave(worker)
            await asyncio.sleep(LOOK_S)

    async def attach(self) -> None:
        """Read the worker that accepts connections now, unless it is read already. Raises OSError."""
        async with self._attaching:
            with ExitStack() as opened:
                control = await _Connection.open(self._admin, opened)
                await control.ask("prompt", _PROMPT)
                name = _name(await control.ask("show info", _PROMPT))
                if name in self._workers:
                    return
                rows = await _Connection.open(self._admin, opened)
                if _name(await rows.ask(f"show info;show events {RING} -w", b"\n\n")) != name:
                    return  # a reload came between; the next look finds the new worker
                worker = self._workers[name] = _Worker(rows, control, opened.pop_all())
                self._group.create_task(self._read(name, worker))

    async def _read(self, name: str, worker: _Worker) -> None:
        rest = b""
        try:
            while data := await worker.rows.reader.read(_READ_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(name, line.decode("latin-1"))
                worker.active = True
                await self._room.wait()
        except OSError:
            pass  # it was killed
        finally:
            del self._workers[name]
            worker.opened.close()

    async def _leave(self, worker: _Worker) -> None:
        """Let a worker end that was replaced, has no clients any more, and has handed over all rows."""
        try:
            facts = _facts(await worker.control.ask("show info", _PROMPT))
        except TimeoutError:  # it stands still, and its last rows are still to come
            worker.active = True
            return
        except OSError:
            worker.opened.close()
            return
        if facts["Stopping"] == "0" or facts["CurrConns"] != "0" or not self._room.is_set():
            worker.active = True
        elif worker.active:
            worker.active = False
        else:
            worker.opened.close()


@dataclass(frozen=True, slots=True)
class _Connection:
    """To the socket of one worker. It stays with the worker when a reload hands the socket to the next one."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, path: Path, opened: ExitStack) -> _Connection:
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


@dataclass(slots=True)
class _Worker:
    rows: _Connection
    control: _Connection
    opened: ExitStack
    """Ends both connections."""
    active: bool = True
    """Whether it had clients at the last look, or a row came since."""


def _facts(info: str) -> dict[str, str]:
    """What ``show info`` says. Raises OSError if it is something else."""
    facts = dict(_FACT.findall(info))
    if len(facts) < 4:
        raise OSError(f"HAProxy does not say how it is: {info[:200]}")
    return facts


def _name(info: str) -> str:
    """Of the worker: the id of a process alone may come again."""
    facts = _facts(info)
    return f"{facts['Pid']}-{facts['Start_time_sec']}"
