"""The dashboard's files, read once, with what a browser needs to know of each.

A page is two or three requests: its HTML, which holds the sheet, one script, and on all pages but the first a part of
it, which the HTML names too, so that a browser loads both at a time. Scripts have a hash of their content in their
names, so that they are kept for good and a new version is taken immediately.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from dashboards.bundle import bundle, part, parts

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PARTS: Final = {
    "": "",
    "routes/[^/]+": "pages/decide.js",
    "routes/[^/]+/time": "pages/time.js",
    "routes/[^/]+/health": "pages/health.js",
    "routes/[^/]+/history": "pages/history.js",
    "routes/[^/]+/shadow/[^/]+": "pages/shadow.js",
    "outcomes": "pages/outcomes.js",
    "decisions/[^/]+": "pages/decision.js",
    "config": "pages/config.js",
    "events": "pages/events.js",
    "terms": "pages/terms.js",
}
"""By the path of a page, below that of the dashboard, the part that it needs next to the one script."""
PAGES: Final = re.compile("|".join(PARTS))
_APP: Final = "app.js"
_LOGIN: Final = "login.js"
_SHEET_LINK: Final = '<link rel="stylesheet" href="style.css">'
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
        self._pages: dict[tuple[str, str, str], Asset] = {}
        """By file, part, and the way from a page to the dashboard's own path."""

    def find(self, name: str) -> Asset | None:
        return self.assets.get(name)

    def page(self, name: str, path: str = "") -> Asset:
        """``index.html`` or ``login.html``, for a page at ``path``: what it names is found from there."""
        part = next((part for pattern, part in PARTS.items() if re.fullmatch(pattern, path)), "")
        key = name, part if name == "index.html" else "", "../" * path.count("/")
        if key not in self._pages:
            self._pages[key] = self._page(*key)
        return self._pages[key]

    def _page(self, name: str, part: str, home: str) -> Asset:
        early = f'<link rel="modulepreload" href="{home}{self._addresses[part]}">' if part else ""
        html = self._text(name).replace(_SHEET_LINK, f"<style>{self.sheet}</style>{early}")
        for source in (_APP, _LOGIN):
            html = html.replace(f'"{source}"', f'"{home}{self._addresses[source]}"')
        return _asset(html.encode(), ".html")

    @cached_property
    def sheet(self) -> str:
        """The text of the one sheet; pages hold it, and their policy allows no other."""
        return "".join(_SPARE.sub("", self._text(name)) for name in _SHEETS)

    @property
    def sheet_source(self) -> str:
        """The sheet as a source of a content security policy."""
        return f"'sha256-{base64.b64encode(hashlib.sha256(self.sheet.encode()).digest()).decode()}'"

    @cached_property
    def assets(self) -> dict[str, Asset]:
        found = {"mark.svg": _asset((self._root / "mark.svg").read_bytes(), ".svg")}
        for source, address in self._addresses.items():
            found[address] = _asset(self._scripts[source], ".js", immutable=True)
        return found

    @cached_property
    def _addresses(self) -> dict[str, str]:
        """By source, the name under which a script is served."""
        return {name: _hashed(name, body) for name, body in self._scripts.items()}

    @cached_property
    def _scripts(self) -> dict[str, bytes]:
        built = {name: part(name, _APP, self._text).encode() for name in parts(_APP, self._text)}
        addresses = {name: _hashed(name, body) for name, body in built.items()}
        built[_APP] = bundle(_APP, self._text, addresses).encode()
        built[_LOGIN] = bundle(_LOGIN, self._text).encode()
        return built

    def _text(self, name: str) -> str:
        found = self._root
        for step in name.split("/"):
            found = found / step
        return found.read_text("utf-8")


def _hashed(source: str, body: bytes) -> str:
    """ "time.0123456789abcdef.js" for "pages/time.js"."""
    stem = source.rsplit("/", 1)[-1].removesuffix(".js")
    return f"{stem}.{_digest(body)[:16]}.js"


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _asset(body: bytes, suffix: str, *, immutable: bool = False) -> Asset:
    zipped = gzip.compress(body, 9, mtime=0)
    gzipped = zipped if len(zipped) < len(body) else b""
    return Asset(body, TYPES[suffix], f'"{_digest(body)[:24]}"', gzipped, immutable)
