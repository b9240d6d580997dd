"""Reads the rows of a node's workers, each until it has logged its last one.

A worker keeps its rows in a ring; its command ``show events -w`` hands over what the ring holds, then what follows. A
reload replaces the worker, but the old one does not end while that command runs: it is left once it has no clients any
more, so that no row of theirs is lost.

A worker greets the agent when it starts, so it is read before another reload replaces it. One that was replaced while
no agent ran is reached through the master only, which cannot follow its ring: that is read whole, again and again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.engines.haproxy.bootstrap import ADMIN_SOCKET, MASTER_SOCKET
from gateway.engines.haproxy.config import AGENT_SOCKET, NUMBERS, RING
from gateway.engines.haproxy.sockets import READ_BYTES, Connection, command, replies
from gateway.engines.rows import ABSENT

LOOK_S: Final = 0.25
GATHER_S: Final = 0.05
"""Between two reads of one ring: HAProxy sends each row, and each would wake the agent."""
HURRY_S: Final = 0.01
"""The same after a read of `HURRY_BYTES`: the socket's buffer (208 KiB) holds what 60,000 requests/s log meanwhile."""
HURRY_BYTES: Final = 32 * 1024
REST: Final = 20.0
"""How many times as long as it read the left workers the agent waits before it reads them again."""
_PROMPT: Final = b"\n> "
_OLD: Final = re.compile(r"^(\d+)\s+worker\s", re.MULTILINE)
_LAST: Final = re.compile(r" gpc0=(\d+)")
_FACT: Final = re.compile(r"^(Pid|Start_time_sec|Stopping|CurrConns): (\d+)$", re.MULTILINE)


class Rings:
    """The rows of all workers of a node."""

    def __init__(
        self,
        folder: Path,
        take: Callable[[str, str], None],
        end: Callable[[str, int], None],
        room: asyncio.Event,
        group: asyncio.TaskGroup,
    ) -> None:
        """``folder``: of the node. ``take``: gets a worker's name and a row, unless ``room`` is not set.

        ``end``: gets a worker's name and the number of its last row, when its ring holds no more.
        """
        self._admin = folder / ADMIN_SOCKET
        self._master = folder / MASTER_SOCKET
        self._greetings = folder / AGENT_SOCKET
        self._take = take
        self._end = end
        self._room = room
        self._group = group
        self._workers: dict[str, _Worker] = {}
        self._attaching = asyncio.Lock()

    async def run(self) -> None:
        """Serve until cancelled."""
        self._group.create_task(self._read_left())
        with ExitStack() as opened:
            with suppress(OSError):  # on a full disk: looking finds a worker too, but later
                server = await asyncio.start_unix_server(self._greeted, self._greetings)
                opened.callback(server.close)
            while True:
                await self._attach()
                for name, worker in [*self._workers.items()]:
                    await self._look(name, worker)
                await asyncio.sleep(LOOK_S)

    def _greeted(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        self._group.create_task(self._attach())

    async def _attach(self) -> None:
        with suppress(OSError):  # it does not run
            await self.attach()

    async def attach(self) -> None:
        """Read the worker that accepts connections now, unless it is read already. Raises OSError."""
        async with self._attaching:
            with ExitStack() as opened:
                control = await Connection.open(self._admin, opened)
                await control.ask("prompt", _PROMPT)
                name = _name(await control.ask("show info", _PROMPT))
                if name in self._workers:
                    return
                rows = await Connection.open(self._admin, opened)
                if _name(await rows.ask(f"show info;show events {RING} -w", b"\n\n")) != name:
                    return  # a reload came between; the next look finds the new worker
                worker = self._workers[name] = _Worker(rows, control, opened.pop_all())
                self._group.create_task(self._read(name, worker))

    async def _read_left(self) -> None:
        """Read the replaced workers that are not attached, until cancelled."""
        now = asyncio.get_running_loop().time
        while True:
            started = now()
            with suppress(OSError):
                _, _, old = (await command(self._master, "show proc")).partition("# old workers")
                attached = {name.partition("-")[0] for name in self._workers}
                for process in _OLD.findall(old):
                    if process not in attached:
                        await self._read_once(process)
            await asyncio.sleep(max(LOOK_S, REST * (now() - started)))

    async def _read_once(self, process: str) -> None:
        """Take what the ring of a replaced worker holds. Raises OSError."""
        name = _name(await command(self._master, f"@!{process} show info"))
        async with aclosing(replies(self._master, f"@!{process} show events {RING}")) as parts:
            async for lines in _lines(parts):
                for line in lines:
                    if not line.startswith(ABSENT):  # without a number, it would be taken again and again
                        self._take(name, line)
                await self._room.wait()

    async def _read(self, name: str, worker: _Worker) -> None:
        try:
            async for lines in _lines(worker.parts()):
                for line in lines:
                    self._take(name, line)
                await self._room.wait()
        except OSError:
            pass  # it was killed
        finally:
            del self._workers[name]
            worker.opened.close()

    async def _look(self, name: str, worker: _Worker) -> None:
        """Tell how many rows a worker had that hands over no more; let it end if it was replaced and has no clients."""
        read, worker.read = worker.read or not self._room.is_set(), False
        try:
            facts = _facts(await worker.control.ask("show info", _PROMPT))
            if not read:
                last = _LAST.search(await worker.control.ask(f"show table {NUMBERS}", _PROMPT))
                if last is not None:
                    self._end(name, int(last[1]))
        except TimeoutError:  # it stands still, and its last rows are still to come
            worker.active = True
            return
        except OSError:
            worker.opened.close()
            return
        if read or facts["Stopping"] == "0" or facts["CurrConns"] != "0":
            worker.active = True
        elif worker.active:
            worker.active = False
        else:
            worker.opened.close()


@dataclass(slots=True)
class _Worker:
    rows: Connection
    control: Connection
    opened: ExitStack
    """Ends both connections."""
    active: bool = True
    """Whether it had clients at the last look, or a row came since the one before."""
    read: bool = True
    """Whether a row came since the last look."""

    async def parts(self) -> AsyncIterator[bytes]:
        """What it hands over of its ring. Raises OSError if it was killed."""
        transport = self.rows.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        while data := await self.rows.reader.read(READ_BYTES):
            transport.pause_reading()
            yield data
            self.read = True
            await asyncio.sleep(GATHER_S if len(data) < HURRY_BYTES else HURRY_S)
            transport.resume_reading()


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[list[str]]:
    """The whole lines that each part ends."""
    rest = ""
    async for part in parts:
        *lines, rest = (rest + part.decode("latin-1")).split("\n")
        yield lines


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
