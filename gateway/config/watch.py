"""Watching files by looking at them: the one way that works on every file system."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from gateway.config.load import read_text

Signature = tuple[int, int, int]
"""Inode, size, time of change in nanoseconds: what moves when a file is written or replaced."""


def signature(path: str | Path) -> Signature | None:
    """None where there is no such file. Links are followed, so the directories that Kubernetes swaps are seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class FileWatch:
    """Detects new text in a file. `look` is called at intervals, and returns without waiting.

    A change is reported once two consecutive looks find the same file, so that half-written
    files and the moment in which a file is being replaced pass by.
    """

    def __init__(self, path: str | Path, known: str) -> None:
        """``known`` is the text that the caller has already."""
        self._path = path
        self._known = known
        self._seen: Signature | None = None
        self._settled: Signature | None = None

    def look(self) -> str | None:
        """The new text, or None. Raises `ConfigError` once when the file exists and can't be read."""
        now = signature(self._path)
        changed, self._seen = now != self._seen, now
        if now is None or changed or now == self._settled:
            return None
        self._settled = now
        text = read_text(self._path)
        if text == self._known:
            return None
        self._known = text
        return text


Signatures = Mapping[str, Signature | None]
"""By path."""


def signatures(paths: Iterable[str]) -> Signatures:
    return {path: signature(path) for path in paths}


class FilesWatch:
    """Tells when any of the files that a configuration was built with has changed, by the same rule."""

    def __init__(self) -> None:
        self._seen: Signatures = {}
        self._told: Signatures = {}

    def look(self, built: Signatures) -> bool:
        """Whether the files are other ones than those that were ``built``; once for each change."""
        now = signatures(built)
        settled, self._seen = now == self._seen, now
        if not settled or now in (built, self._told) or None in now.values():
            return False
        self._told = now
        return True
