"""Follows the configuration file, the files that it names, and other processes that share the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.compile.revisions import Revisions
from gateway.config.faults import ConfigError
from gateway.config.watch import FilesWatch, FileWatch, Signatures


class Configuration:
    """One look at the configuration file: a good edit is taken, a bad one is reported and changes nothing."""

    def __init__(
        self, path: Path, known: str, revisions: Revisions[Any], built: Callable[[], Signatures]
    ) -> None:
        """``known``: the file's text that was looked at already; ``built``: the files of what is in force."""
        self._revisions = revisions
        self._built = built
        self._file = FileWatch(path, known)
        self._named = FilesWatch()
        self._edit: str | None = None
        """A new text of the file that could not be stored yet."""

    async def step(self) -> None:
        """One look at each."""
        try:
            self._edit = await asyncio.to_thread(self._file.look) or self._edit
        except ConfigError as error:
            self._revisions.refuse(error)
        if self._edit is not None:
            await self._revisions.adopt_file(self._edit)
            self._edit = None
        if await asyncio.to_thread(self._named.look, self._built()):
            await self._revisions.rebuild()
        await self._revisions.refresh()
