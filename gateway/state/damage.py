"""Damaged pages of the record are set aside: all else can then be read, and an alarm of the route tells of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from gateway.record.page import DamagedPage
from gateway.state.base import StoreUnavailable
from gateway.state.store import DocumentStore

T = TypeVar("T")
log = logging.getLogger("turnout.store")

KIND: Final = "damage"
"""The kind of the documents that count, by route, the pages set aside."""
MAX_TRIES: Final = 5


async def around(read: Callable[[], Awaitable[T]], set_aside: Callable[[DamagedPage], Awaitable[None]]) -> T:
    """What ``read`` returns once no page that it meets is damaged. Raises StoreUnavailable."""
    while True:
        try:
            return await read()
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, DamagedPage):
                raise
            await set_aside(error.__cause__)


async def note(store: DocumentStore, route: str, damage: DamagedPage, last: float) -> None:
    """Count a page of ``route`` that was set aside; ``last``: the time of its last decision."""
    log.error("%s; page %s of the route %s was set aside", damage, damage.place, route)
    for _ in range(MAX_TRIES):
        version, text = await store.load(KIND, route) or (0, '{"pages": 0, "last": 0.0}')
        before = json.loads(text)
        after = {"pages": before["pages"] + 1, "last": max(before["last"], last)}
        if await store.save(KIND, route, json.dumps(after), expected=version):
            return


def message(text: str | None, now: float, kept: float) -> str:
    """ "" or what the document ``text`` of a route tells; of pages that are kept for ``kept`` seconds."""
    found = json.loads(text) if text is not None else None
    if found is None or found["last"] < now - kept:
        return ""
    last = datetime.fromtimestamp(found["last"], UTC).isoformat(" ", "seconds")
    return (
        f"Damaged pages of the record, of at most 1,024 outcomes each, were set aside ({found['pages']}, the last of "
        f"{last}): lists, exports and comparisons by unit lack these outcomes. Counts and sums of rewards are whole. "
        "See that disk and memory of the store are sound."
    )
