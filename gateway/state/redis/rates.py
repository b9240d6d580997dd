"""Token buckets that all processes share: `gateway.state.store.RateLedger` on Redis."""

from __future__ import annotations

from typing import Final

from gateway.state.redis.link import Link
from gateway.state.redis.script import Script

_SPEND: Final = Script.load("spend")


class RedisRates:
    """One bucket of each key, in the store of ``link``."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def spend(self, key: str, rate: float, burst: float, spent: float, owner: str) -> tuple[float, int]:
        """Takes ``spent`` requests out; (level left, number of processes that used the bucket)."""
        arguments = (key, repr(rate), repr(burst), repr(spent), owner)
        level, owners = await self._link.run(_SPEND, self._link.of_all, *arguments)
        return float(level), int(owners)
