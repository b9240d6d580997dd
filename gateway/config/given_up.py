"""What a route gives up on an engine: `turnout check` says it, and the docs have the same tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from gateway.config.document import Document

TABLES: Final = tuple(
    Path(__file__).with_name("given_up.md").read_text(encoding="utf-8").strip().split("\n\n")
)
"""In Markdown: the proxies, and weights. A row names what differs, then what each does about it, the gateway first.
"refused" is what no valid document uses."""
_PLACES: Final = {"envoy": (0, 2), "haproxy": (0, 3), "kubernetes": (1, 2)}
"""By type of engine: its table, and its column there."""
_LINK: Final = re.compile(r"\[([^]]*)\]\([^)]*\)")


class GivenUp(NamedTuple):
    """What some routes of one engine give up."""

    engine: str
    type: str
    routes: tuple[str, ...]
    differences: tuple[str, ...]
    """A line each: what differs, and what the engine does about it."""


def given_up(document: Document) -> Iterator[GivenUp]:
    """By engine with a route: what its routes give up, compared with the same routes on the gateway."""
    for name, engine in document.engines.items():
        if routes := document.engine_routes(name):
            lines = [
                line
                for line in _differences(engine.type)
                if engine.ids == "stamped" or not line.startswith("reward of a request")
            ]
            yield GivenUp(name, engine.type, tuple(routes), tuple(lines))


def _differences(kind: str) -> Iterator[str]:
    table, column = _PLACES[kind]
    for row in TABLES[table].splitlines()[2:]:
        cells = [cell.strip() for cell in _LINK.sub(r"\1", row).replace("`", "'").split("|")[1:-1]]
        does = cells[column]
        if does != cells[1] and does.partition(",")[0] not in ("yes", "refused"):
            yield f"{cells[0]}: {does}"
