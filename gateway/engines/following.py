"""What the agents of all engines do: follow what is offered, and keep it in files."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx

from gateway.engines.offers import Json, Kind

log = logging.getLogger("turnout.agent")

POLL_TIMEOUT_S: Final = 30.0
"""How long to wait for a response to a poll; the gateway responds well before."""
RETRY_S: Final = 1.0
LOOK_S: Final = 0.05
"""Between two looks at what the node has taken."""
TAKEN_S: Final = 10.0
"""How long a node that responds may need to take what is new."""


class Follower(ABC):
    """Follows one kind of resource of a node."""

    def __init__(self, kind: Kind, node: Json, control: httpx.AsyncClient) -> None:
        self._kind = kind
        self._node = node
        self._control = control
        self._version = ""
        self.refused = ""
        """Why the node refused the last version; empty if it did not."""
        self._told = ("", "")
        """The version and the refusal that the log told last: each is offered again and again."""
        self._reached = True

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            try:
                response = await self._control.post(f"/v3/discovery:{self._kind}", json=self._poll())
                response.raise_for_status()
                offered = response.json()["version_info"]
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                if self._reached:
                    log.warning("%s: the files stay: %s", self._kind, reason(error))
                self._reached = False
                await asyncio.sleep(RETRY_S)
                continue
            self._reached = True
            if offered != self._version or self.refused:
                await self.offer(offered, response.content)

    def _poll(self) -> Json:
        poll: Json = {"node": self._node, "version_info": self._version}
        return poll | ({"error_detail": {"message": self.refused}} if self.refused else {})

    async def offer(self, version: str, body: bytes) -> None:
        """Write a version, and wait until the node has taken or refused it."""
        try:
            self.refused = await self.take(version, body)
        except OSError as error:
            self.refused = f"its agent cannot write its files: {error}"
        except (KeyError, TypeError, ValueError):  # the engine has become one of another type
            self.refused = "its agent cannot read what is offered; print its bootstrap again"
        told, self._told = self._told, (version, self.refused)
        if not self.refused:
            self._version = version
            log.info("%s: the node has taken version %s", self._kind, version)
        elif told != self._told:
            log.warning("%s: %s", self._kind, self.refused)

    @abstractmethod
    async def take(self, version: str, body: bytes) -> str:
        """Why the node refuses ``version``, with its last good files restored; empty once it has it.

        Raises OSError if the files cannot be written.
        """


def reason(error: Exception) -> str:
    """Why a gateway did not take a call, with what to do where the node itself is refused."""
    status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
    if status == 401:
        return "the gateway refuses the node's token; print its bootstrap again and restart the agent with it"
    if status == 403:
        return "the gateway has no node of this name; name it under 'nodes' of its engine"
    return f"no gateway can be reached: {error}"


def write(files: Mapping[Path, bytes]) -> None:
    """Replace files by atomic renames, all or none; they are as secret as the bootstrap. Raises OSError."""
    made = {path: path.with_name(f".{path.name}.new") for path in files}
    try:
        for path, body in files.items():
            made[path].unlink(missing_ok=True)  # of a process that was killed
            made[path].touch(0o600)  # before it holds anything; who opens a file may read it later, too
            made[path].write_bytes(body)
    except OSError:
        for new in made.values():
            with suppress(OSError):
                new.unlink()
        raise
    # Only once all are written: a full disk has shown itself by now.
    for path, new in made.items():
        new.replace(path)
