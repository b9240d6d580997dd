"""What the rewards of a bandit with features say, as the sums behind its posteriors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from gateway.state.store import Store
from policies.contextual.bandit import Contextual, discounted
from policies.contextual.features import fingerprint
from policies.contextual.regression import LinearSums

MAX_HALF_LIVES: Final = 12
"""Half-lives after which a discounted reward no longer matters (2^-12)."""


async def linear_sums(store: Store, route: str, plan: Contextual, *, now: float) -> dict[str, LinearSums]:
    """Return the sums of the plan's metric by variant; with a half-life, old rewards count less."""
    features = fingerprint(plan.features).hex()
    if plan.half_life is None:
        return _of_metric(await store.linear_sums(route, features), plan.metric)
    buckets = await store.linear_series(route, features, since=now - MAX_HALF_LIVES * plan.half_life)
    each = [(start, _of_metric(sums, plan.metric)) for start, sums in buckets]
    return await asyncio.to_thread(discounted, each, now=now, half_life=plan.half_life)


def _of_metric(sums: Mapping[tuple[str, str], LinearSums], metric: str) -> dict[str, LinearSums]:
    return {variant: one for (variant, name), one in sums.items() if name == metric}
