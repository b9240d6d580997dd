"""Token buckets that all processes share: `gateway.loops.rates.RateLedger` on Redis."""

from __future__ import annotations

from typing import Final

from gateway.state.redis.link import Link
from gateway.state.redis.scripts import Script

SPEND: Final = Script(
    """
-- ARGV: key, rate, burst, spent, owner. Returns the level, and how many owners came in the last two seconds.
-- The level may fall below nothing (copies were spent before they were settled); that is paid back, at most a burst.
local key = KEYS[1] .. ':rate:' .. ARGV[1]
local rate, burst = tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local kept = redis.call('HMGET', key, 'level', 'then')
local level = burst
if kept[1] then level = math.min(burst, tonumber(kept[1]) + math.max(0, now - tonumber(kept[2])) * rate) end
level = math.max(level - tonumber(ARGV[4]), -burst)
redis.call('HSET', key, 'level', string.format('%.6f', level), 'then', string.format('%.6f', now))
redis.call('EXPIRE', key, math.ceil(2 * burst / rate) + 60)
local owners = key .. ':owners'
redis.call('ZREMRANGEBYSCORE', owners, '-inf', now - 2)
redis.call('ZADD', owners, now, ARGV[5])
redis.call('EXPIRE', owners, 60)
return {string.format('%.6f', level), redis.call('ZCARD', owners)}
"""
)


class RedisRates:
    """One bucket of each key, in the store of ``link``."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def spend(self, key: str, rate: float, burst: float, spent: float, owner: str) -> tuple[float, int]:
        """See `gateway.loops.rates.RateLedger`."""
        arguments = (key, repr(rate), repr(burst), repr(spent), owner)
        level, owners = await self._link.run(SPEND, self._link.of_all, *arguments)
        return float(level), int(owners)
