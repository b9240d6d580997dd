"""What is done about damaged cells of a route: they are removed, and their totals are made again of all others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from gateway.state.damage import CELL_FAULTS, Mended
from gateway.state.exact import ExactSums
from gateway.state.linear import ExactLinear
from gateway.state.redis.codec import cell_parts, linear_parts, unpack_counts
from gateway.state.redis.link import Link
from gateway.state.redis.script import Script
from gateway.state.redis.sums import ALL, as_fields

_REBUILD_TOTAL: Final = Script.load("rebuild_total")
_READERS: Final[tuple[tuple[str, str, Callable[[bytes, bytes], object]], ...]] = (
    ("c", "cells", lambda field, cell: (cell_parts(field), unpack_counts([cell]))),
    ("s", "cells", lambda field, cell: (cell_parts(field), ExactSums.unpack(cell))),
    ("l", "linear", lambda field, cell: (linear_parts(field), ExactLinear.unpack(cell))),
)

_BUCKETS_PER_TRIP: Final = 50


async def mend(link: Link, route: str) -> Mended:
    """Remove the cells of a route that can't be read. Raises StoreUnavailable."""
    found, base = Mended(), link.of_route(route)
    for letter, index, read in _READERS:
        starts = [start.decode() for start in await link.command("ZRANGE", f"{base}:{index}", 0, -1)]
        totals: set[bytes] = set()
        async for start, key, cells in _buckets(link, f"{base}:{letter}", [ALL, *starts]):
            for field, cell in cells.items():
                try:
                    read(field, cell)
                except CELL_FAULTS:
                    if start == ALL:
                        found.repaired += 1
                    elif await link.command("HDEL", key, field):  # if not, another reader was faster
                        found.repaired += 1
                        found.lost += 1
                        found.last = max(found.last, float(start))
                    totals.add(field if letter == "l" else b"-1:" + field.partition(b":")[2])
        # One at a time: all histograms of a route would hold up Redis for seconds.
        for field in sorted(totals):
            await link.run(_REBUILD_TOTAL, base, letter, index, field)
    if found.repaired:
        # All readers of the cells read all of them again: the next version is behind all others.
        await link.command("DEL", f"{base}:cells_version", f"{base}:changed_cells")
    return found


async def _buckets(
    link: Link, base: str, starts: Sequence[str]
) -> AsyncIterator[tuple[str, str, Mapping[bytes, bytes]]]:
    """The start, key and cells of each bucket, a few buckets a round trip."""
    for at in range(0, len(starts), _BUCKETS_PER_TRIP):
        some = starts[at : at + _BUCKETS_PER_TRIP]
        keys = [f"{base}:{start}" for start in some]
        replies = await link.commands([("HGETALL", key) for key in keys])
        for start, key, reply in zip(some, keys, replies, strict=True):
            yield start, key, as_fields(reply)
