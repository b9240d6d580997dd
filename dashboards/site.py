"""The dashboard's files, read once, with what a browser needs to know of each.

A page is three requests: its HTML, one script and one sheet. The script and the sheet have a hash of their content
in their names, so that they are kept for good and a new version is taken immediately.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from dashboards.bundle import bundle

TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGES: Final = re.compile(
    r"(?:routes/[^/]+(?:/(?:time|health|history|shadow/[^/]+))?|outcomes|decisions/[^/]+|config|events)?"
)
"""The paths of the pages, below that of the dashboard; all are drawn by the one script."""
_SCRIPTS: Final = ("app.js", "login.js")
_SPARE: Final = re.compile(r"/\*.*?\*/|\n\s*|;?\s+(?=[{}])|(?<=[{};:,])\s+", re.DOTALL)
"""Of a sheet: comments, and the white space that sets it out."""
_SHEETS: Final = ("vendor/uplot.css", "style.css")


@dataclass(frozen=True, slots=True)
class Asset:
    """One file. ``etag`` with its quotes; ``gzipped`` is "" where that saves nothing."""

    body: bytes
    media_type: str
    etag: str
    gzipped: bytes
    immutable: bool


class Site:
    """What is served, by its path below the dashboard's."""

    def __init__(self, root: Traversable | None = None) -> None:
        self._root = root if root is not None else files("dashboards") / "web"

    def find(self, name: str) -> Asset | None:
        return self.assets.get(name)

    def page(self, name: str, path: str = "") -> Asset:
        """``index.html`` or ``login.html``, for a page at ``path``: what it names is found from there."""
        html = self._text(name)
        for source, hashed in self._hashed.items():
            html = html.replace(f'"{source}"', f'"{"../" * path.count("/")}{hashed}"')
        return _asset(html.encode(), ".html")

    @cached_property
    def assets(self) -> dict[str, Asset]:
        made = {"mark.svg": _asset((self._root / "mark.svg").read_bytes(), ".svg")}
        for source, hashed in self._hashed.items():
            suffix = source[source.rfind(".") :]
            made[hashed] = _asset(self._built[source], suffix, immutable=True)
        return made

    @cached_property
    def _hashed(self) -> dict[str, str]:
        """From a source's name to that under which it is served."""
        return {
            name: f"{name[: name.rfind('.')]}.{_digest(body)[:16]}{name[name.rfind('.') :]}"
            for name, body in self._built.items()
        }

    @cached_property
    def _built(self) -> dict[str, bytes]:
        scripts = {name: bundle(name, self._text).encode() for name in _SCRIPTS}
        sheet = "".join(_SPARE.sub("", self._text(name)) for name in _SHEETS)
        return scripts | {"style.css": sheet.encode()}

    def _text(self, name: str) -> str:
        found = self._root
        for part in name.split("/"):
            found = found / part
        return found.read_text("utf-8")


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _asset(body: bytes, suffix: str, *, immutable: bool = False) -> Asset:
    zipped = gzip.compress(body, 9, mtime=0)
    gzipped = zipped if len(zipped) < len(body) else b""
    return Asset(body, TYPES[suffix], f'"{_digest(body)[:24]}"', gzipped, immutable)
