"""Detection of changed files by polling, which works on every file system."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from gateway.config.load import ConfigError, read_text

Signature = tuple[int, int, int]
"""Inode, size and time of change in nanoseconds, of which one changes when a file is written or replaced."""


def signature(path: str | Path) -> Signature | None:
    """The signature of a file; None if absent. Follows links, so that it notices directories swapped by Kubernetes."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # a path with a NUL
        return None
    # Not st_mtime: a file that could not be read is not written when its permissions are mended.
    return found.st_ino, found.st_size, found.st_ctime_ns


class FileWatch:
    """Detects new text in a file by periodic calls of `look`.

    A change is reported once two consecutive calls find the same file, which skips files that are being written
    or replaced.
    """

    def __init__(self, path: str | Path, known: str) -> None:
        """``known``: the text that the caller has."""
        self._path = path
        self._known = known
        self._seen: Signature | None = None
        self._settled: Signature | None = None
        self.unreadable = False
        """Whether the last reading failed."""

    def read(self) -> str | None:
        """The new text, read now; None if it has not changed. Raises ConfigError."""
        self.unreadable = True
        text = read_text(self._path)
        self.unreadable = False
        if text == self._known:
            return None
        self._known = text
        return text

    def look(self) -> str | None:
        """The new text, or None. Raises ConfigError once for each change that cannot be read."""
        now = signature(self._path)
        changed, self._seen = now != self._seen, now
        known = now == self._settled
        if now is None or changed or (known and not self.unreadable):
            return None
        self._settled = now
        try:
            return self.read()  # again, if it failed: too many files may have been open, or a disk not ready
        except ConfigError:
            if known:
                return None
            raise


Signatures = Mapping[str, Signature | None]
"""Signatures of files by path."""


def signatures(paths: Iterable[str]) -> Signatures:
    return {path: signature(path) for path in paths}


class FilesWatch:
    """Detects changes of the files that a configuration was built with, by the rule of `FileWatch`."""

    def __init__(self) -> None:
        self._seen: Signatures = {}
        self._told: Signatures = {}

    def look(self, built: Signatures) -> bool:
        """Whether the files differ from those that were ``built``; True once for each change."""
        now = signatures(built)
        settled, self._seen = now == self._seen, now
        if not settled or now in (built, self._told) or None in now.values():
            return False
        self._told = now
        return True
