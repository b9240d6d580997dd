"""The aggregates, read."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil, fsum
from typing import Final, TypeVar

from gateway.runtime.collector import collector_paused
from gateway.state.base import BUCKET_S, Bucket, Counts
from gateway.state.exact import ExactSums, Expansion
from gateway.state.folding import Grouping, read_under
from gateway.state.redis.codec import cell_parts, unpack_counts, unpack_decided, unpack_shares
from gateway.state.redis.link import Link
from gateway.state.redis.script import Script
from gateway.state.tally import KEPT_CHANGES, start_of
from gateway.state.units import SEGMENT, metric_of
from policies.types import CLIENT_ERROR_RATE, RewardSums

T = TypeVar("T")
Fields = dict[bytes, bytes]
_NONE: Final = RewardSums()
_NO_CELLS: Final[Mapping[tuple[str, str], list[bytes]]] = {}
ALL = "all"
"""The bucket that holds the sum of all others."""
_READ_CELLS: Final = Script.load("read_cells")
_BUCKETS_PER_CALL: Final = 200
"""Buckets that one script reads at most."""
MAX_CELLS_PER_CALL: Final = 2000
"""Cells after which it reads no further bucket: about 3 ms of the server's time."""
_CELL: Final = struct.Struct("<IHI")


async def _packed(
    link: Link,
    route: str,
    letter: str,
    since: float | None,
    until: float | None,
    *,
    heads: bool = False,
    segments: bool = False,
) -> list[bytes]:
    """The cells of all buckets, oldest first, for `_unpacked`; ``letter``: c(ounts), s(ums); ``heads``: counts alone,
    without histograms; ``segments``: sums of each segment, instead of all. The cells of many come in one string: the
    event loop would parse thousands of replies."""
    low = "-inf" if since is None else str(start_of(since))
    high = "+inf" if until is None else f"({until!r}"
    packed: list[bytes] = []
    while low:
        limits = low, high, _BUCKETS_PER_CALL, MAX_CELLS_PER_CALL
        what = letter, int(heads), *limits, int(segments)
        cells, last = await link.run(_READ_CELLS, link.of_route(route), *what)
        packed.append(cells)
        low = f"({_text(last)}" if last else ""
    return packed


def _unpacked(parts: Sequence[bytes]) -> list[tuple[int, Fields]]:
    """Start and cells of each bucket that `read_cells.lua` packed. Of months, this takes a second: call it in a
    thread."""
    packed = b"".join(parts)
    found: dict[int, Fields] = {}
    at = 0
    while at < len(packed):
        start, name, cell = _CELL.unpack_from(packed, at)
        at += _CELL.size
        found.setdefault(start, {})[packed[at : at + name]] = packed[at + name : at + name + cell]
        at += name + cell
    return list(found.items())


def as_fields(reply: object) -> Fields:
    """HGETALL's reply, whichever form the client gives it."""
    if isinstance(reply, dict):
        return reply
    assert isinstance(reply, list)
    return dict(zip(reply[::2], reply[1::2], strict=True))


Cells = dict[tuple[str, str], list[bytes]]
"""By variant and metric."""


async def _cells(
    link: Link,
    route: str,
    letter: str,
    since: float | None,
    until: float | None,
    epoch: int | None,
    make: Callable[[Cells], T],
    *,
    heads: bool = False,
    segments: bool = False,
) -> T:
    """What ``make`` returns of all cells that the limits let through; it runs in a thread."""
    if since is None and until is None and epoch is None:
        every = as_fields(await link.command("HGETALL", f"{link.of_route(route)}:{letter}:{ALL}"))
        return await asyncio.to_thread(lambda: make(_by_key([every], None, segments)))
    parts = await _packed(link, route, letter, since, until, heads=heads, segments=segments)
    return await asyncio.to_thread(
        lambda: make(_by_key([fields for _, fields in _unpacked(parts)], epoch, segments))
    )


def _by_key(groups: Iterable[Fields], epoch: int | None, segments: bool) -> Cells:
    found: Cells = {}
    for fields in groups:
        for field, cell in fields.items():
            of_epoch, variant, metric = cell_parts(field)
            if (epoch is None or of_epoch == epoch) and (SEGMENT in metric) == segments:
                found.setdefault((variant, metric), []).append(cell)
    return dict(sorted(found.items()))


async def _before(
    link: Link,
    route: str,
    letter: str,
    until: float,
    make: Callable[[Cells, Cells], T],
    *,
    heads: bool = False,
    segments: bool = False,
) -> T:
    """What ``make`` returns, in a thread, of what makes up all that was before ``until``: the totals, and what is to be
    taken from them. There are thousands of old buckets, and few that are new."""
    next_start = ceil(until / BUCKET_S) * BUCKET_S
    # First what is new: of a value that comes meanwhile the totals know, too.
    newer = await _packed(link, route, letter, next_start, None, heads=heads, segments=segments)
    total = await link.command("HGETALL", f"{link.of_route(route)}:{letter}:{ALL}")

    def made() -> T:
        taken = [fields for _, fields in _unpacked(newer)]
        return make(_by_key([as_fields(total)], None, segments), _by_key(taken, None, segments))

    return await asyncio.to_thread(made)


async def decided(
    link: Link, route: str, since: float | None, until: float | None, epoch: int | None
) -> dict[str, tuple[int, int, int]]:
    """Assigned, those whose response was seen, and errors, by variant."""
    if since is None and epoch is None and until is not None:
        return await _before(link, route, "c", until, _decided, heads=True)
    return await _cells(link, route, "c", since, until, epoch, _decided, heads=True)


def _decided(
    cells: Cells, newer: Mapping[tuple[str, str], list[bytes]] = _NO_CELLS
) -> dict[str, tuple[int, int, int]]:
    made = {}
    for key, found in cells.items():
        assigned, seen, errors = _sum_decided(found)
        later = _sum_decided(newer.get(key, []))
        if assigned > later[0]:
            made[key[0]] = (assigned - later[0], seen - later[1], errors - later[2])
    return made


def _sum_decided(cells: Sequence[bytes]) -> tuple[int, int, int]:
    each = [unpack_decided(cell) for cell in cells]
    return sum(one[0] for one in each), sum(one[1] for one in each), sum(one[2] for one in each)


async def counts(
    link: Link, route: str, since: float | None, until: float | None, epoch: int | None
) -> dict[str, Counts]:
    def make(cells: Cells) -> dict[str, Counts]:
        return {variant: unpack_counts(found) for (variant, _), found in cells.items()}

    return await _cells(link, route, "c", since, until, epoch, make)


async def reward_sums(
    link: Link,
    route: str,
    since: float | None,
    until: float | None,
    epoch: int | None,
    segments: bool = False,
) -> dict[tuple[str, str], RewardSums]:
    if since is None and epoch is None and until is not None:
        return await _before(link, route, "s", until, _reward_sums, segments=segments)
    return await _cells(link, route, "s", since, until, epoch, _reward_sums, segments=segments)


def _reward_sums(
    cells: Cells, newer: Mapping[tuple[str, str], list[bytes]] = _NO_CELLS
) -> dict[tuple[str, str], RewardSums]:
    summed = {key: summed_up(found, newer.get(key, ())) for key, found in cells.items()}
    return {key: sums for key, sums in summed.items() if sums.count}


def summed_up(cells: Sequence[bytes], less: Sequence[bytes] = ()) -> RewardSums:
    """The sum of the cells, without those that are ``less``."""
    added, taken = list(map(ExactSums.unpack, cells)), list(map(ExactSums.unpack, less))
    return RewardSums(
        sum(one.count for one in added) - sum(one.count for one in taken),
        _rounded([one.total for one in added], [one.total for one in taken]),
        _rounded([one.squares for one in added], [one.squares for one in taken]),
    )


def _rounded(added: Sequence[Expansion], taken: Sequence[Expansion]) -> float:
    """The float nearest to the exact sum."""
    return fsum([*(x for one in added for x in one.parts), *(-x for one in taken for x in one.parts)])


async def series(
    link: Link,
    route: str,
    *,
    since: float,
    until: float,
    step: float,
    epochs: Grouping = "each",
    histograms: bool = True,
    segments: bool = False,
) -> list[Bucket]:
    """Oldest first, then by variant and epoch."""
    counts = await _packed(link, route, "c", since, until, heads=not histograms)
    rewards = await _packed(link, route, "s", since, until, segments=segments)
    return await asyncio.to_thread(_series, counts, rewards, int(step), epochs)


async def reduced_series(
    link: Link,
    route: str,
    make: Callable[[list[Bucket]], T],
    *,
    since: float,
    until: float,
    step: float,
    epochs: Grouping = "alike",
    histograms: bool = False,
) -> T:
    """What ``make`` returns of the `series`."""
    counts = await _packed(link, route, "c", since, until, heads=not histograms)
    rewards = await _packed(link, route, "s", since, until, segments=False)

    @collector_paused
    def reduced() -> T:
        return make(_series(counts, rewards, int(step), epochs))

    return await asyncio.to_thread(reduced)


def _series(counts: Sequence[bytes], rewards: Sequence[bytes], width: int, epochs: Grouping) -> list[Bucket]:
    outcomes, sums = _by_bucket(_unpacked(counts), width), _by_bucket(_unpacked(rewards), width)
    under = read_under(
        epochs,
        ((start, epoch, variant, *unpack_shares(cell)) for start, epoch, variant, _, cell in outcomes),
        ((start, epoch) for start, epoch, *_ in sums),
    )
    counted: dict[tuple[int, str, int], list[bytes]] = {}
    rewarded: dict[tuple[int, str, int], dict[str, list[bytes]]] = {}
    for start, epoch, variant, _, cell in outcomes:
        counted.setdefault((start, variant, under[start, epoch]), []).append(cell)
    for start, epoch, variant, metric, cell in sums:
        rewarded.setdefault((start, variant, under[start, epoch]), {}).setdefault(metric, []).append(cell)
    made = []
    for key in sorted(counted.keys() | rewarded.keys()):
        summed = {metric: summed_up(cells) for metric, cells in rewarded.get(key, {}).items()}
        kept = {metric: one for metric, one in summed.items() if one != _NONE}
        made.append(Bucket(float(key[0]), key[1], key[2], unpack_counts(counted.get(key, [])), kept))
    return made


def _by_bucket(found: Sequence[tuple[int, Fields]], width: int) -> list[tuple[int, int, str, str, bytes]]:
    """Start of the bucket of ``width`` seconds, epoch, variant, metric and content of each cell."""
    return [
        (start - start % width, *cell_parts(field), cell)
        for start, fields in found
        for field, cell in fields.items()
    ]


async def changed_cells(link: Link, route: str, *, since: int) -> tuple[int, list[int] | None]:
    """The version of the cells, and which buckets changed after ``since``; None if that is not known."""
    base = link.of_route(route)
    stored = await link.command("GET", f"{base}:cells_version")
    version = int(stored) if stored is not None and stored.isdigit() else 0  # the next write mends it
    if not max(version - KEPT_CHANGES, 0) <= since <= version:
        return version, None
    found = await link.command("ZRANGEBYSCORE", f"{base}:changed_cells", f"({since}", "+inf")
    return version, list(map(int, found))


async def agreement(link: Link, route: str, *, since: float | None = None) -> dict[str, tuple[int, int, int]]:
    found: dict[str, Counter[str]] = {}
    starts = [ALL] if since is None else await _shadow_starts(link, route, since, "+inf")
    for _, shadow, figure, count in await _shadow_cells(link, route, starts):
        found.setdefault(shadow, Counter())[figure] += count
    return {s: (f["answers"], f["compared"], f["agreeing"]) for s, f in sorted(found.items()) if f["answers"]}


async def agreement_series(
    link: Link, route: str, *, since: float, until: float, step: float
) -> list[tuple[float, str, int, int]]:
    """Oldest first, then by shadow."""
    width = int(step)
    found: dict[tuple[int, str], Counter[str]] = {}
    starts = await _shadow_starts(link, route, since, f"({until!r}")
    for start, shadow, figure, count in await _shadow_cells(link, route, starts):
        begin = int(start) - int(start) % width
        found.setdefault((begin, shadow), Counter())[figure] += count
    return [(float(start), s, f["compared"], f["agreeing"]) for (start, s), f in sorted(found.items())]


async def _shadow_starts(link: Link, route: str, since: float, until: str) -> list[str]:
    starts = await link.command(
        "ZRANGEBYSCORE", f"{link.of_route(route)}:shadow_cells", start_of(since), until
    )
    return [_text(start) for start in starts]


async def _shadow_cells(link: Link, route: str, starts: Sequence[str]) -> list[tuple[str, str, str, int]]:
    """(start, shadow, figure, count) of each cell."""
    replies = await link.commands([("HGETALL", f"{link.of_route(route)}:a:{start}") for start in starts])
    found = []
    for start, reply in zip(starts, replies, strict=True):
        for field, count in as_fields(reply).items():
            shadow, _, figure = field.decode().partition("\0")
            found.append((start, shadow, figure, int(count)))
    return found


def _text(start: bytes | str) -> str:
    return start if isinstance(start, str) else start.decode()


async def metric_names(link: Link, routes: Sequence[str]) -> list[str]:
    names: set[str] = set()
    for route in routes:
        fields = as_fields(await link.command("HGETALL", f"{link.of_route(route)}:s:{ALL}"))
        names |= {
            metric_of(cell_parts(field)[2]) for field, cell in fields.items() if ExactSums.unpack(cell).count
        }
    return sorted(names - {CLIENT_ERROR_RATE})
