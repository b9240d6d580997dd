"""The dashboard's files, read once, with what a browser needs to know of each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file. ``etag`` with its quotes."""

    body: bytes
    media_type: str
    etag: str


class Site:
    """Every file below ``web/``, by its path there with ``/`` between parts."""

    def __init__(self, root: Traversable | None = None) -> None:
        self._root = root if root is not None else files("dashboards") / "web"

    def find(self, name: str) -> Asset | None:
        return self.assets.get(name)

    @cached_property
    def assets(self) -> dict[str, Asset]:
        return dict(_walk(self._root, ""))


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found = []
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            found += _walk(entry, f"{prefix}{entry.name}/")
        elif (media_type := TYPES.get(entry.name[entry.name.rfind(".") :])) is not None:
            body = entry.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
            found.append((prefix + entry.name, Asset(body, media_type, etag)))
    return found
