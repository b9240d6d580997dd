"""Damaged pages of the record are set aside, and damaged cells mended: all else can then be read, and an alarm of the
route tells what is missing."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from gateway.record.events import Reward
from gateway.record.page import BadPage, DamagedPage
from gateway.state import shapes
from gateway.state.base import StoreUnavailable
from gateway.state.store import DocumentStore

T = TypeVar("T")
log = logging.getLogger("turnout.store")

KIND: Final = shapes.kind("damage", {"pages?": int, "cells?": int, "rewards?": int, "last?": shapes.time})
"""The kind of the documents that count, by route, the pages set aside."""
MAX_TRIES: Final = 5


CELL_FAULTS: Final = (ValueError, TypeError, LookupError, OverflowError, struct.error)
"""What reading a damaged cell raises."""


class DamagedCells(Exception):
    """A cell of the aggregates can't be read. ``routes``: those that may have it; empty: any."""

    def __init__(self, routes: Collection[str]) -> None:
        super().__init__(", ".join(sorted(routes)))
        self.routes = routes


@dataclass(slots=True)
class Mended:
    """What was done about the damaged cells of a route."""

    repaired: int = 0
    lost: int = 0
    """Of the cells, those whose figures could not be computed again."""
    last: float = 0.0
    """The start of the last lost one."""


@contextmanager
def cells_of(routes: Collection[str] = ()) -> Iterator[None]:
    """Turns what reading a damaged cell raises into `DamagedCells`."""
    try:
        yield
    except BadPage:
        raise
    except CELL_FAULTS as error:
        raise DamagedCells(routes) from error


async def around(
    read: Callable[[], Awaitable[T]],
    set_aside: Callable[[DamagedPage], Awaitable[None]],
    mend: Callable[[Collection[str]], Awaitable[bool]],
) -> T:
    """What ``read`` returns once nothing that it meets is damaged. Raises StoreUnavailable."""
    mended = True
    while True:
        try:
            return await read()
        except DamagedCells as error:
            if not mended:
                raise error.__cause__ or error from None  # it is not the data
            mended = await mend(error.routes)  # if not, another reader may have done it meanwhile
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, DamagedPage):
                raise
            await set_aside(error.__cause__)


async def note(store: DocumentStore, route: str, damage: DamagedPage, last: float) -> None:
    """Count a page of ``route`` that was set aside; ``last``: the time of its last decision."""
    log.error("%s; page %s of the route %s was set aside", damage, damage.place, route)
    await _count(store, route, "pages", 1, last)


async def note_cells(store: DocumentStore, route: str, mended: Mended) -> None:
    """Log what was mended of ``route``, and count what was lost."""
    log.error(
        "%d damaged cells of the sums of the route %s were mended, %d of them without their figures",
        mended.repaired,
        route,
        mended.lost,
    )
    if mended.lost:
        await _count(store, route, "cells", mended.lost, mended.last)


async def note_rewards(store: DocumentStore, route: str, replacing: Sequence[Reward]) -> None:
    """Count reports for decisions and metrics of ``route`` whose rewards were damaged: those with a value replaced
    them, retractions left them as they were."""
    log.error("%d reports for the route %s met a damaged reward", len(replacing), route)
    await _count(store, route, "rewards", len(replacing), max(reward.decided for reward in replacing))


async def _count(store: DocumentStore, route: str, what: str, number: int, last: float) -> None:
    for _ in range(MAX_TRIES):
        version, text = await store.load(KIND, route) or (0, "{}")
        found = _NOTHING | json.loads(text)
        found |= {what: found[what] + number, "last": max(found["last"], last)}
        if await store.save(KIND, route, json.dumps(found), expected=version):
            return


_NOTHING: Final = {"pages": 0, "cells": 0, "rewards": 0, "last": 0.0}


def message(text: str | None, now: float, kept: float) -> str:
    """ "" or what the document ``text`` of a route tells; of what is kept for ``kept`` seconds."""
    found = _NOTHING | json.loads(text) if text is not None else _NOTHING
    if found["last"] < now - kept or not any(found.values()):
        return ""
    last = datetime.fromtimestamp(found["last"], UTC).isoformat(" ", "seconds")
    told = []
    if found["pages"]:
        told.append(
            f"Damaged pages of the record, of at most 1,024 outcomes each, were set aside ({found['pages']}, the last "
            f"of {last}): lists, exports and comparisons by unit lack these outcomes."
        )
    if found["cells"]:
        told.append(
            f"Figures of damaged cells are lost ({found['cells']}, the last of {last}): counts, latencies, sums of "
            "rewards or sums over features lack those of their times."
        )
    if found["rewards"]:
        told.append(
            f"New reports met damaged rewards ({found['rewards']} reports, the last of {last}): "
            "sums still count the damaged values."
        )
    if not (found["cells"] or found["rewards"]):
        told.append("Counts and sums of rewards are whole.")
    return " ".join([*told, "See that disk and memory of the store are sound."])
