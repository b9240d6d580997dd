"""The bake: a promoted candidate against what is held back at the same time, through the loop that acts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from gateway.state.sqlite import SqliteStore
from gateway.state.store import Store
from tests.loops.test_rollout_bandit import Rollout
from tests.support.made import outcome
from tests.support.one_route import canary, one_route

CONFIG = one_route(canary("{weight: 50%, for: 1h}", "metric: error_rate, max_ratio: 1.2"))


class Service(Rollout):
    """A gateway whose answers fail at given rates."""

    async def answer(self, rng: np.random.Generator, n: int, errors: dict[str, float]) -> None:
        held = self.allocations.held["r"]
        share = held.allocation.probability("v2")
        made = []
        for variant, count in zip(("v2", "v1"), rng.multinomial(n, [share, 1 - share]), strict=True):
            failed = rng.binomial(count, errors[variant])
            common = {"route": "r", "assigned": variant, "served": variant, "epoch": held.epoch}
            made += [
                outcome(**common, time=self.time, error="reset" if k < failed else "") for k in range(count)
            ]
        await self.store.append(made)
        await self.pass_time(20)


async def promoted(store: Store, rng: np.random.Generator) -> Service:
    """After a stage of 2,000 requests to each variant at 1 % errors."""
    one = Service(store, "one", CONFIG)
    await one.start()
    await one.answer(rng, 4_000, {"v1": 0.01, "v2": 0.01})
    await one.say("promote")
    assert (one.state, one.share) == ("promoted", 0.95)
    return one


async def test_a_worse_candidate_goes_back_during_the_bake(store: Store) -> None:
    rng = np.random.default_rng(1)
    one = await promoted(store, rng)
    for _ in range(3):
        await one.answer(rng, 2_000, {"v1": 0.01, "v2": 0.5})
    assert (one.state, one.share) == ("rolled_back", 0.0)


async def test_the_holdback_ends_with_the_bake(store: Store) -> None:
    one = await promoted(store, np.random.default_rng(2))
    await one.pass_time(3_600)
    assert (one.state, one.share) == ("promoted", 1.0)
    assert one.rollout.bake_until is None


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_rise_of_errors_that_hits_both_rolls_nothing_back(tmp_path: Path) -> None:
    runs, back = 16, 0
    for seed in range(runs):
        store = SqliteStore(tmp_path / f"{seed}.db")
        await store.open()
        rng = np.random.default_rng(seed)
        one = await promoted(store, rng)
        for _ in range(10):
            await one.answer(rng, 1_000, {"v1": 0.013, "v2": 0.013})
        back += one.state == "rolled_back"
        await store.close()
    assert back <= binom.isf(
        1e-4, runs, 0.05
    )  # against the rate before the promotion more than half went back
