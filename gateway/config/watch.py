"""Watching the configuration file, by looking at it: the one way that works on every file system."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

from gateway.config.faults import ConfigError
from gateway.config.load import read_text

Signature = tuple[int, int, int]
"""Inode, size, time of change in nanoseconds: what moves when a file is written or replaced."""


class FileWatch:
    """Tells when a file has new text. `look` is called now and then, and decides without waiting.

    A change is told once the file has been the same for two looks in a row, so that half-written
    files and the moment in which a file is being replaced pass by. Links are followed, hence the
    swapped directories that Kubernetes uses are seen too.
    """

    def __init__(self, path: str | Path, known: str) -> None:
        """``known`` is the text that the caller has already."""
        self._path = path
        self._known = known
        self._seen: Signature | None = None
        self._settled: Signature | None = None

    def look(self) -> str | None:
        """The new text, or None. Raises `ConfigError` once when the file exists and can't be read."""
        signature = self._signature()
        changed, self._seen = signature != self._seen, signature
        if signature is None or changed or signature == self._settled:
            return None
        self._settled = signature
        text = read_text(self._path)
        if text == self._known:
            return None
        self._known = text
        return text

    def _signature(self) -> Signature | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


async def watch_file(
    path: str | Path,
    known: str,
    *,
    interval: float,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[str | ConfigError, None]:
    """Yields each new text of the file, or why it can't be read. Never ends; looks every ``interval`` s."""
    watch = FileWatch(path, known)
    while True:
        await sleep(interval)
        try:
            text = await asyncio.to_thread(watch.look)
        except ConfigError as error:
            yield error
        else:
            if text is not None:
                yield text
