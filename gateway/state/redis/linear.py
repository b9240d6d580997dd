"""Sums over rows of features: added up and folded. `lua/reward.lua` writes them."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.state.folding import LINEAR_LADDER
from gateway.state.linear import summed
from gateway.state.redis.codec import linear_parts
from gateway.state.redis.link import Link
from gateway.state.redis.script import Script
from gateway.state.redis.sums import ALL, as_fields
from policies.contextual.regression import LinearSums

_FOLD_LINEAR: Final = Script.load("fold_linear")
_MAX_STEP_BUCKETS: Final = 20
"""Buckets that one step of upkeep touches at most: a script with wide cells must not hold rewards up."""

Sums = dict[tuple[str, str], LinearSums]


async def totals(link: Link, route: str, fingerprint: str) -> Sums:
    """By (variant, metric); what is down to no rows at all is left out."""
    found = _sums(await link.command("HGETALL", f"{link.of_route(route)}:l:{ALL}"), fingerprint)
    return {key: sums for key, sums in found.items() if sums.count}


async def series(link: Link, route: str, fingerprint: str, *, since: float) -> list[tuple[float, Sums]]:
    """Oldest first."""
    base = link.of_route(route)
    starts = [int(start) for start in await link.command("ZRANGEBYSCORE", f"{base}:linear", since, "+inf")]
    replies = await link.commands([("HGETALL", f"{base}:l:{start}") for start in starts])
    each = await asyncio.to_thread(lambda: [_sums(reply, fingerprint) for reply in replies])
    return [(float(start), sums) for start, sums in zip(starts, each, strict=True) if sums]


def _sums(reply: object, wanted: str) -> Sums:
    found = {}
    for field, cell in as_fields(reply).items():
        variant, metric, fingerprint = linear_parts(field)
        if fingerprint == wanted:
            found[variant, metric] = summed([cell])
    return dict(sorted(found.items()))


async def fold(link: Link, base: str, now: float) -> bool:
    """Folds some of the oldest buckets that are finer than their age allows; False when there are none."""
    for age, width in LINEAR_LADDER:
        edge = int((now - age) // width) * width
        found = await link.command("ZRANGEBYSCORE", f"{base}:linear", "-inf", f"({edge}")
        fine = [int(start) for start in found if int(start) % width]
        if fine:
            coarse = fine[0] - fine[0] % width
            inside = [start for start in fine if start < coarse + width]
            await link.run(_FOLD_LINEAR, base, coarse, *inside[:_MAX_STEP_BUCKETS])
            return True
    return False


async def forget(link: Link, base: str, before: float) -> bool:
    """Takes buckets that begin before ``before`` out of the totals too; True while there is more to do."""
    old = await link.command(
        "ZRANGEBYSCORE", f"{base}:linear", "-inf", f"({before!r}", "LIMIT", 0, _MAX_STEP_BUCKETS
    )
    if old:
        await link.run(_FOLD_LINEAR, base, "", *old)
    return len(old) == _MAX_STEP_BUCKETS
