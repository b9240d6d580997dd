"""What covariates and segments of a route cost where its rewards are written: each reward is counted again with each.

    python -m benchmarks.writing [--rewards 20000] [--rounds 5] [--redis redis://127.0.0.1:6379]

The rewards of new decisions of 100 users, 500 a batch, as the gateway writes them. Processor time is that of this
process, all threads together; the kinds take turns, and the median of the rounds is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from statistics import median
from typing import Final

from gateway.record.context import pack_values
from gateway.record.events import Reward
from gateway.state import open_store
from gateway.state.store import Store
from policies.contextual.features import COVARIATE_BYTES, SEGMENT_BYTES

BATCH: Final = 500
_SEGMENTS: Final = [bytes([n]) * SEGMENT_BYTES for n in (1, 2)]
_COVARIATES: Final = [(bytes([n]) * COVARIATE_BYTES, 0.25) for n in (1, 2, 3)]
KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "plain": ("", ""),
    "1 covariate": (pack_values((), _COVARIATES[:1]).hex(), ""),
    "2 covariates": (pack_values((), _COVARIATES[:2]).hex(), ""),
    "3 covariates": (pack_values((), _COVARIATES).hex(), ""),
    "2 segments": (pack_values(_SEGMENTS).hex(), ""),
    "bandit with unit": ("", "all"),
    "bandit with unit, 2 segments": (pack_values(_SEGMENTS).hex(), "all"),
}
"""Features of the decision, and the period within which a unit's values are one observation."""


def reward(number: int, context: str, period: str) -> Reward:
    now = time.time()
    return Reward(
        decision=int(now * 1e3).to_bytes(6, "big") + number.to_bytes(10, "big"),
        metric="m",
        value=float(number % 3 == 0),
        time=now,
        decided=now - 1.0,
        route="r",
        assigned=f"v{number % 2}",
        served=f"v{number % 2}",
        epoch=1,
        propensity=0.5,
        unit=number % 100,
        forced=False,
        context=context,
        period=period,
    )


async def measured(store: Store, kind: str, rewards: int, numbers: count[int]) -> tuple[float, float]:
    """Rewards a second, and microseconds of processor time for each."""
    context, period = KINDS[kind]
    written = [reward(next(numbers), context, period) for _ in range(rewards)]
    began, before = time.perf_counter(), time.process_time()
    for start in range(0, rewards, BATCH):
        await store.reward(written[start : start + BATCH])
    return rewards / (time.perf_counter() - began), 1e6 * (time.process_time() - before) / rewards


async def run(rewards: int, rounds: int, redis: str) -> None:
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    numbers = count(1)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(redis or f"sqlite:///{Path(folder) / 'record.db'}")
        await store.open()
        for _ in range(rounds):
            for kind, each in found.items():
                each.append(await measured(store, kind, rewards, numbers))
        await store.close()
    print(f"{'rewards':34}{'a second':>12}{'CPU, µs each':>14}")
    for kind, each in found.items():
        print(f"{kind:34}{median(r for r, _ in each):12,.0f}{median(c for _, c in each):14.1f}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="What covariates and segments cost where rewards are written."
    )
    parser.add_argument("--rewards", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--redis", default="", help="URL of an empty Redis, in place of SQLite")
    given = parser.parse_args(arguments)
    asyncio.run(run(given.rewards, given.rounds, given.redis))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
