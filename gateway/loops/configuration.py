"""Follows the configuration file, the files that it names, and other processes that share the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.compile.revisions import Revisions
from gateway.config.faults import ConfigError
from gateway.config.watch import FilesWatch, FileWatch, Signatures
from gateway.state.base import StoreUnavailable

log = logging.getLogger("turnout.config")


class Configuration:
    """Applies changes of the files; a faulty one is reported and changes nothing."""

    def __init__(
        self, path: Path, known: str, revisions: Revisions[Any], built: Callable[[], Signatures]
    ) -> None:
        """``known``: the text of the file at the start; ``built``: the files of the configuration in force."""
        self._revisions = revisions
        self._built = built
        self._file = FileWatch(path, known)
        self._named = FilesWatch()
        self._edit: str | None = None
        """A new text of the file that could not be stored yet."""
        self._refused: str | None = None
        """The text of the file, if it was refused: what it lacks (a variable's file, say) may come."""

    async def reload(self) -> None:
        """Read the file, and all files that it names, now: for SIGHUP."""
        log.info("reading the configuration and its files again")
        try:
            await self.step(now=True)
        except StoreUnavailable as error:
            log.warning("the configuration stays as it is until the store is back: %s", error)

    async def step(self, *, now: bool = False) -> None:
        """Look at each once. ``now``: whether or not it has changed, and without waiting for it to settle."""
        try:
            text = await asyncio.to_thread(self._file.read if now else self._file.look)
            waiting = (text, self._edit, self._refused if now else None)
            self._edit = next((one for one in waiting if one is not None), None)  # an emptied file's is ""
        except ConfigError as error:
            self._revisions.refuse(error)
        if not self._file.unreadable:
            self._revisions.readable()
        edit = self._edit
        if edit is not None:
            adopted = await self._revisions.adopt_file(edit)
            refused = adopted is None and self._revisions.problem is not None
            self._refused = edit if refused else None
            if self._edit is edit:  # else SIGHUP has read another meanwhile
                self._edit = None  # only now: a store that is away raised before
        if await asyncio.to_thread(self._named.look, self._built()) or now:
            await self._revisions.rebuild()
        await self._revisions.refresh()
