"""The agent of an HAProxy: keeps its configuration, changes its ranges while it runs, and delivers its rows.

A change of shares reaches a running HAProxy by its runtime socket; anything else by a reload, which HAProxy makes
without refusing a connection. The files are always the newest that it took, so it starts while no gateway can be
reached.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import ssl
from pathlib import Path
from typing import Final

import httpx

from gateway.engines.counters import NODE
from gateway.engines.following import LOOK_S, POLL_TIMEOUT_S, TAKEN_S, Follower, write
from gateway.engines.haproxy.bootstrap import ADMIN_SOCKET, MASTER_SOCKET, ROUTES, Node
from gateway.engines.haproxy.config import RANGES, VERSION
from gateway.engines.haproxy.deliver import Delivery
from gateway.engines.haproxy.rings import GATHER_S, Rings
from gateway.engines.haproxy.sockets import command

_FAILED: Final = re.compile(r" master .*\[failed: (\d+)\]")


class Refused(Exception):
    """What HAProxy says against a command or a configuration."""


async def run(node: Node) -> None:
    """Serve the node until SIGTERM; the rows that HAProxy has sent until then are delivered if a gateway takes them."""
    own, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert own is not None
    loop.add_signal_handler(signal.SIGTERM, lambda: loop.call_later(2 * GATHER_S, own.cancel))
    verify = ssl.create_default_context(cafile=node.ca) if node.secure else False
    headers = {"authorization": f"Bearer {node.token}", NODE: node.name}
    async with (
        httpx.AsyncClient(
            base_url=node.control, headers=headers, verify=verify, timeout=POLL_TIMEOUT_S
        ) as control,
        asyncio.TaskGroup() as group,
    ):
        delivery = Delivery(node, control)
        rings = Rings(node.folder, delivery.take, delivery.end, delivery.room, group)
        for task in (HaproxyFollower(node, control, rings), delivery, rings):
            group.create_task(task.run())


class HaproxyFollower(Follower):
    """Follows the configuration and the ranges of a node."""

    def __init__(self, node: Node, control: httpx.AsyncClient, rings: Rings) -> None:
        super().__init__("routes", {"id": node.name, "cluster": node.engine}, control)
        self._folder = node.folder
        self._rings = rings
        self._live: dict[str, str] = {}
        """Ranges by route that the running HAProxy has, as far as this agent knows."""

    async def take(self, version: str, body: bytes) -> str:
        """Why the node refuses ``version``, with its last good files restored; empty once it has it."""
        (resource,) = json.loads(body)["resources"]
        ranges: dict[str, str] = resource["ranges"]
        lines = "".join(f"{route} {text}\n" for route, text in ranges.items())
        wanted = {**resource["files"], RANGES: lines, ROUTES: resource["config"]}
        good = {name: _text(self._folder / name) for name in wanted}
        self._write(wanted)
        try:
            await self._apply(resource["config_version"], ranges)
        except Refused as refused:
            self._live = {}  # first: a full disk ends the next line
            self._write({name: text for name, text in good.items() if text is not None})
            return str(refused)
        self._live = ranges
        # Only now: the last configuration names them, and is restored if this one is refused.
        for path in self._folder.glob("*.pem"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)
        return ""

    def _write(self, files: dict[str, str]) -> None:
        changed = (name for name, text in files.items() if _text(self._folder / name) != text)
        write({self._folder / name: files[name].encode() for name in changed})

    async def _apply(self, version: str, ranges: dict[str, str]) -> None:
        """Wait for a node that does not run; it starts from the files. Raises Refused."""
        while True:
            try:
                if await self._version_of_worker() != version:
                    await self._rings.attach()  # its rows could not be read once it is replaced
                    await self._reload()
                    await self._reloaded(version)
                    return
                for route, text in ranges.items():
                    if self._live.get(route) != text:
                        await self._replace(route, text)
                return
            except OSError:
                self._live = {}
                await asyncio.sleep(LOOK_S)

    async def _version_of_worker(self) -> str:
        """Of the configuration that accepts connections now. Raises OSError if HAProxy does not run."""
        reply = await command(self._folder / ADMIN_SOCKET, f"show env {VERSION}")
        return reply.strip().removeprefix(f"{VERSION}=")

    async def _reload(self) -> None:
        """Raises Refused."""
        now = asyncio.get_running_loop().time
        end = now() + TAKEN_S
        while True:
            try:
                await command(self._folder / MASTER_SOCKET, "reload")
                return
            except OSError as error:  # a master that reloads refuses connections for a moment
                if isinstance(error, FileNotFoundError) or now() > end:
                    raise Refused(
                        "HAProxy has no master socket; start it with "
                        f"'haproxy -W -S {self._folder / MASTER_SOCKET}'"
                    ) from None
            await asyncio.sleep(LOOK_S)

    async def _reloaded(self, version: str) -> None:
        """Wait until a worker has ``version``. Raises Refused."""
        now = asyncio.get_running_loop().time
        end = now() + TAKEN_S
        while now() < end:
            if await self._has(version):
                return
            await asyncio.sleep(LOOK_S)
        raise Refused(f"HAProxy did not take the configuration within {TAKEN_S:g} s; its log says why")

    async def _has(self, version: str) -> bool:
        """Whether a worker has ``version`` after a reload. Raises Refused if none will."""
        try:
            if await self._version_of_worker() == version:
                return True
            failed = _FAILED.search(await command(self._folder / MASTER_SOCKET, "show proc"))
        except OSError:
            return False
        if failed is not None and int(failed[1]):
            raise Refused("HAProxy refuses the configuration and keeps its last one; its log says why")
        return False

    async def _replace(self, route: str, text: str) -> None:
        """Replace the ranges of a route in one step. Raises Refused and OSError."""
        words = f"map {self._folder / RANGES} {route} {text}"
        for how in ("set", "add"):  # a route without an allocation is not in the map yet
            reply = (await command(self._folder / ADMIN_SOCKET, f"{how} {words}")).strip()
            if not reply:
                return
        raise Refused(f"HAProxy refuses the ranges of {route}: {reply}")


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):  # a damaged file is written again, as an absent one
        return None
