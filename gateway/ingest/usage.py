"""Token counts, costs and speed of responses, counted and stored as rewards that the gateway itself reports."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Final

from prometheus_client import Histogram

from gateway.config.document import Document
from gateway.config.route import PriceConfig
from gateway.ingest.rewards import RewardIngest
from gateway.record.events import Outcome, Reward
from gateway.record.usage import Usage, UsageReader
from gateway.state.base import StoreUnavailable

log = logging.getLogger("turnout.usage")

FLUSH_S: Final = 0.25
MAX_WAITING: Final = 20_000
"""Values that may wait for the store; beyond it new ones are dropped."""
TELL_S: Final = 60.0
"""Between two lines of the log about dropped values."""
_TOKENS_OF_PRICE: Final = 1e6


class UsageRewards:
    """The usage that one process sees."""

    def __init__(
        self, rewards: RewardIngest, document: Callable[[], Document], first_token: Histogram
    ) -> None:
        """``first_token``: of seconds, by route and variant that served."""
        self._rewards = rewards
        self._first_token = first_token
        self._document = document
        self._waiting: list[Reward] = []
        self.tokens: Counter[tuple[str, str, str]] = Counter()
        """By route, variant that served, and input | output | cached."""
        self.cost: Counter[tuple[str, str]] = Counter()
        self.missing: Counter[tuple[str, str]] = Counter()
        """Good responses without token counts."""
        self.dropped = 0
        """Values beyond `MAX_WAITING`, and those that waited at the end."""
        self._told = 0
        self._silent_until = 0.0

    def offer(self, row: tuple[object, ...], context: bytes, reader: UsageReader) -> None:
        """Take what a response said; does not wait.

        Args:
            row: The fields of its `Outcome`.
            context: The features that led to the decision, packed.
            reader: Has read the response.
        """
        outcome = Outcome._make(row)
        route = self._document().routes.get(outcome.route)
        if not outcome.served or route is None or outcome.served not in route.variants:
            return
        values: dict[str, float] = {}
        if reader.first_token_ms is not None:
            values["first_token_ms"] = reader.first_token_ms
            self._first_token.labels(outcome.route, outcome.served).observe(reader.first_token_ms / 1e3)
        usage = reader.usage()
        if usage is None:
            self.missing[outcome.route, outcome.served] += 1
        else:
            values |= self._counted(outcome, usage, route.variants[outcome.served].price)
        for name, metric in self._document().metrics.items():
            if metric.usage is not None and metric.usage in values:
                reward = self._rewards.observed(outcome, name, values[metric.usage], context)
                if reward is None:
                    continue
                if len(self._waiting) < MAX_WAITING:
                    self._waiting.append(reward)
                else:
                    self.dropped += 1

    def _counted(self, outcome: Outcome, usage: Usage, price: PriceConfig | None) -> dict[str, float]:
        """Count the tokens of one response; returns its values by the names that metrics give them."""
        key = (outcome.route, outcome.served)
        for kind, count in usage._asdict().items():
            self.tokens[(*key, kind)] += count
        values: dict[str, float] = {
            "input_tokens": usage.input,
            "output_tokens": usage.output,
            "total_tokens": usage.input + usage.output,
        }
        if usage.output and outcome.total_ms > 0:
            values["tokens_per_second"] = usage.output / outcome.total_ms * 1e3
        if price is not None:
            values["cost"] = cost = cost_of(usage, price)
            self.cost[key] += cost  # type: ignore[assignment]  # a total of money
        return values

    async def run(self) -> None:
        """Store values periodically until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def close(self) -> None:
        """Store what still waits; what can't be stored is lost."""
        await self.flush()
        if self._waiting:
            log.error("%d values of usage could not be stored and are lost", len(self._waiting))
            self.dropped += len(self._waiting)
            self._waiting.clear()

    async def flush(self) -> None:
        """Store what waits; it goes on waiting if neither the store nor the spool accepts it."""
        self._tell_dropped()
        batch = self._waiting[:]  # they wait until they are stored: this call may be cancelled
        try:
            if batch:
                await self._rewards.keep(batch)
        except StoreUnavailable:
            return
        except Exception:
            log.exception("%d values of usage could not be stored", len(batch))
        del self._waiting[: len(batch)]

    def _tell_dropped(self) -> None:
        if self.dropped > self._told and monotonic() >= self._silent_until:
            log.warning(
                "%d values of usage were dropped: %d wait, and neither the store nor the spool takes them",
                self.dropped - self._told,
                len(self._waiting),
            )
            self._told, self._silent_until = self.dropped, monotonic() + TELL_S


def cost_of(usage: Usage, price: PriceConfig) -> float:
    """The cost of one response, in the currency of ``price``."""
    cached = price.cached_input if price.cached_input is not None else price.input
    fresh = max(0, usage.input - usage.cached)
    total = fresh * price.input + usage.cached * cached + usage.output * price.output
    return total / _TOKENS_OF_PRICE
